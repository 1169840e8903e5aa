"""Writes a file completely or not at all: after a full disk, a kill or a power cut, the previous file is unchanged."""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_NAMED_AFTER = 40  # characters of the name that the temporary name keeps; a name has at most 255 bytes
_NOT_THERE = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # errors of file systems that cannot flush


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Opens a file beside `path` that is flushed to the disk and replaces `path` when the block ends without error.

    If `path` is a link, its target is replaced; a pipe or a device is written directly. The file can also be read, and
    gets the permissions of the previous one.

    Raises:
        OSError: The file cannot be written; no file is left beside it.
    """
    before = None
    with contextlib.suppress(FileNotFoundError):
        before = path.stat()
    if before is not None and not stat.S_ISREG(before.st_mode):
        with path.open("wb") as file:
            yield file
        return
    place = Path(os.path.realpath(path))
    effective = os.access in os.supports_effective_ids
    if before is not None and not os.access(place, os.W_OK, effective_ids=effective):  # a rename would succeed
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    unfinished = place.with_name(f".{place.name[:_NAMED_AFTER]}-{secrets.token_hex(4)}")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(unfinished, flags, 0o666)
    try:
        with open(descriptor, "w+b") as file:  # noqa: PTH123  (a descriptor)
            yield file
            file.flush()
            flush(descriptor)  # else the rename could reach the disk before the content
        if before is not None and before.st_mode != unfinished.stat().st_mode:  # some file systems have only one mode
            unfinished.chmod(stat.S_IMODE(before.st_mode))
        unfinished.replace(place)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def flush(descriptor: int) -> None:
    """Waits until an open file is on the disk, as far as its file system can tell.

    Raises:
        OSError: The file could not be written to the disk.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
