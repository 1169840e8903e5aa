"""Checks the bytes of a bundle: regular files inside it, strict JSON, and self-contained ONNX graphs.

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
from collections.abc import Mapping
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


# --- ONNX

# ONNX is Protocol Buffers, a tree of messages. Only messages that can hold a tensor are walked, and no tensor's values
# are read. Anything that ONNX Runtime's parser might read differently is refused: both must see the same files.
MESSAGES: Mapping[str, Mapping[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {},
}
"""For each message, the fields that lead to tensors, by number, and the messages in them."""
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # fields of TensorProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LARGEST_TAG = 2**32 - 1


def has_external_data(model: bytes) -> bool:
    """Returns whether any tensor of an ONNX model has its values in another file, which ONNX Runtime would read.

    Raises:
        ValueError: The bytes are not an ONNX model.
    """
    pending = [(0, len(model), "ModelProto")]
    try:
        while pending:
            at, end, message = pending.pop()
            inner, is_tensor = MESSAGES[message], message == "TensorProto"
            while at < end:
                tag, at = _varint(model, at)
                field, wire = tag >> 3, tag & 7
                if field == 0 or tag > _LARGEST_TAG:
                    raise ValueError("a field has no valid number")
                if wire == _BYTES:
                    size, at = _varint(model, at)
                    if field in inner:
                        pending.append((at, at + size, inner[field]))
                    elif is_tensor and field == _EXTERNAL_DATA:
                        return True
                    at += size
                elif wire == _VARINT:
                    value, at = _varint(model, at)
                    if is_tensor and field == _DATA_LOCATION and value:
                        return True
                elif wire in (_FIXED64, _FIXED32):
                    at += 8 if wire == _FIXED64 else 4
                else:
                    raise ValueError("a field has an unknown type")
            if at > end:
                raise ValueError("a field exceeds its message")
    except IndexError:
        raise ValueError("a field exceeds the file") from None
    return False


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Reads the integer at `at` (seven bits per byte, lowest first); returns it and the position after it."""
    value = 0
    for place in range(10):
        byte = data[at + place]
        value |= (byte & 127) << (7 * place)
        if byte < 128:
            return value, at + place + 1
    raise ValueError("an integer has more than ten bytes")
