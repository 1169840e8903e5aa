"""What this machine has for us: instruction sets that decide how fast a graph runs, cores, and memory used so far."""

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
_FIRST_CORE = 16384  # characters that say all of a core; the system takes its time to write the hundredth

# What it is called in /proc/cpuinfo on Linux, or as the last part of a sysctl on macOS, both in lower case
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
    """The processor as far as it matters here."""

    name: str
    features: Mapping[str, bool] | None
    """Whether it has what makes graphs fast: AVX2 (floats), VNNI or dot product (int8), ...; None where unknown."""


def cpu() -> Cpu:
    """Ask the system; what it does not say is unknown, never an error."""
    if sys.platform == "darwin":
        return _from_sysctl(_sysctl())
    with contextlib.suppress(OSError), (PROC / "cpuinfo").open(encoding="utf-8", errors="replace") as file:
        return _from_cpuinfo(file.read(_FIRST_CORE))
    return Cpu(platform.processor() or platform.machine(), None)


def _from_cpuinfo(text: str) -> Cpu:
    first: dict[str, str] = {}  # of what is said of every core, what is said of the first
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
    """Which of the features that matter are among the flags; None where there are no flags to look among."""
    if not flags:
        return None
    found = {flag.lower() for flag in flags}
    arm = platform.machine().lower().startswith(("arm", "aarch"))
    return {name: not found.isdisjoint(names) for name, names in _FEATURES["arm" if arm else "x86"].items()}


@dataclass(frozen=True)
class Cores:
    """How much of the machine's processor this process may use."""

    present: int
    allowed: int
    """By CPU affinity (`taskset`, a container's cpuset)."""
    quota: float | None
    """Cores' worth of time that its control group may have (`docker --cpus`); None for no limit or where unknown."""

    @property
    def usable(self) -> float:
        """The least of these."""
        return min(self.allowed, self.quota or self.allowed)


def cores() -> Cores:
    """Ask the system; see `Cores`."""
    present = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else present
    return Cores(present, allowed, _quota())


def threads_for_all_cores() -> int:
    """Returns how many threads keep every core busy that this process may use."""
    return math.ceil(cores().usable)


def _quota() -> float | None:
    """The tightest limit of this process's control group and those around it."""
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
        # in a container the path may be the host's, and what is mounted is the group itself
        directory = base / path.lstrip("/")
        places = {base, *(place for place in (directory, *directory.parents) if place.is_relative_to(base))}
        limits += [limit for place in places if (limit := _limit(place, files)) is not None]
    return min(limits, default=None)


def _limit(group: Path, files: list[str]) -> float | None:
    try:
        quota, period = " ".join((group / file).read_text(encoding="ascii") for file in files).split()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # `max` is no limit; so is -1
        return None


def peak_memory() -> int | None:
    """Most bytes of memory this process has had so far; None where the system does not say."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        # not ru_maxrss, which begins with that of the process which started this one
        lines = (PROC / "self" / "status").read_text(encoding="utf-8").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
