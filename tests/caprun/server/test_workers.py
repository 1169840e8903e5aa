"""Several processes are one service: one address, one count of what was done, one end."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from caprun.errors import UsageError
from caprun.inference import hardware
from caprun.server import places
from caprun.server.places import Place, divide
from tests.caprun.server.support.serving import LONG, Serving, command, head, read_answers, serving, until
from tests.caprun.server.test_process import Load, begin, refuses

if hardware.cores().usable < 2:
    pytest.skip("two workers want two cores", allow_module_level=True)


@pytest.fixture
def service(tiny: Path) -> Iterator[Serving]:
    with serving(tiny, "--workers", 2, "--drain", 0.3) as running:
        yield running


def children(service: Serving) -> set[int]:
    pid = service.process.pid
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()}


def lives(pid: int) -> bool:
    """Whether there is such a process, and not only what is left of it."""
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


def test_it_says_where_it_serves_when_all_workers_do(service: Serving) -> None:
    expected = f"tiny (fp32 on cpu) serves at http://127.0.0.1:{service.port}, 2 workers; Ctrl-C ends it."
    assert service.lines == [expected]
    assert len(children(service)) == 2


def test_each_worker_has_cores_of_its_own(service: Serving) -> None:
    mine = [os.sched_getaffinity(pid) for pid in children(service)]
    assert mine[0].isdisjoint(mine[1])
    assert mine[0] | mine[1] == os.sched_getaffinity(0)


def test_every_worker_counts_what_all_did(service: Serving, photo: Path) -> None:
    clients = [service.connect() for _ in range(8)]
    for client in clients:
        body = photo.read_bytes()
        client.sendall(head("/v1/caption", "POST", f"Content-Length: {len(body)}") + body)
    assert [next(read_answers(client)).status for client in clients] == [200] * 8
    assert [count(service, "caprun_photos_total") for _ in range(6)] == [8] * 6


def test_a_worker_that_is_killed_is_started_again_and_what_it_counted_stays(service: Serving, photo: Path) -> None:
    for _ in range(4):
        assert service.post(photo.read_bytes()).status == 200
    before = children(service)
    victim, folder = min(before), metrics_folder(service)
    present = f"gauge_live*_{victim}.db"  # what prometheus_client keeps of those that live
    assert list(folder.glob(present))
    os.kill(victim, signal.SIGKILL)
    service.wait_for(rf"Worker {victim} died of signal 9; another starts in 0.5 s")
    assert service.post(photo.read_bytes()).status == 200
    until(lambda: len(children(service)) == 2 and victim not in children(service))
    assert not list(folder.glob(present))
    assert count(service, "caprun_photos_total") == 5
    service.signal()
    assert service.ends() == 0


def test_a_worker_that_is_told_to_end_ends_alone(service: Serving, photo: Path) -> None:
    victim = min(children(service))
    os.kill(victim, signal.SIGTERM)
    service.wait_for(rf"Worker {victim} ended with exit code 0; another starts in 0.5 s")
    assert service.post(photo.read_bytes()).status == 200
    until(lambda: len(children(service)) == 2)
    service.signal()
    assert service.ends() == 0


def test_all_end_with_what_was_asked_answered(service: Serving) -> None:
    workers, folder = children(service), metrics_folder(service)
    with begin(service) as asking:
        service.signal()
        until(lambda: refuses(service), "no more connections")
        asking.sendall(b"x" * 990)
        (last,) = read_answers(asking)
        assert (last.status, last.headers["connection"]) == (415, "close")
    assert service.ends() == 0
    assert service.lines[1:] == ["SIGTERM: answering what was asked, for 20 s at most; again to end at once."]
    assert not any(map(lives, workers))
    assert not folder.exists()


@pytest.mark.parametrize("to_all", [False, True])
def test_under_load_every_request_that_was_accepted_is_answered(tiny: Path, photo: Path, to_all: bool) -> None:
    with serving(tiny, "--workers", 2, "--drain", 0.1) as service:
        load = Load(service, photo.read_bytes(), clients=8)
        until(lambda: load.seen[200] > 20)
        workers = children(service)
        service.signal()
        for worker in workers if to_all else ():  # as systemd does, and once more
            os.kill(worker, signal.SIGTERM)
            os.kill(worker, signal.SIGINT)
        code = service.ends()
        for thread in load.threads:
            thread.join(LONG)
        assert (load.wrong, code) == ([], 0)
        assert load.seen.keys() <= {200, 503, 429}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_all_now(service: Serving, number: signal.Signals, code: int) -> None:
    workers, folder = children(service), metrics_folder(service)
    with begin(service):
        until(lambda: service.get("/healthz").status == 200)
        service.signal(number)
        service.wait_for(number.name)
        service.signal(number)
        assert service.ends() == code
    assert not any(map(lives, workers))
    assert not folder.exists()
    assert len(service.lines) == 2


def test_what_is_not_answered_in_the_grace_period_is_answered_503_and_the_exit_code_says_so(tiny: Path) -> None:
    with serving(tiny, "--workers", 2, "--grace", 1, "--drain", 0.1) as service, begin(service) as asking:
        until(lambda: service.get("/healthz").status == 200)
        service.signal()
        (last,) = read_answers(asking)
        assert last.status == 503
        assert service.ends() == 1
        assert service.lines[2:] == ["Error: 1 request was not answered within 1 s."]


def test_no_worker_outlives_its_parent(service: Serving) -> None:
    workers, folder = children(service), metrics_folder(service)
    service.signal(signal.SIGKILL)
    service.process.wait(LONG)
    until(lambda: not any(map(lives, workers)))
    until(lambda: refuses(service))
    assert not folder.exists()


def test_a_worker_that_cannot_start_ends_the_whole_with_its_sentence(bundle: Path) -> None:
    (bundle / "vocab.json").write_text("[]", encoding="utf-8")
    done = subprocess.run(command(bundle, "--workers", 2), capture_output=True, text=True, timeout=LONG, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert "vocab.json" in line


def test_a_worker_that_cannot_start_again_is_tried_until_it_can(bundle: Path) -> None:
    with serving(bundle, "--workers", 2) as service:
        sound = (bundle / "vocab.json").read_bytes()
        (bundle / "vocab.json").write_text("[]", encoding="utf-8")
        os.kill(min(children(service)), signal.SIGKILL)
        service.wait_for("a worker cannot start: .*vocab.json")
        service.wait_for("another starts in 1 s")
        assert service.get("/readyz").status == 200
        (bundle / "vocab.json").write_bytes(sound)
        until(lambda: len(children(service)) == 2)


def test_idle_workers_use_hardly_any_processor_time(service: Serving) -> None:
    def ticks() -> int:  # hundredths of a second
        stats = [Path(f"/proc/{pid}/stat").read_text("utf-8") for pid in (service.process.pid, *children(service))]
        return sum(int(field) for stat in stats for field in stat.rpartition(")")[2].split()[11:13])

    before = ticks()
    time.sleep(2)
    assert ticks() - before <= 15


def machine(monkeypatch: pytest.MonkeyPatch, allowed: int, quota: float | None = None, *gpus: str) -> None:
    monkeypatch.setattr(places, "cores", lambda: hardware.Cores(64, allowed, quota))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(allowed)))
    monkeypatch.setattr(places, "gpus", lambda _: list(gpus))


def test_cores_are_divided_among_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 8)
    assert divide(1, None, "cpu") == [Place(8)]
    assert divide(2, None, "cpu") == [Place(4, (0, 1, 2, 3)), Place(4, (4, 5, 6, 7))]
    assert divide(3, 1, "cpu") == [Place(1, (0, 1)), Place(1, (2, 3, 4)), Place(1, (5, 6, 7))]


def test_time_that_is_limited_is_divided_and_cores_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 8, 2.5)
    assert divide(2, None, "cpu") == [Place(1), Place(1)]
    machine(monkeypatch, 8, 0.5)
    assert divide(1, None, "auto") == [Place(1)]


@pytest.mark.parametrize(("workers", "threads"), [(9, None), (3, 3), (1, 9)])
def test_more_threads_than_cores_are_refused(monkeypatch: pytest.MonkeyPatch, workers: int, threads: int) -> None:
    machine(monkeypatch, 8)
    with pytest.raises(UsageError, match=r"wants 9 cores, and 8 cores may be used here; lower --workers"):
        divide(workers, threads, "cpu")


def test_each_worker_has_a_gpu_where_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 8, None, "0", "GPU-abc")
    assert divide(2, None, "auto") == [Place(4, gpu="0"), Place(4, gpu="GPU-abc")]
    assert divide(2, None, "cpu") == [Place(4, (0, 1, 2, 3)), Place(4, (4, 5, 6, 7))]
    with pytest.raises(UsageError, match="--workers is 3 and there are 2 GPUs"):
        divide(3, None, "cuda")


@pytest.mark.parametrize(
    ("visible", "expected"), [("2,0", ["2", "0"]), ("", []), ("1,-1,2", ["1"]), (" a , b", ["a", "b"])]
)
def test_the_gpus_are_those_that_the_environment_shows(
    monkeypatch: pytest.MonkeyPatch, visible: str, expected: list[str]
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: "1.21")
    assert places.gpus({"CUDA_VISIBLE_DEVICES": visible}) == expected
