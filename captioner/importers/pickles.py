"""Reads pickles and `torch.save` files that hold more than tensors, without running code from them.

Some checkpoints are pickles of whole modules. The unpickler builds plain data, tensors, and a stand-in for every class
that such files contain; a stand-in stores its state from the file and has no other code. Anything else is refused by
name.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from captioner.pytorch_file import ZIP, DamagedError, refuse_damaged

_STAND_INS = (
    *("models.Attention", "models.DecoderWithAttention", "models.Encoder"),  # sgrvinod's
    *("torch.nn.modules.", "torch.nn.parallel.", "torch.optim.", "torchvision.models.", "torch.device"),
    "torch.nn.backends.thnn.",  # in every module saved before PyTorch 1.2
    *("numpy.", "_codecs.encode"),  # scores saved with the weights
)
_DTYPES = {
    "Float": torch.float32,
    "Double": torch.float64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}
_OLD = (0x1950A86A20F9469CFC6C, 1001)
"""Magic number and version at the start of files written before PyTorch 1.6, one pickle each."""

Storage = Callable[[str, torch.dtype, int], Tensor]
"""Returns the numbers of a storage, (count,), by key, type and count."""


class RefusedError(ValueError):
    """A pickle refers to a class or function that is not allowed; the message is its name."""


class StandIn:
    """Stands for an object whose class is not loaded, with the attributes from the pickle."""

    def __new__(cls, *_: object) -> StandIn:
        """Accepts the arguments of any class."""
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        return

    def __setstate__(self, state: object) -> None:
        """Stores a state of named attributes, as modules have; ignores any other."""
        if isinstance(state, dict):
            self.__dict__.update(state)


def load_pickle(file: BinaryIO) -> Any:
    """Reads a pickle of plain data.

    Raises:
        RefusedError: it holds something else.
        Exception: it is damaged; any type is possible.
    """
    return _Unpickler(file, _no_storage).load()


def load_modules(path: Path) -> Any:
    """Reads a `torch.save` file: plain data, tensors, and stand-ins for modules and optimisers.

    Raises:
        RefusedError: the file holds something else.
        DamagedError: the file is altered, truncated, or in another format.
        OSError: the file cannot be read.
        Exception: the file is damaged; any type is possible.
    """
    with path.open("rb") as file:
        if file.read(len(ZIP)) != ZIP:
            file.seek(0)
            return _load_old(file)
        refuse_damaged(file)
        with zipfile.ZipFile(file) as archive:
            root = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
            if root is None:
                raise DamagedError("it is a zip that PyTorch did not write")

            def storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
                content = bytearray(archive.read(f"{root.removesuffix('.pkl')}/{key}"))
                return torch.frombuffer(content, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)

            with archive.open(root) as data:
                return _Unpickler(data, storage).load()


def _load_old(file: BinaryIO) -> Any:
    """Reads the format before PyTorch 1.6: three pickles, the content, the keys of the storages, and their data."""
    storages: dict[str, Tensor] = {}

    def storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
        return storages.setdefault(key, torch.empty(count, dtype=dtype))

    if tuple(load_pickle(file) for _ in _OLD) != _OLD:
        raise DamagedError("PyTorch did not write it")
    load_pickle(file)  # system information
    content = _Unpickler(file, storage).load()
    for key in load_pickle(file):
        numbers = storages[key]
        if int.from_bytes(file.read(8), "little") != len(numbers):
            raise DamagedError("a storage has the wrong size")
        if len(numbers):
            read = bytearray(file.read(numbers.nbytes))
            numbers.copy_(torch.frombuffer(read, dtype=numbers.dtype, count=len(numbers)))
    return content


def _no_storage(key: str, *_: object) -> Tensor:
    raise DamagedError(f"it refers to a storage that it does not contain ({key})")


def _tensor(storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *_: object) -> Tensor:
    return storage.as_strided(size, stride, offset)


def _parameter(tensor: Tensor, *_: object) -> Tensor:
    return tensor


_BUILT: dict[str, Any] = {
    **{f"{module}.{kind.__name__}": kind for module in ("builtins", "__builtin__") for kind in (dict, list, set)},
    **{f"collections.{kind.__name__}": kind for kind in (OrderedDict, defaultdict)},
    **{f"torch.{name}Storage": dtype for name, dtype in _DTYPES.items()},
    **{f"torch._utils._rebuild_tensor{end}": _tensor for end in ("", "_v2")},
    **dict.fromkeys(("torch._utils._rebuild_parameter", "torch.nn.parameter.Parameter"), _parameter),
}
"""Constructors of plain data and tensors, by their names in pickles."""


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, storage: Storage) -> None:
        super().__init__(file, encoding="utf-8")
        self._storage = storage

    def find_class(self, module: str, name: str, /) -> Any:
        asked = f"{module}.{name}"
        if asked in _BUILT:
            return _BUILT[asked]
        if asked.startswith(_STAND_INS):
            return StandIn
        raise RefusedError(asked)

    def persistent_load(self, pid: Any, /) -> Any:
        """Returns the class of an old module, which is saved with its source, or the numbers of a storage."""
        kind, what, *rest = pid
        if kind == "module":
            return what
        key, _, count, *view = rest
        numbers = self._storage(key, what, count)
        for _, offset, length in filter(None, view):
            numbers = numbers[offset : offset + length]
        return numbers
