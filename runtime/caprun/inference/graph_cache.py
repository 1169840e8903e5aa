"""Graphs as ONNX Runtime's optimiser leaves them, kept on disk: optimising takes longer than captioning a photo.

Nothing depends on it. What is missing, damaged or somebody else's is made anew; where nothing can be written, it is
made every time. An entry is found by the checksum of the graph it was made of and by all that the optimiser looks at,
so it is never out of date; and that graph is read and checked whenever a bundle is loaded, as it is without a cache.

What it withstands: a disk that returns other bytes than were written (CRC-32, over all of an entry, when it is found),
a process killed at any moment, an entry under another one's name, and other users of the machine, wherever they may
write (POSIX: owners and permissions of the entry, the directory and all directories above). What it does not: this user
and the administrator, who could change the program as well; a disk that errs after an entry was found; rights that the
permission bits do not tell of, as Windows and NFSv4 have them.
"""

import contextlib
import functools
import hashlib
import io
import os
import stat
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from caprun.bundle.file_access import CAUTIOUSLY
from caprun.inference.hardware import cpu

_FORMAT = 1  # of what is kept; to be raised where sessions get options that change what the optimiser does
_SUFFIX, _UNFINISHED = ".caprun-graph", ".caprun-unfinished"
_MOST_ENTRIES, _MOST_BYTES = 16, 500 * 2**20
_ABANDONED = 3600.0  # seconds after which a file that is being written is no longer
_DAY = 86400.0


def directory() -> Path | None:
    """Where entries are: `$CAPRUN_CACHE`, or `caprun` where the system keeps what can be made again.

    None where the variable is empty, or the user has no home.
    """
    chosen = os.environ.get("CAPRUN_CACHE")
    if chosen is not None:
        return Path(chosen) if chosen else None
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return Path(local, "caprun", "cache") if local else None
    with contextlib.suppress(RuntimeError):
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "caprun"
        given = Path(os.environ.get("XDG_CACHE_HOME", ""))
        return (given if given.is_absolute() else Path.home() / ".cache") / "caprun"
    return None


class Entry(NamedTuple):
    """The place of one graph."""

    directory: Path
    key: str
    """sha256, in hexadecimal."""

    @property
    def path(self) -> Path:
        """Its file, which may not be there."""
        return self.directory / (self.key + _SUFFIX)

    @property
    def _seal(self) -> bytes:
        """What the file ends with, before its checksum: a file that was given another's name is not taken for it."""
        return b"caprun" + bytes.fromhex(self.key)

    def find(self) -> Path | None:
        """Where the optimised graph is, if it is there and as it was written."""
        with contextlib.suppress(OSError):
            if not _is_private(self.directory):
                return None
            descriptor = os.open(self.path, os.O_RDONLY | CAUTIOUSLY)
            with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 - of what was opened cautiously
                info = os.fstat(descriptor)
                if not stat.S_ISREG(info.st_mode) or not _is_own(info):
                    return None
                if not self._is_sealed(file, info.st_size):
                    return None
                if time.time() - info.st_mtime > _DAY:
                    with contextlib.suppress(OSError):  # a disk that cannot be written needs no order of age
                        os.utime(self.path)
            return self.path
        return None

    def _is_sealed(self, file: io.FileIO, size: int) -> bool:
        length = size - len(self._seal) - _CHECKSUM
        checksum = _checksum(file, length)
        return length > 0 and file.read() == self._seal + checksum

    @contextlib.contextmanager
    def being_made(self) -> Iterator[Path]:
        """A path to write the optimised graph to, which becomes the entry.

        An error within leaves nothing behind, and is passed on; one of the disk afterwards leaves nothing, and is not.

        Raises:
            OSError: nothing can be written there.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_private(self.directory):
            raise PermissionError(f"others may write to {self.directory}")  # what is put there would never be taken
        descriptor, name = tempfile.mkstemp(prefix=self.key, suffix=_UNFINISHED, dir=self.directory)
        os.close(descriptor)
        path = Path(name)
        try:
            yield path
            with contextlib.suppress(OSError):
                with path.open("rb+", buffering=0) as file:
                    file.write(self._seal + _checksum(file, path.stat().st_size))
                path.replace(self.path)
                _forget_oldest(self.directory, self.path)
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def forget(self) -> None:
        """Remove it, as far as that can be done."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


