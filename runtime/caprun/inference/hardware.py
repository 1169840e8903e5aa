"""The hardware of this machine: the processor, usable cores, and peak memory."""

import contextlib
import math
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
_FIRST_CORE = 16384  # enough characters for the first core; listing a hundred cores takes the system long
_FEATURES = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm", "bf16", "sve")
"""Instruction sets that make graphs fast, as /proc/cpuinfo names them."""


class Cpu(NamedTuple):
    """The processor, as far as it matters for speed."""

    name: str
    features: list[str]
    """Instruction sets that make graphs fast; empty if unknown."""


def cpu() -> Cpu:
    """Reads the processor's name and features from the system."""
    first: dict[str, str] = {}  # values of the first core
    with contextlib.suppress(OSError), (PROC / "cpuinfo").open(encoding="utf-8", errors="replace") as file:
        for line in file.read(_FIRST_CORE).splitlines():
            key, _, value = line.partition(":")
            first.setdefault(key.strip().lower(), value.strip())
    # the key is `flags` on x86 and `Features` on ARM
    flags = first.get("flags", first.get("features", "")).split()
    name = first.get("model name") or platform.processor() or platform.machine()
    return Cpu(name, [feature for feature in _FEATURES if feature in flags])


@dataclass(frozen=True)
class Cores:
    """Cores of the machine, and how many of them this process may use."""

    present: int
    allowed: int
    """Cores allowed by CPU affinity (`taskset`, a container's cpuset)."""
    quota: float | None
    """CPU time that the control group allows, in cores (`docker --cpus`); None if unlimited or unknown."""

    @property
    def usable(self) -> float:
        """The smaller of `allowed` and `quota`."""
        return min(self.allowed, self.quota or self.allowed)


def cores() -> Cores:
    """Reads the numbers of cores from the system."""
    present = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else present
    return Cores(present, allowed, _quota())


def threads_for_all_cores() -> int:
    """Computes how many threads keep every usable core busy."""
    return math.ceil(cores().usable)


def _quota() -> float | None:
    """Finds the tightest limit of this process's control group and its parents."""
    try:
        groups = (PROC / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    limits = []
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers:  # cgroup version 1
            continue
        # in a container the path may be the host's, while the group itself is mounted
        directory = CGROUP / path.lstrip("/")
        for place in (directory, *directory.parents):
            with contextlib.suppress(OSError, ValueError):  # `max` means no limit
                quota, period = (place / "cpu.max").read_text(encoding="ascii").split()
                limits.append(int(quota) / int(period))
    return min(limits, default=None)


def peak_memory() -> int | None:
    """Reads the peak memory of this process in bytes; None if unknown."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        # not ru_maxrss, which starts with the value of the parent process
        lines = (PROC / "self" / "status").read_text(encoding="utf-8").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
