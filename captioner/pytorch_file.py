"""Files of `torch.save`: sealed with a checksum when written, and read as they were written, without running code.

`torch.load` takes flipped bits without a word, and unpacks whatever a zip says it holds. What is written here ends with
a sha256 over all of it, where a zip has room for a comment, which PyTorch passes over.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

_MARK = b"captioner sha256 "
_SEAL = len(_MARK) + 64  # bytes
_END, _END_SIZE = b"PK\5\6", 22  # of a zip, and the last two of these bytes are the comment's length
_ZIP = b"PK\3\4"


class DamagedError(ValueError):
    """It is not as it was written, or nothing that `torch.save` wrote; in a few words."""


def save_sealed(content: object, file: BinaryIO) -> None:
    """Write what `load_unpickled` will find unaltered, to an empty file that may be read as well.

    Raises:
        OSError: it cannot be written.
    """
    watched = _Watched(file)
    try:
        torch.save(content, cast("IO[bytes]", watched))
    except RuntimeError as error:
        raise watched.failure or OSError(errno.EIO, str(error).partition("\n")[0]) from error
    end = file.seek(-_END_SIZE, os.SEEK_END)
    if file.read(_END_SIZE)[: len(_END)] != _END:
        raise OSError(errno.EIO, "PyTorch wrote no zip")
    file.seek(end + _END_SIZE - 2)
    file.write(_SEAL.to_bytes(2, "little"))
    checksum = _checksum(file, end + _END_SIZE)
    file.seek(0, os.SEEK_END)
    file.write(_MARK + checksum)


class _Watched:
    """A file whose failure is remembered: PyTorch's writer speaks of a wrong position where the disk is full."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.failure: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.failure = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def load_unpickled(path: Path, *, old: bool = False) -> Any:
    """What `torch.save` wrote, if it is nothing but tensors and plain data; whatever else is in it is not made.

    Args:
        path: of the file.
        old: take also what is no zip, as PyTorch wrote before version 1.6: a checksum it has none.

    Raises:
        DamagedError: it is altered, cut off, packed so as to fill the memory, or no such file.
        OSError: it cannot be read.
        Exception: whatever a byte that is wrong leads an unpickler to.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise DamagedError("it is no regular file")
        if file.read(len(_ZIP)) == _ZIP:
            _refuse_damaged(file)
        elif not old:
            raise DamagedError("it does not begin as one")
        file.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that PyTorch would not have written: they are refused, or read
            return torch.load(file, map_location="cpu", weights_only=True)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe's opening would wait for who writes to it


def _refuse_damaged(file: BinaryIO) -> None:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _SEAL - _END_SIZE))
    end = file.read()
    plain = end[-_END_SIZE:]
    if end.startswith(_END) and end[_END_SIZE - 2 :].startswith(_SEAL.to_bytes(2, "little") + _MARK):
        if _checksum(file, size - _SEAL) != end[-64:]:
            raise DamagedError("its checksum is wrong")
        sealed = True
    elif plain.startswith(_END) and plain.endswith(b"\0\0"):
        sealed = False  # of version 0.1, or of somebody else
    else:
        raise DamagedError("its end is missing or altered")
    try:
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
            if (
                any(part.compress_type != zipfile.ZIP_STORED for part in parts)
                or sum(p.file_size for p in parts) > size
            ):
                raise DamagedError("it says that it unpacks to more than it has")
            if not sealed and archive.testzip() is not None:
                raise DamagedError("a checksum in it is wrong")
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise DamagedError(f"{error}".rstrip(".")) from error


def _checksum(file: BinaryIO, length: int) -> bytes:
    checksum, left = hashlib.sha256(), length
    file.seek(0)
    while left and (block := file.read(min(left, 2**22))):
        checksum.update(block)
        left -= len(block)
    return checksum.hexdigest().encode()
