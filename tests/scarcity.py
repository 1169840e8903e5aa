"""Full disks, limits on file sizes, and enforced permissions, all without mocks."""

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
    """Mounts a disk of `size` bytes in a new folder at `place`."""
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
    """Writes a file `ballast` until `leave` bytes of the disk are free."""
    with contextlib.suppress(OSError), (disk / "ballast").open("ab", buffering=0) as file:
        while True:
            free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - leave
            if free <= 0:
                return
            file.write(bytes(min(free, 2**20)))


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Limits every file that this process writes to `size` bytes; as on a full disk, the error is an OSError."""
    if sys.platform == "win32":
        pytest.skip("file size limits need POSIX")
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
    """Enforces permissions even if root runs the tests, for this thread and the threads that it starts."""
    if sys.platform == "win32":
        pytest.skip("permissions need POSIX")
    if os.geteuid() != 0:
        yield
        return
    if sys.platform != "linux":
        pytest.skip("root ignores permissions here")
    before = _capabilities()
    try:
        _set_capabilities([before[0] & ~_PASSING_OVER, *before[1:]])
        yield
    finally:
        _set_capabilities(before)


_PASSING_OVER = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


def _header() -> ctypes.Array[ctypes.c_uint32]:
    return (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this thread


def _capabilities() -> list[int]:
    data = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None).capget(_header(), data):
        pytest.skip("this system has no capabilities")
    return list(data)


def _set_capabilities(values: list[int]) -> None:
    if ctypes.CDLL(None).capset(_header(), (ctypes.c_uint32 * 6)(*values)):
        raise OSError("The capabilities cannot be set.")
