"""Several worker processes act as one service: one address, one set of metrics and one shutdown."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from caprun.inference import hardware
from tests.caprun.server.support.serving import LONG, Serving, head, read_answers, serving, until
from tests.caprun.server.test_process import Load, begin, refuses

# Start and end, with workers that do nothing


SUPERVISED = """
import logging, os, signal, sys
from caprun.errors import CaprunError
from caprun.server import listening, metrics, workers
from caprun.server.placement import Placement
from caprun.server.settings import Settings

workers._RESTART_DELAY = 0.05
logging.basicConfig(format="%(message)s", level="INFO")
say = logging.info
gone = []
metrics.forget = gone.append

def work(placement, ready):
    if os.path.exists(sys.argv[1]):
        raise CaprunError(open(sys.argv[1]).read())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(int(sys.argv[2])) if sys.argv[2] != "never" else None)
    open(f"{sys.argv[1]}.{os.getpid()}", "w").close()
    ready(os.environ["CUDA_VISIBLE_DEVICES"])  # of the worker alone, which has taken its place
    while True:
        signal.pause()

def announce(served):
    say(f"serves {served}: " + " ".join(str(worker.process.pid) for worker in supervisor._workers))

listener = listening.bind("127.0.0.1", 0)
supervisor = workers.Supervisor(listener, [Placement(1, gpu="7")] * 2, work, Settings(drain=0))
code = supervisor.run(announce)
say(f"gone {len(gone)}")
sys.exit(code)
"""


class Supervised(Serving):
    """A supervisor of two workers that end with the given exit code on SIGTERM, or ignore it."""

    def __init__(self, broken: Path, code: object = 0) -> None:
        process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISED, str(broken), str(code)], stderr=subprocess.PIPE, text=True
        )
        super().__init__(process)
        self.broken = broken

    @property
    def workers(self) -> list[int]:
        return list(map(int, self.wait_for("serves 7: (.*)")[1].split()))

    def has_two_again(self, victim: int) -> bool:
        """Returns whether two workers run that both handle signals, and the victim is not one of them."""
        found = children(self)
        return len(found) == 2 and victim not in found and all(Path(f"{self.broken}.{pid}").exists() for pid in found)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """The path of a file that, if it exists, prevents workers from starting and holds the reason."""
    return tmp_path / "broken"


def test_all_workers_end_with_the_supervisor(broken: Path) -> None:
    supervised = Supervised(broken)
    workers = supervised.workers
    assert all(map(lives, workers))
    supervised.signal()
    assert supervised.ends() == 0
    assert not any(map(lives, workers))
    assert supervised.lines[1:] == [
        "SIGTERM: answering accepted requests for at most 20 s; send it again to end at once.",
        "gone 2",
    ]


def test_the_exit_code_is_1_if_a_worker_left_requests_unanswered(broken: Path) -> None:
    supervised = Supervised(broken, code=1)
    assert supervised.workers
    supervised.signal()
    assert supervised.ends() == 1


def test_a_worker_that_dies_is_restarted(broken: Path) -> None:
    supervised = Supervised(broken)
    victim = supervised.workers[0]
    os.kill(victim, signal.SIGKILL)
    supervised.wait_for(rf"Worker {victim} died of signal 9; starting another.")
    until(lambda: supervised.has_two_again(victim))
    supervised.signal()
    assert supervised.ends() == 0
    assert supervised.lines[-1] == "gone 3"


def test_a_worker_that_cannot_restart_is_retried_until_it_can(broken: Path) -> None:
    supervised = Supervised(broken)
    victim = supervised.workers[0]
    broken.write_text("The model is gone.")
    os.kill(victim, signal.SIGKILL)
    supervised.wait_for("a worker cannot start: The model is gone.")
    supervised.wait_for("with exit code 1; starting another.")
    broken.unlink()
    until(lambda: supervised.has_two_again(victim))
    supervised.signal()
    assert supervised.ends() == 0


def test_a_worker_that_cannot_start_ends_the_service_with_its_error(broken: Path) -> None:
    broken.write_text("The model is gone.")
    supervised = Supervised(broken)
    assert supervised.ends() == 1
    assert supervised.lines[-1] == "caprun.errors.CaprunError: The model is gone."


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_every_worker_at_once(broken: Path, number: signal.Signals, code: int) -> None:
    supervised = Supervised(broken, code="never")
    workers = supervised.workers
    supervised.signal(number)
    supervised.wait_for(number.name)
    supervised.signal(number)
    assert supervised.ends() == code
    assert not any(map(lives, workers))


def test_no_worker_outlives_its_parent(broken: Path) -> None:
    supervised = Supervised(broken)
    workers = supervised.workers
    supervised.signal(signal.SIGKILL)
    until(lambda: not any(map(lives, workers)))


# Workers that serve


two_cores = pytest.mark.skipif(hardware.cores().usable < 2, reason="two workers want two cores")


@pytest.fixture
def service(tiny: Path) -> Iterator[Serving]:
    with serving(tiny, "--workers", 2, "--drain", 0.1) as running:
        yield running


def children(service: Serving) -> set[int]:
    pid = service.process.pid
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()}


def lives(pid: int) -> bool:
    """Returns whether the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def metrics_folder(service: Serving) -> Path:
    worker = min(children(service))
    maps = Path(f"/proc/{worker}/maps").read_text(encoding="utf-8")
    match = re.search(r"(/\S*caprun-metrics-[^/]+)/", maps)
    assert match, maps
    return Path(match[1])


