"""Reads files written by `torch.save` without running code from them, and checks every byte that is used.

`torch.load` accepts flipped bits without an error, and unpacks a zip of any declared size. However, `torch.save` writes
a CRC-32 for each member of its zip and compresses none of them.
"""

from __future__ import annotations

import os
import stat
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

ZIP = b"PK\3\4"
"""First bytes of a file written by `torch.save` since PyTorch 1.6."""


class DamagedError(ValueError):
    """A file is altered or was not written by `torch.save`; the message is a phrase."""


def load_unpickled(path: Path, *, old: bool = False) -> Any:
    """Reads tensors and plain data that `torch.save` wrote; other objects are refused.

    Args:
        path: path of the file.
        old: whether to accept files from PyTorch before version 1.6, which are not zips and have no checksums.

    Raises:
        DamagedError: the file is altered, cut off, declares more data than it has, or has another format.
        OSError: the file cannot be read.
        Exception: the unpickler failed; any type is possible.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise DamagedError("it is not a regular file")
        if file.read(len(ZIP)) == ZIP:
            refuse_damaged(file)
        elif not old:
            raise DamagedError("it is not a zip")
        file.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual pickles, which are refused or read
            return torch.load(file, map_location="cpu", weights_only=True)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # opening a pipe would wait for a writer


def refuse_damaged(file: BinaryIO) -> None:
    """Checks that a zip is intact and uncompressed, as `torch.save` writes it.

    Raises:
        DamagedError: the zip is altered, cut off, or declares more data than it has.
    """
    size = file.seek(0, os.SEEK_END)
    try:
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
            compressed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
            if compressed or sum(part.file_size for part in parts) > size:
                raise DamagedError("it declares more data than it has")
            if archive.testzip() is not None:
                raise DamagedError("one of its checksums is wrong")
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise DamagedError(f"{error}".rstrip(".")) from error
