"""Assigns a GPU or a set of cores to each process of a service."""

import contextlib
import importlib.metadata
import itertools
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from caprun.errors import UsageError
from caprun.inference.hardware import Cores, cores

_DRIVER = Path("/proc/driver/nvidia/gpus")
_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Placement:
    """The threads, cores and GPU of one process."""

    threads: int
    """CPU threads."""
    cores: tuple[int, ...] | None = None
    """The cores it may use; None for any."""
    gpu: str | None = None
    """The GPU it may use, by CUDA number or name; None for any."""

    def take(self) -> None:
        """Applies the placement to this process; call it before importing anything that computes."""
        if self.gpu is not None:
            os.environ[_VISIBLE] = self.gpu
        if self.cores is not None and sys.platform == "linux":
            os.sched_setaffinity(0, self.cores)


def divide(workers: int, threads: int | None, device: str) -> list[Placement]:
    """Divides the machine among processes, each with `threads` CPU threads or an equal share of the cores.

    Raises:
        UsageError: There are not enough cores or GPUs.
    """
    found = cores()
    usable = max(1, int(found.usable))
    each = threads or max(1, usable // workers)
    visible = gpus(os.environ) if device != "cpu" and workers > 1 else []
    if workers * each > usable and not (visible and threads is None):
        share = f" with {threads} {'thread' if threads == 1 else 'threads'} each" if threads else ""
        many = "1 core" if usable == 1 else f"{usable} cores"
        raise UsageError(
            f"--workers {workers}{share} needs {workers * each} cores, but only {many} can be used here; lower "
            f"{'--workers or --threads' if threads else '--workers'}."
        )
    if visible:
        if workers > len(visible):
            raise UsageError(
                f"--workers is {workers}, but there {'is 1 GPU' if len(visible) == 1 else f'are {len(visible)} GPUs'}, "
                "and each worker needs its own; lower --workers, or use --device cpu."
            )
        return [Placement(each, gpu=gpu) for gpu in visible[:workers]]
    return [Placement(each, mine) for mine in _shares(found, workers)]


def _shares(found: Cores, workers: int) -> Sequence[tuple[int, ...] | None]:
    """Returns neighbouring cores for each worker; None for any cores under a CPU quota, as others may use the same."""
    limited = found.quota is not None and found.quota < found.allowed
    if workers == 1 or limited or not hasattr(os, "sched_getaffinity"):
        return [None] * workers
    allowed = sorted(os.sched_getaffinity(0))
    ends = [len(allowed) * number // workers for number in range(workers + 1)]
    return [tuple(allowed[start:end]) for start, end in itertools.pairwise(ends)]


def gpus(environment: Mapping[str, str]) -> list[str]:
    """Lists the GPUs that a process with this environment can use; empty if ONNX Runtime cannot use GPUs."""
    try:
        importlib.metadata.version("onnxruntime-gpu")
    except importlib.metadata.PackageNotFoundError:
        return []
    if (chosen := environment.get(_VISIBLE)) is not None:
        named = [name.strip() for name in chosen.split(",")]
        return named[: named.index("-1")] if "-1" in named else [name for name in named if name]
    with contextlib.suppress(OSError):
        return [str(number) for number, _ in enumerate(_DRIVER.iterdir())]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True)  # noqa: S607
        return [str(number) for number, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]
    return []