def entry(sha256: str, version: str) -> Entry | None:
    """The place of a graph that is run on the CPU, optimised in full.

    Args:
        sha256: of the graph before it is optimised.
        version: of ONNX Runtime.
    """
    place = directory()
    if place is None:
        return None
    seen = (_FORMAT, sha256, version, _processor())
    # links followed once: what others could turn into another directory afterwards is looked at in `_is_private`
    place = Path(os.path.realpath(place))
    return Entry(place, hashlib.sha256(repr(seen).encode("utf-8", "surrogatepass")).hexdigest())


def set_to_keep(options: Any, path: Path) -> None:
    """Let a session with these options, which optimises its graph in full, write it to a path."""
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.save_model_format", "ORT")


def set_to_load(runtime: Any, options: Any) -> None:
    """Let a session with these options take a path from `Entry.find`.

    It is mapped into memory: weights that are looked at once, to be arranged for the processor, are never copied.
    """
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.load_model_format", "ORT")
    options.add_session_config_entry("session.use_memory_mapped_ort_model", "1")
    options.add_session_config_entry("session.use_ort_model_bytes_for_initializers", "1")


@functools.cache
def _processor() -> tuple[str, ...]:
    """What the optimiser arranges tensors for, and more."""
    processor = cpu()
    return processor.name, *sorted(name for name, there in (processor.features or {}).items() if there)


_CHECKSUM, _BLOCK = 4, 2**22


def _checksum(file: io.FileIO, length: int) -> bytes:
    """Of the next bytes: against damage, and fast; against somebody who means harm there are owner and permissions."""
    buffer, value = memoryview(bytearray(_BLOCK)), 0
    while length > 0 and (count := file.readinto(buffer[:length])):
        value = zlib.crc32(buffer[:count], value)
        length -= count
    return value.to_bytes(_CHECKSUM, "little")


def _is_own(info: os.stat_result) -> bool:
    """Whether nobody can have written there but this user, and whoever may do anything."""
    return not hasattr(os, "geteuid") or (info.st_uid in (os.geteuid(), 0) and not info.st_mode & 0o022)


def _is_private(place: Path) -> bool:
    """Whether nobody else can write to a directory, or put another in its place; it is a path without links."""
    return _is_own(place.lstat()) and all(_keeps_names(above.lstat()) for above in place.parents)


def _keeps_names(info: os.stat_result) -> bool:
    """Whether others cannot rename what this user, or whoever may do anything, has in a directory."""
    if not hasattr(os, "geteuid"):
        return True
    # many systems give each user a group of one's own, with the user's number, and let it write everywhere
    alone = info.st_mode & stat.S_IWGRP and info.st_gid == info.st_uid == os.geteuid()
    others = info.st_mode & (stat.S_IWOTH if alone else stat.S_IWOTH | stat.S_IWGRP)
    return info.st_uid in (os.geteuid(), 0) and (not others or bool(info.st_mode & stat.S_ISVTX))


def _forget_oldest(place: Path, newest: Path) -> None:
    """Keep the cache small: so many entries, so many bytes, and nothing that a killed process left unfinished."""
    now = time.time()
    entries = []
    for path in place.iterdir():
        with contextlib.suppress(OSError):  # another process may do the same
            if path.suffix == _SUFFIX and path != newest:
                entries.append((path.stat().st_mtime, path.stat().st_size, path))
            elif path.suffix == _UNFINISHED and now - path.stat().st_mtime > _ABANDONED:
                path.unlink()
    count, total = 1, newest.stat().st_size
    for _, size, path in sorted(entries, reverse=True):
        count, total = count + 1, total + size
        if count > _MOST_ENTRIES or total > _MOST_BYTES:
            with contextlib.suppress(OSError):
                path.unlink()
