"""Checks the bytes of a bundle: regular files inside it, and strict JSON.

A bundle is untrusted. A file is read only if it is a regular file inside the bundle and not too large, and it is read
once, so the bytes that are used are the bytes that were checked.
"""

import errno
import functools
import io
import json
import math
import os
import stat
from pathlib import Path
from typing import Any

MOST_BYTES = 2**31
"""Largest file of a bundle; the limit of Protocol Buffers, and so of ONNX."""
# Opening a pipe must not wait for a writer; O_NOFOLLOW refuses a link made after the path was resolved
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


class ForeignFileError(OSError):
    """A path leads out of the bundle or does not lead to a regular file."""


def open_own(path: Path) -> io.FileIO:
    """Opens a file of a bundle for reading; links that stay inside the bundle are followed.

    Raises:
        FileNotFoundError: The file does not exist.
        ForeignFileError: The path is a link out of its directory or to nothing, a directory, a pipe or a device.
        OSError: The file cannot be opened.
    """
    foreign = ForeignFileError(errno.EINVAL, "not a regular file of the bundle", str(path))
    target = Path(os.path.realpath(path))
    if not target.is_relative_to(os.path.realpath(path.parent)) or (path.is_symlink() and not path.exists()):
        raise foreign
    if not stat.S_ISREG(target.lstat().st_mode):  # before it is opened, since opening a device may have effects
        raise foreign
    file = io.FileIO(os.open(target, _FLAGS))
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise foreign
    return file


def read_own(path: Path, most: int) -> bytes | None:
    """Reads a file of a bundle; None if it has more than `most` bytes. Raises the errors of `open_own`."""
    with open_own(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            return None
        content = file.readall()
        return content if content is not None and len(content) <= most else None


# --- JSON

_DEEPEST = 32  # levels of nesting, so that no later walk through the data exhausts the stack
_LONGEST = 300  # characters of a number


def parse_json(content: bytes) -> Any:
    """Parses JSON that every parser reads in the same way: UTF-8, unique keys, finite numbers, limited nesting.

    Raises:
        ValueError: The content is not such JSON; the message explains why in a few words.
    """
    try:
        data = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_table,
            parse_int=functools.partial(_number, int),
            parse_float=functools.partial(_number, float),
            parse_constant=functools.partial(_number, float),
        )
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except (json.JSONDecodeError, RecursionError):
        raise ValueError("it is not JSON") from None
    _refuse_nesting(data, _DEEPEST)
    return data


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a key is repeated")
    return table


def _number(kind: type[int] | type[float], digits: str) -> int | float:
    if len(digits) > _LONGEST or not math.isfinite(value := kind(digits)):
        raise ValueError("a number is NaN, infinite or too long")
    return value


def _refuse_nesting(data: Any, levels: int) -> None:
    if isinstance(data, dict | list):
        if levels == 0:
            raise ValueError("it is nested too deeply")
        for inner in data.values() if isinstance(data, dict) else data:
            _refuse_nesting(inner, levels - 1)
