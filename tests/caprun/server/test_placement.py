"""Cores and GPUs are divided among workers."""

import os

import pytest

from caprun.errors import UsageError
from caprun.inference import hardware
from caprun.server import placement
from caprun.server.placement import Placement, divide


def machine(monkeypatch: pytest.MonkeyPatch, allowed: int, quota: float | None = None, *gpus: str) -> None:
    monkeypatch.setattr(placement, "cores", lambda: hardware.Cores(64, allowed, quota))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(allowed)))
    monkeypatch.setattr(placement, "gpus", lambda _: list(gpus))


def test_cores_are_divided_among_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 8)
    assert divide(1, None, "cpu") == [Placement(8)]
    assert divide(2, None, "cpu") == [Placement(4, (0, 1, 2, 3)), Placement(4, (4, 5, 6, 7))]
    assert divide(3, 1, "cpu") == [Placement(1, (0, 1)), Placement(1, (2, 3, 4)), Placement(1, (5, 6, 7))]


def test_take_sets_the_cores_or_the_gpu_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[object] = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: taken.append(cores), raising=False)
    monkeypatch.setattr(placement.sys, "platform", "linux")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    Placement(2, (4, 5)).take()
    assert (taken, os.environ["CUDA_VISIBLE_DEVICES"]) == ([(4, 5)], "0,1")
    Placement(1, gpu="1").take()
    assert (taken, os.environ["CUDA_VISIBLE_DEVICES"]) == ([(4, 5)], "1")


def test_a_cpu_quota_is_divided_without_assigning_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 8, 2.5)
    assert divide(2, None, "cpu") == [Placement(1), Placement(1)]
    machine(monkeypatch, 8, 0.5)
    assert divide(1, None, "auto") == [Placement(1)]


@pytest.mark.parametrize(("workers", "threads"), [(9, None), (3, 3), (1, 9)])
def test_more_threads_than_cores_are_refused(monkeypatch: pytest.MonkeyPatch, workers: int, threads: int) -> None:
    machine(monkeypatch, 8)
    with pytest.raises(UsageError, match=r"needs 9 cores, but only 8 cores can be used here; lower --workers"):
        divide(workers, threads, "cpu")


def test_each_worker_has_its_own_gpu_unless_the_device_is_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 8, None, "0", "GPU-abc")
    assert divide(2, None, "auto") == [Placement(4, gpu="0"), Placement(4, gpu="GPU-abc")]
    assert divide(2, None, "cpu") == [Placement(4, (0, 1, 2, 3)), Placement(4, (4, 5, 6, 7))]
    with pytest.raises(UsageError, match="--workers is 3, but there are 2 GPUs"):
        divide(3, None, "cuda")


@pytest.mark.parametrize(
    ("visible", "expected"), [("2,0", ["2", "0"]), ("", []), ("1,-1,2", ["1"]), (" a , b", ["a", "b"])]
)
def test_the_gpus_are_read_from_cuda_visible_devices(
    monkeypatch: pytest.MonkeyPatch, visible: str, expected: list[str]
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: "1.21")
    assert placement.gpus({"CUDA_VISIBLE_DEVICES": visible}) == expected
