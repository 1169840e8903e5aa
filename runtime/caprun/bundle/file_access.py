"""Reading a file that is a directory's own: no link out of it, no pipe, not too large, and read once."""

import errno
import hashlib
import io
import os
import stat
from pathlib import Path

MOST_BYTES = 2**31
"""Of any file of a bundle: Protocol Buffers, and so ONNX, hold no more."""
_BLOCK = 2**22  # bytes read at a time where a file's content is only looked at
# Neither wait for whoever feeds a pipe nor follow a link; Windows has neither
CAUTIOUSLY = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


class NotOwnError(OSError):
    """It is a link out of its directory, or no file at all."""


def open_own(path: Path) -> io.FileIO:
    """Open a file for reading.

    Raises:
        FileNotFoundError: it is not there.
        NotOwnError: it is a link out of its directory, a directory, a pipe or a device.
        OSError: it cannot be opened.
    """
    not_own = NotOwnError(errno.EINVAL, "a link out of its directory, or no file at all", str(path))
    info = path.lstat()
    if stat.S_ISLNK(info.st_mode):
        home, path = Path(os.path.realpath(path.parent)), Path(os.path.realpath(path))
        if not path.is_relative_to(home) or not os.path.lexists(path):
            raise not_own
        info = path.lstat()
    if not stat.S_ISREG(info.st_mode):  # looked at first: to open a device may do something
        raise not_own
    try:
        file = io.FileIO(os.open(path, os.O_RDONLY | CAUTIOUSLY))
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link, since a moment ago
            raise not_own from error
        raise
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise not_own
    return file


def read_own(path: Path, most: int) -> bytes | None:
    """A file's bytes; None where it has more than `most`. Raises as `open_own`."""
    with open_own(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            return None
        content = file.read(most + 1) if most < _BLOCK else file.readall()
        return content if content is not None and len(content) <= most else None


def sha256_of(path: Path) -> str:
    """A file's checksum, in hexadecimal, without the memory for it. Raises as `open_own`."""
    buffer, checksum = memoryview(bytearray(_BLOCK)), hashlib.sha256()
    with open_own(path) as file:
        while count := file.readinto(buffer):
            checksum.update(buffer[:count])
    return checksum.hexdigest()
