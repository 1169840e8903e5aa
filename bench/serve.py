"""Measures the HTTP service under load, on loopback.

    python bench/serve.py --photos DIR                         # throughput against the folder run, by number of clients
    python bench/serve.py --photos DIR --steady 600            # 600 s at 0.8 of capacity: errors, p99 / p50, memory
    python bench/serve.py --photos DIR --overload 120          # 120 s at 5 times capacity: refusals, queue length
    python bench/serve.py --photos DIR --stops 20              # SIGTERM under load, 20 times: outcomes of requests

`caprun serve` runs in a separate process. The clients send the files unchanged and share the machine's cores with the
service, so the service can do slightly more than these figures show. Options after `--` are passed to `caprun serve`.
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

from harness.command_line import command_line, jpeg_files, machine
from harness.load import LOST, REFUSED, Outcomes, closed_loop, open_loop, request
from harness.tables import header, row

CLIENTS = (1, 2, 4, 8, 16, 32, 64)
BUSY = 16  # clients that keep the service at capacity


class Service:
    """A running `caprun serve`."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.port = process, port

    def get(self, path: str) -> str:
        """Returns the body of a GET."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return str(answer.read().decode())

    def metric(self, name: str) -> float:
        """Returns the sum of a metric over its labels."""
        found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", self.get("/metrics"), re.MULTILINE)
        return sum(map(float, found))

    def memory(self) -> float:
        """Returns the resident memory of the service and its workers in MB."""
        pids = [self.process.pid, *_children(self.process.pid)]
        return sum(_resident(pid) for pid in pids)


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(found) for found in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    return []


def _resident(pid: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1e3
    return 0.0  # the process has ended since it was listed


@contextlib.contextmanager
def service(options: list[str]) -> Iterator[Service]:
    """Starts a service on a free port, and stops it at the end."""
    command = [sys.executable, "-m", "caprun", "serve", "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    try:
        log = ""
        for line in process.stderr:
            log += line
            if found := re.search(r"http://[^ ]*:(\d+)", line):
                # a full pipe would block the service, so a thread reads the rest of its log
                threading.Thread(target=process.stderr.read, daemon=True).start()
                yield Service(process, int(found[1]))
                return
        raise SystemExit(f"Error: The service did not start: {log.strip()}")
    finally:
        process.terminate()
        process.wait(60)


def folder_rate(photos: Path, count: int) -> float:
    """Returns the photos per second of a folder run, without loading the model."""
    command = [sys.executable, str(Path(__file__).with_name("folder.py")), "--photos", str(photos)]
    done = subprocess.run([*command, "--count", str(count)], capture_output=True, text=True, check=True)
    return 1000 / float(json.loads(done.stdout)["wall"])


def load(port: int, requests: list[bytes], clients: int, seconds: float) -> Outcomes:
    """Runs a closed loop for a number of seconds."""
    end = time.perf_counter() + seconds
    return asyncio.run(closed_loop(port, requests, clients, lambda: time.perf_counter() < end))


def throughput(arguments: argparse.Namespace, requests: list[bytes]) -> None:
    """Prints the throughput against the folder run, in turns, and the response times by number of clients."""
    with service(arguments.options) as served:
        load(served.port, requests, BUSY, 3)  # warm-up
        ratios = []
        for _ in range(arguments.rounds):
            folder = folder_rate(arguments.photos, 600)
            before = served.metric("caprun_batch_size_sum"), served.metric("caprun_batch_size_count")
            http = load(served.port, requests, BUSY, arguments.seconds)
            after = served.metric("caprun_batch_size_sum"), served.metric("caprun_batch_size_count")
            size = (after[0] - before[0]) / (after[1] - before[1])
            ratios.append(http.rate / folder)
            print(f"service {http.rate:.1f}/s in batches of {size:.1f}, folder run {folder:.1f}/s: {ratios[-1]:.2f}")
        print(f"service / folder run: {statistics.median(ratios):.2f} (median of {arguments.rounds} rounds)\n")
        print(header("clients", "photos/s", "p50, ms", "p95, ms", "p99, ms"))
        for clients in CLIENTS:
            outcomes = load(served.port, requests, clients, arguments.seconds)
            times = [f"{outcomes.percentile(percent):.1f}" for percent in (50, 95, 99)]
            print(row(clients, f"{outcomes.rate:.1f}", *times), flush=True)
            if other := {status: count for status, count in outcomes.statuses.items() if status != 200}:
                print(f"  other answers: {other}")


def capacity(port: int, requests: list[bytes]) -> float:
    """Measures the captions per second of a service that always has work."""
    load(port, requests, BUSY, 3)  # warm-up
    return statistics.median(load(port, requests, BUSY, 8).rate for _ in range(3))


def steady(arguments: argparse.Namespace, requests: list[bytes]) -> None:
    """Prints the outcomes of a long load at 0.8 times the capacity, and the growth of memory."""
    with service(arguments.options) as served:
        rate = 0.8 * capacity(served.port, requests)
        memory: list[float] = []
        every_second = lambda: memory.append(served.memory())  # noqa: E731
        outcomes = asyncio.run(open_loop(served.port, requests, rate, arguments.steady, every_second=every_second))
        p50, p95, p99 = (outcomes.percentile(percent) for percent in (50, 95, 99))
        print(f"{arguments.steady:.0f} s at {rate:.1f}/s: {dict(outcomes.statuses)}, {outcomes.rate:.1f}/s")
        print(f"p50 {p50:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms: p99 / p50 {p99 / p50:.2f}")
        # the second and the last tenth: memory grows until every thread has worked
        tenth = max(1, len(memory) // 10)
        first, last = statistics.median(memory[tenth : 2 * tenth]), statistics.median(memory[-tenth:])
        print(f"memory {first:.0f} MB, at the end {last:.0f} MB ({100 * (last / first - 1):+.1f}%)")


def overload(arguments: argparse.Namespace, requests: list[bytes]) -> None:
    """Prints the outcomes of a load at 5 times capacity, and the length of the queue."""
    with service(arguments.options) as served:
        rate = 5 * capacity(served.port, requests)
        limit = json.loads(served.get("/v1/model"))["limits"]["queue"]
        lengths: list[float] = []
        # a thread asks, so that a slow answer does not hold up the load
        every_second = lambda: asyncio.get_running_loop().run_in_executor(  # noqa: E731
            None, lambda: lengths.append(served.metric("caprun_queue_length"))
        )
        outcomes = asyncio.run(open_loop(served.port, requests, rate, arguments.overload, every_second=every_second))
        print(f"{arguments.overload:.0f} s at {rate:.1f}/s: {dict(outcomes.statuses)}, {outcomes.rate:.1f} captions/s")
        for status in (429, 200):
            p50, p99, longest = (outcomes.percentile(percent, status) for percent in (50, 99, 100))
            print(f"{status}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {longest:.1f} ms")
        print(f"queue: at most {max(lengths):.0f} of {limit} in {len(lengths)} samples")


def stops(arguments: argparse.Namespace, requests: list[bytes]) -> None:
    """Prints the outcomes of requests to a service that receives SIGTERM under load."""
    draw, total, codes = random.Random(0), Outcomes(), list[int]()
    for _ in range(arguments.stops):
        with service(arguments.options) as served:
            outcomes = asyncio.run(_stopped(served, requests, draw.uniform(0.5, 1.5)))
            codes.append(served.process.wait(60))
        for status, times in outcomes.seconds.items():
            total.seconds.setdefault(status, []).extend(times)
    names = {REFUSED: "connection refused", LOST: "lost"}
    counts = {names.get(status, status): count for status, count in sorted(total.statuses.items())}
    print(f"{arguments.stops} times SIGTERM under {BUSY} clients: {counts}, exit codes {sorted(set(codes))}")


async def _stopped(served: Service, requests: list[bytes], after: float) -> Outcomes:
    loop = asyncio.get_running_loop()
    loop.call_later(after, served.process.send_signal, signal.SIGTERM)
    return await closed_loop(served.port, requests, BUSY, lambda: True)


def main() -> None:
    """Runs the loads that the command line names."""
    given = sys.argv[1:]
    split = given.index("--") if "--" in given else len(given)
    parser = command_line(__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="Folder of .jpg files.")
    parser.add_argument("--rounds", type=int, default=5, help="Rounds against the folder run.  [default: 5]")
    parser.add_argument("--seconds", type=float, default=8, help="Duration of each throughput load.  [default: 8]")
    parser.add_argument("--steady", type=float, metavar="SECONDS", help="Duration of a load at 0.8 times the capacity.")
    parser.add_argument("--overload", type=float, metavar="SECONDS", help="Duration of a load at 5 times the capacity.")
    parser.add_argument("--stops", type=int, metavar="TIMES", help="Number of services to stop under load.")
    arguments = parser.parse_args(given[:split])
    arguments.options = given[split + 1 :]
    requests = [request(path.read_bytes()) for path in jpeg_files(parser, arguments.photos)]
    print(f"{machine(['onnxruntime'])}\n")
    loads = {"steady": steady, "overload": overload, "stops": stops}
    for run in [loads[name] for name in loads if getattr(arguments, name)] or [throughput]:
        run(arguments, requests)


if __name__ == "__main__":
    main()
