"""The service under load, on loopback: capacity, a long steady load, too much load, and being stopped in the middle.

    python bench/serve.py --photos DIR                         # throughput against the folder run, and capacity
    python bench/serve.py --photos DIR --steady 600            # seconds at 0.8 of capacity: errors, p99 / p50, memory
    python bench/serve.py --photos DIR --overload 120          # seconds at 5 times capacity: refusals, the queue
    python bench/serve.py --photos DIR --stops 20              # SIGTERM under load: what became of the requests

Photos are sent as they are in their files. The service is `caprun serve` in a process of its own; the clients share the
machine's cores with it, and all that they take is lost to it. Options after `--` are passed on to the service.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from load import LOST, REFUSED, Seen, closed_loop, open_loop, request

CLIENTS = (1, 2, 4, 8, 16, 32, 64)


class Service:
    """A running `caprun serve`."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.port = process, port

    def get(self, path: str) -> str:
        """The body of a GET."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return str(answer.read().decode())

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", self.get("/metrics"), re.MULTILINE)
        return sum(map(float, found))

    def memory(self) -> float:
        """MB resident, of the service and its workers."""
        pids = [self.process.pid, *_children(self.process.pid)]
        return sum(_resident(pid) for pid in pids)


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(found) for found in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    return []


def _resident(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1]) / 1e3


@contextlib.contextmanager
def service(options: list[str]) -> Iterator[Service]:
    """Start a service on a free port, and stop it."""
    command = [sys.executable, "-m", "caprun", "serve", "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    try:
        said = ""
        for line in process.stderr:
            said += line
            if found := re.search(r"http://[^ ]*:(\d+)", line):
                # what it says later is read, or it would wait for that some day
                threading.Thread(target=process.stderr.read, daemon=True).start()
                yield Service(process, int(found[1]))
                return
        raise SystemExit(f"The service did not start: {said}")
    finally:
        process.terminate()
        process.wait(60)


def folder_rate(photos: Path, count: int) -> float:
    """Photos a second of the folder run, its model loaded already."""
    command = [sys.executable, str(Path(__file__).with_name("folder.py")), "--photos", str(photos)]
    done = subprocess.run([*command, "--count", str(count)], capture_output=True, text=True, check=True)
    return 1000 / float(json.loads(done.stdout)["wall"])


def load(port: int, requests: list[bytes], clients: int, seconds: float) -> Seen:
    """A closed loop for so many seconds."""
    end = time.perf_counter() + seconds
    return asyncio.run(closed_loop(port, requests, clients, lambda: time.perf_counter() < end))


def throughput(arguments: argparse.Namespace, requests: list[bytes]) -> None:
    """Print what the service does beside what the folder run does, by turns."""
    with service(arguments.options) as served:
        load(served.port, requests, 16, 3)  # warm-up
        ratios = []
        for _ in range(arguments.rounds):
            folder = folder_rate(arguments.photos, 600)
            before = served.metric("caprun_batch_size_sum"), served.metric("caprun_batch_size_count")
            http = load(served.port, requests, 16, arguments.seconds)
            after = served.metric("caprun_batch_size_sum"), served.metric("caprun_batch_size_count")
            size = (after[0] - before[0]) / (after[1] - before[1])
            ratios.append(http.rate / folder)
            print(f"service {http.rate:.1f}/s in batches of {size:.1f}, folder run {folder:.1f}/s: {ratios[-1]:.2f}")
        print(f"service / folder run: {statistics.median(ratios):.2f} (median of {arguments.rounds} rounds)\n")
        print("| clients | photos/s | p50, ms | p95, ms | p99, ms |\n| --- | --- | --- | --- | --- |")
        for clients in CLIENTS:
            seen = load(served.port, requests, clients, arguments.seconds)
            p50, p95, p99 = (seen.percentile(percent) for percent in (50, 95, 99))
            print(f"| {clients} | {seen.rate:.1f} | {p50:.1f} | {p95:.1f} | {p99:.1f} |", flush=True)
            _complain(seen, {200})


def _complain(seen: Seen, allowed: set[int]) -> None:
    if strange := {status: count for status, count in seen.statuses.items() if status not in allowed}:
        print(f"  other answers: {strange}")


def capacity(port: int, requests: list[bytes]) -> float:
    """Photos a second that the service does when asked for as many as it can."""
    load(port, requests, 16, 3)  # warm-up
    return statistics.median(load(port, requests, 16, 8).rate for _ in range(3))


def steady(arguments: argparse.Namespace, requests: list[bytes]) -> None:
    """Print what became of a long load of 0.8 of capacity."""
    with service(arguments.options) as served:
        rate = 0.8 * capacity(served.port, requests)
        memory: list[float] = []
        seen = asyncio.run(
            open_loop(served.port, requests, rate, arguments.steady, every=lambda _: memory.append(served.memory()))
        )
        p50, p99 = seen.percentile(50), seen.percentile(99)
        print(f"{arguments.steady:.0f} s at {rate:.1f}/s: {dict(seen.statuses)}, {seen.rate:.1f}/s")
        print(f"p50 {p50:.1f} ms, p95 {seen.percentile(95):.1f} ms, p99 {p99:.1f} ms: p99 / p50 {p99 / p50:.2f}")
        # of the first and the last tenth, without what is there before all threads have worked
        tenth = max(1, len(memory) // 10)
        first, last = statistics.median(memory[tenth : 2 * tenth]), statistics.median(memory[-tenth:])
        print(f"memory {first:.0f} MB, at the end {last:.0f} MB ({100 * (last / first - 1):+.1f}%)")


def overload(arguments: argparse.Namespace, requests: list[bytes]) -> None:
    """Print what became of 5 times as many requests as the service can answer."""
    with service(arguments.options) as served:
        rate = 5 * capacity(served.port, requests)
        limit = json.loads(served.get("/v1/model"))["limits"]["queue"]
        queued: list[float] = []
        # asked by a thread: a client of its own, which notices when it has to wait
        poll = lambda _: asyncio.get_running_loop().run_in_executor(None, _poll, served, queued)  # noqa: E731
        seen = asyncio.run(open_loop(served.port, requests, rate, arguments.overload, every=poll))
        print(f"{arguments.overload:.0f} s at {rate:.1f}/s: {dict(seen.statuses)}, {seen.rate:.1f} captions/s")
        for status in (429, 200):
            p50, p99, most = (seen.percentile(percent, status) for percent in (50, 99, 100))
            print(f"{status}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {most:.1f} ms")
        print(f"queue: at most {max(queued):.0f} of {limit}, looked at {len(queued)} times")


def _poll(served: Service, queued: list[float]) -> None:
    queued.append(served.metric("caprun_queue_length"))


def stops(arguments: argparse.Namespace, requests: list[bytes]) -> None:
    """Print what became of requests when the service was stopped in the middle."""
    draw, total, codes = random.Random(0), Seen(), list[int]()
    for _ in range(arguments.stops):
        with service(arguments.options) as served:
            seen = asyncio.run(_stopped(served, requests, draw.uniform(0.5, 1.5)))
            codes.append(served.process.wait(60))
        for status, times in seen.seconds.items():
            total.seconds.setdefault(status, []).extend(times)
    named = {REFUSED: "refused to connect", LOST: "lost"}
    counts = {named.get(status, status): count for status, count in sorted(total.statuses.items())}
    print(f"{arguments.stops} times SIGTERM under the load of 16 clients: {counts}, exit codes {sorted(set(codes))}")


async def _stopped(served: Service, requests: list[bytes], after: float) -> Seen:
    loop = asyncio.get_running_loop()
    loop.call_later(after, served.process.send_signal, signal.SIGTERM)
    return await closed_loop(served.port, requests, 16, lambda: True)


def main() -> None:
    """Measure."""
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of JPEG photos")
    parser.add_argument("--rounds", type=int, default=5, help="of throughput")
    parser.add_argument("--seconds", type=float, default=8, help="each load of throughput and capacity")
    for name in ("steady", "overload"):
        parser.add_argument(f"--{name}", type=float, metavar="SECONDS")
    parser.add_argument("--stops", type=int, metavar="TIMES")
    known: Any = parser.parse_args(arguments[:split])
    known.options = arguments[split + 1 :]
    requests = [request(path.read_bytes()) for path in sorted(known.photos.glob("*.jpg"))]
    chosen = [name for name in ("steady", "overload", "stops") if getattr(known, name)]
    for name in chosen or ["throughput"]:
        {"steady": steady, "overload": overload, "stops": stops, "throughput": throughput}[name](known, requests)


if __name__ == "__main__":
    main()
