"""Writes files of `torch.save` with a checksum, and reads them without running code from them.

`torch.load` accepts flipped bits without an error, and unpacks a zip of any declared size. Files written here end with
a sha256 of their content in the zip's comment, which PyTorch ignores.
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
_END, _END_SIZE = b"PK\5\6", 22  # end record of a zip; its last two bytes are the length of the comment
_ZIP = b"PK\3\4"


class DamagedError(ValueError):
    """A file is altered or was not written by `torch.save`; the message is a phrase."""


def save_sealed(content: object, file: BinaryIO) -> None:
    """Writes an object with `torch.save`, and a checksum that `load_unpickled` verifies.

    Args:
        content: tensors and plain data.
        file: an empty file, open for writing and reading.

    Raises:
        OSError: the file cannot be written.
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
    """A file that keeps the error of a failed write, which PyTorch's writer replaces by one about a position."""

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
    """Reads tensors and plain data that `torch.save` wrote; other objects are refused.

    Args:
        path: path of the file.
        old: whether to accept files of PyTorch before version 1.6, which are not zips and have no checksum.

    Raises:
        DamagedError: the file is altered, cut off, declares more data than it has, or has another format.
        OSError: the file cannot be read.
        Exception: the unpickler failed; any type is possible.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise DamagedError("it is not a regular file")
        if file.read(len(_ZIP)) == _ZIP:
            _refuse_damaged(file)
        elif not old:
            raise DamagedError("it is not a zip")
        file.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual pickles, which are refused or read
            return torch.load(file, map_location="cpu", weights_only=True)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # opening a pipe would wait for a writer


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
        sealed = False  # from version 0.1, or from another program
    else:
        raise DamagedError("its end is missing or altered")
    try:
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
            if (
                any(part.compress_type != zipfile.ZIP_STORED for part in parts)
                or sum(p.file_size for p in parts) > size
            ):
                raise DamagedError("it declares more data than it has")
            if not sealed and archive.testzip() is not None:
                raise DamagedError("one of its checksums is wrong")
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise DamagedError(f"{error}".rstrip(".")) from error


def _checksum(file: BinaryIO, length: int) -> bytes:
    checksum, left = hashlib.sha256(), length
    file.seek(0)
    while left and (block := file.read(min(left, 2**22))):
        checksum.update(block)
        left -= len(block)
    return checksum.hexdigest().encode()
