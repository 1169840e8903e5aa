"""Reads the bytes of a photo from any source, once and up to a limit, without blocking on a FIFO."""

import contextlib
import os
import stat
from pathlib import Path
from typing import BinaryIO, TypeAlias

from PIL import Image

from caprun.errors import ImageError, TooLargeError

Photo: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | BinaryIO
"""A path, an encoded file's bytes, a PIL image, or a file opened in binary mode (read from its start)."""

MAX_BYTES = 256 * 2**20  # only photos of noise need more, and a mislabelled video must not fill the memory


def name_of(photo: Photo) -> str:
    """Returns the name of a photo for messages: its path, or "the photo"."""
    if isinstance(photo, str | os.PathLike):
        return os.fsdecode(photo)
    # Files have names, as do PIL images read from files; the name of a pipe is a number.
    name = getattr(photo, "filename" if isinstance(photo, Image.Image) else "name", None)
    return name if isinstance(name, str) and name else "the photo"


def printable(name: str) -> str:
    """Quotes a name that would break a message, since file names can contain anything, even line breaks."""
    return name if name and name.isprintable() else repr(name)


def read(photo: str | os.PathLike[str] | bytes | BinaryIO) -> bytes:
    """Reads a whole encoded file at once, which is faster than the many small reads of a decoder.

    Raises:
        TooLargeError: The file is larger than `MAX_BYTES`.
        ImageError: The file cannot be read.
    """
    data = _read(photo)
    if len(data) > MAX_BYTES:
        raise _too_large()
    if not data:
        raise ImageError("is empty; get another copy of it")
    return data


def _read(photo: str | os.PathLike[str] | bytes | BinaryIO) -> bytes:
    if isinstance(photo, bytes):
        return photo
    if isinstance(photo, bytearray | memoryview):
        return bytes(memoryview(photo).cast("B")[: MAX_BYTES + 1])
    try:
        if isinstance(photo, str | os.PathLike):
            return _read_path(Path(os.fsdecode(photo)))
        if not hasattr(photo, "read"):
            kind = type(photo).__name__
            raise ImageError(f"is of type {kind}; pass a path, bytes, a PIL image or an open file")
        with contextlib.suppress(AttributeError, OSError):  # a pipe cannot seek and is read from its current position
            photo.seek(0)
        data = photo.read(MAX_BYTES + 1)
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError("does not exist; check the path") from error
    except PermissionError as error:
        raise ImageError("is not readable by this user; change its permissions") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path, or a closed file
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"cannot be read ({reason}); check the path and the disk") from error
    if not isinstance(data, bytes):
        raise ImageError("was opened as text; open it in binary mode, 'rb'")
    return data


def _read_path(path: Path) -> bytes:
    _check_regular(path.stat())  # before opening, since opening a device can have side effects
    with open(path, "rb", opener=_open_at_once) as file:
        info = os.fstat(file.fileno())
        _check_regular(info)  # the path may have been replaced since
        if info.st_size > MAX_BYTES:
            raise _too_large()
        return file.read(info.st_size)  # bytes appended from now on are ignored


def _open_at_once(path: str, flags: int) -> int:
    """Opens without blocking; opening a FIFO would wait for a writer."""
    try:
        return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    except BlockingIOError:  # a leased file: a blocking open waits until the holder releases it
        return os.open(path, flags)


def _too_large() -> TooLargeError:
    return TooLargeError(f"is larger than {MAX_BYTES >> 20} MiB; scale it down first")


def _check_regular(info: os.stat_result) -> None:
    if stat.S_ISDIR(info.st_mode):
        raise ImageError("is a folder; name the photos in it")
    if not stat.S_ISREG(info.st_mode):
        raise ImageError("is not a regular file; save the photo to one first")