def count(service: Serving, name: str) -> float:
    text = service.get("/metrics").body.decode()
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if re.match(rf"{name}[ {{]", line))


@two_cores
def test_it_prints_one_line_with_its_address_and_number_of_workers(service: Serving) -> None:
    expected = f"Serving tiny (fp32 on cpu) at http://127.0.0.1:{service.port}, 2 workers; press Ctrl-C to stop."
    assert service.lines == [expected]
    assert len(children(service)) == 2


@two_cores
def test_every_worker_reports_the_sums_of_all_workers(service: Serving, photo: Path) -> None:
    clients = [service.connect() for _ in range(8)]
    for client in clients:
        body = photo.read_bytes()
        client.sendall(head("/v1/caption", "POST", f"Content-Length: {len(body)}") + body)
    assert [next(read_answers(client)).status for client in clients] == [200] * 8
    assert [count(service, "caprun_photos_total") for _ in range(6)] == [8] * 6


@two_cores
def test_a_killed_worker_is_restarted_and_its_counts_stay(service: Serving, photo: Path) -> None:
    for _ in range(4):
        assert service.post(photo.read_bytes()).status == 200
    before = children(service)
    victim, folder = min(before), metrics_folder(service)
    present = f"gauge_live*_{victim}.db"  # files in which prometheus_client keeps gauges of live processes
    assert list(folder.glob(present))
    os.kill(victim, signal.SIGKILL)
    service.wait_for(rf"Worker {victim} died of signal 9; starting another.")
    assert service.post(photo.read_bytes()).status == 200
    until(lambda: len(children(service)) == 2 and victim not in children(service))
    assert not list(folder.glob(present))
    assert count(service, "caprun_photos_total") == 5
    service.signal()
    assert service.ends() == 0


@two_cores
def test_sigterm_to_a_worker_restarts_it_and_the_service_keeps_serving(service: Serving, photo: Path) -> None:
    victim = min(children(service))
    os.kill(victim, signal.SIGTERM)
    service.wait_for(rf"Worker {victim} ended with exit code 0; starting another.")
    assert service.post(photo.read_bytes()).status == 200
    until(lambda: len(children(service)) == 2)
    service.signal()
    assert service.ends() == 0


@two_cores
def test_all_workers_end_after_accepted_requests_are_answered(service: Serving) -> None:
    workers, folder = children(service), metrics_folder(service)
    with begin(service) as asking:
        service.signal()
        until(lambda: refuses(service), "no more connections")
        asking.sendall(b"x" * 991)
        (last,) = read_answers(asking)
        assert (last.status, last.headers["connection"]) == (415, "close")
    assert service.ends() == 0
    assert service.lines[1:] == ["SIGTERM: answering accepted requests for at most 20 s; send it again to end at once."]
    assert not any(map(lives, workers))
    assert not folder.exists()


@two_cores
@pytest.mark.parametrize("to_all", [False, True])
def test_every_accepted_request_is_answered_under_load(tiny: Path, photo: Path, to_all: bool) -> None:
    with serving(tiny, "--workers", 2, "--drain", 0.1) as service:
        load = Load(service, photo.read_bytes(), clients=8)
        until(lambda: load.seen[200] > 20)
        workers = children(service)
        service.signal()
        for worker in workers if to_all else ():  # as systemd does, and then a second signal
            os.kill(worker, signal.SIGTERM)
            os.kill(worker, signal.SIGINT)
        code = service.ends()
        for thread in load.threads:
            thread.join(LONG)
        assert (load.wrong, code) == ([], 0)
        assert load.seen.keys() <= {200, 429}
