"""The hardware of this machine: instruction sets that graphs profit from, usable cores, and peak memory."""

import contextlib
import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
_FIRST_CORE = 16384  # characters that describe the first core; the system takes long to write a hundred cores

# Names in /proc/cpuinfo on Linux, or last parts of a sysctl on macOS, both in lower case
_FEATURES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "x86": {
        "AVX2": ("avx2", "avx2_0"),
        "AVX512": ("avx512f",),
        "VNNI": ("avx512_vnni", "avx_vnni", "avx512vnni"),
        "BF16": ("avx512_bf16", "avx512bf16"),
        "AMX": ("amx_int8", "amx_bf16"),
    },
    "arm": {
        "NEON": ("asimd", "neon", "advsimd"),
        "dot product": ("asimddp", "feat_dotprod"),
        "I8MM": ("i8mm", "feat_i8mm"),
        "BF16": ("bf16", "feat_bf16"),
        "SVE": ("sve", "feat_sve"),
    },
}


@dataclass(frozen=True)
class Cpu:
    """The processor, as far as it matters for speed."""

    name: str
    features: Mapping[str, bool] | None
    """Instruction sets that make graphs fast, with whether the processor has them; None where unknown."""


def cpu() -> Cpu:
    """Asks the system about the processor; missing answers are unknown, never an error."""
    if sys.platform == "darwin":
        return _from_sysctl(_sysctl())
    with contextlib.suppress(OSError), (PROC / "cpuinfo").open(encoding="utf-8", errors="replace") as file:
        return _from_cpuinfo(file.read(_FIRST_CORE))
    return Cpu(platform.processor() or platform.machine(), None)


def _from_cpuinfo(text: str) -> Cpu:
    first: dict[str, str] = {}  # values of the first core
    for line in text.splitlines():
        key, _, value = line.partition(":")
        first.setdefault(key.strip().lower(), value.strip())
    name = first.get("model name") or platform.processor() or platform.machine()
    # the key is `flags` on x86 and `Features` on ARM
    return Cpu(name, _known(first.get("flags", first.get("features", "")).split()))


def _from_sysctl(text: str) -> Cpu:
    name, flags = platform.machine(), list[str]()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        value = value.strip()
        if key == "machdep.cpu.brand_string":
            name = value
        elif key in ("machdep.cpu.features", "machdep.cpu.leaf7_features"):
            flags += value.split()
        elif key.startswith("hw.optional.") and value == "1":
            flags.append(key.rpartition(".")[2])
    return Cpu(name, _known(flags))


def _sysctl() -> str:
    command = ["/usr/sbin/sysctl", "machdep.cpu", "hw.optional"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)  # noqa: S603
        return done.stdout
    return ""


def _known(flags: list[str]) -> Mapping[str, bool] | None:
    """Looks for the features that matter among the flags; None without flags."""
    if not flags:
        return None
    found = {flag.lower() for flag in flags}
    arm = platform.machine().lower().startswith(("arm", "aarch"))
    return {name: not found.isdisjoint(names) for name, names in _FEATURES["arm" if arm else "x86"].items()}


@dataclass(frozen=True)
class Cores:
    """Cores of the machine, and how many of them this process may use."""

    present: int
    allowed: int
    """Cores allowed by CPU affinity (`taskset`, a container's cpuset)."""
    quota: float | None
    """Cores' worth of time that the control group allows (`docker --cpus`); None without a limit or where unknown."""

    @property
    def usable(self) -> float:
        """The smallest of these numbers."""
        return min(self.allowed, self.quota or self.allowed)


def cores() -> Cores:
    """Asks the system about the cores."""
    present = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else present
    return Cores(present, allowed, _quota())


def threads_for_all_cores() -> int:
    """Computes how many threads keep every usable core busy."""
    return math.ceil(cores().usable)


def _quota() -> float | None:
    """Finds the tightest limit of this process's control group and its parents."""
    limits = []
    try:
        groups = (PROC / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if not controllers:
            base, files = CGROUP, ["cpu.max"]
        elif "cpu" in controllers.split(","):
            base, files = CGROUP / "cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        # in a container the path may be that of the host, while the group itself is mounted
        directory = base / path.lstrip("/")
        places = {base, *(place for place in (directory, *directory.parents) if place.is_relative_to(base))}
        limits += [limit for place in places if (limit := _limit(place, files)) is not None]
    return min(limits, default=None)


def _limit(group: Path, files: list[str]) -> float | None:
    try:
        quota, period = " ".join((group / file).read_text(encoding="ascii") for file in files).split()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # `max` and -1 mean no limit
        return None


def peak_memory() -> int | None:
    """Reads the peak memory of this process in bytes; None where the system does not tell."""
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
