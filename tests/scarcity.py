"""Full disks, limits on file sizes and read-only folders, all real."""

import contextlib
import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.platform != "win32":
    import resource


@contextlib.contextmanager
def small_disk(place: Path, size: int = 2**20) -> Iterator[Path]:
    """A disk of so many bytes, mounted in a new folder at `place`."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(place)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path, *, leave: int = 0) -> None:
    """Write a file `ballast` until so many bytes are left, and no more."""
    with contextlib.suppress(OSError), (disk / "ballast").open("ab", buffering=0) as file:
        while True:
            free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - leave
            if free <= 0:
                return
            file.write(bytes(min(free, 2**20)))


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file that this process writes grows beyond so many bytes: as on a full disk, the error is an OSError."""
    if sys.platform == "win32":
        pytest.skip("limits are those of POSIX")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    sys.stdout.flush()
    sys.stderr.flush()
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def obeying_permissions() -> Iterator[None]:
    """Permissions count, also where root runs the tests: this thread, and those it starts, may not pass over them."""
    if sys.platform == "win32":
        pytest.skip("permissions are those of POSIX")
    if os.geteuid() != 0:
        yield
        return
    if sys.platform != "linux":
        pytest.skip("root is above permissions here")
    before = _capabilities()
    try:
        _set_capabilities([before[0] & ~_PASSING_OVER, *before[1:]])
        yield
    finally:
        _set_capabilities(before)


_PASSING_OVER = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


def _header() -> ctypes.Array[ctypes.c_uint32]:
    return (ctypes.c_uint32 * 2)(0x20080522, 0)  # the third version, this thread


def _capabilities() -> list[int]:
    data = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None).capget(_header(), data):
        pytest.skip("no capabilities on this system")
    return list(data)


def _set_capabilities(values: list[int]) -> None:
    if ctypes.CDLL(None).capset(_header(), (ctypes.c_uint32 * 6)(*values)):
        raise OSError("capabilities cannot be set")
