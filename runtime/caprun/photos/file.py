"""Reads the bytes of a photo from any source: once, without waiting for a pipe, and up to a limit."""

import contextlib
import os
import stat
from pathlib import Path
from typing import BinaryIO, TypeAlias

from PIL import Image

from caprun.errors import ImageError, TooLargeError

Photo: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | BinaryIO
"""A path, an encoded file's bytes, a PIL image, or a file opened in binary mode (read from its start)."""

MAX_BYTES = 256 * 2**20  # only photos of noise need more, and a mislabelled film must not fill the memory


def name_of(photo: Photo) -> str:
    """Returns the name of a photo for messages: its path, or "the photo"."""
    if isinstance(photo, str | os.PathLike):
        return os.fsdecode(photo)
    # A file has a name, and so has a PIL image that was read from one; the name of a pipe is a number.
    name = getattr(photo, "filename" if isinstance(photo, Image.Image) else "name", None)
    return name if isinstance(name, str) and name else "the photo"


def printable(name: str) -> str:
    """Quotes a name that would break a message, since a file name may contain anything, even line breaks."""
    return name if name and name.isprintable() else repr(name)


def read(photo: str | os.PathLike[str] | bytes | BinaryIO, label: str) -> bytes:
    """Reads an encoded file as a whole: one read costs less than the many small reads of a decoder.

    Raises:
        TooLargeError: It is larger than `MAX_BYTES`.
        ImageError: It cannot be read.
    """
    data = _read(photo, label)
    if len(data) > MAX_BYTES:
        raise _too_large(label)
    if not data:
        raise ImageError(f"{label} is empty; get another copy of it.")
    return data


def _read(photo: str | os.PathLike[str] | bytes | BinaryIO, label: str) -> bytes:
    if isinstance(photo, bytes):
        return photo
    if isinstance(photo, bytearray | memoryview):
        return bytes(memoryview(photo).cast("B")[: MAX_BYTES + 1])
    try:
        if isinstance(photo, str | os.PathLike):
            return _read_path(Path(os.fsdecode(photo)), label)
        if not hasattr(photo, "read"):
            kind = type(photo).__name__
            raise ImageError(f"{label} is of type {kind}; give a path, bytes, a PIL image or an open file.")
        with contextlib.suppress(AttributeError, OSError):  # a pipe cannot rewind, and is read from its position
            photo.seek(0)
        data = photo.read(MAX_BYTES + 1)
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{label} does not exist; check the path.") from error
    except PermissionError as error:
        raise ImageError(f"{label} is not readable by this user; change its permissions.") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path, or a file that was closed
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"{label} cannot be read ({reason}); check the path and the disk.") from error
    if not isinstance(data, bytes):
        raise ImageError(f"{label} was opened as text; open it in binary mode, 'rb'.")
    return data


def _read_path(path: Path, label: str) -> bytes:
    _check_regular(path.stat(), label)  # before it is opened, since opening a device may have effects
    with open(path, "rb", opener=_open_at_once) as file:
        info = os.fstat(file.fileno())
        _check_regular(info, label)  # the path may lead elsewhere by now
        if info.st_size > MAX_BYTES:
            raise _too_large(label)
        return file.read(info.st_size)  # bytes written to it from now on are ignored


def _open_at_once(path: str, flags: int) -> int:
    """Opens without waiting; a FIFO would wait for a writer."""
    try:
        return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    except BlockingIOError:  # a file under a lease: the holder gives it up to a reader that waits
        return os.open(path, flags)


def _too_large(label: str) -> TooLargeError:
    return TooLargeError(f"{label} is larger than {MAX_BYTES >> 20} MiB; scale it down first.")


def _check_regular(info: os.stat_result, label: str) -> None:
    if stat.S_ISDIR(info.st_mode):
        raise ImageError(f"{label} is a folder; name the photos in it.")
    if not stat.S_ISREG(info.st_mode):
        raise ImageError(f"{label} is not a regular file; save the photo to one first.")
