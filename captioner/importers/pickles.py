"""Reads pickles and files of `torch.save` that hold more than tensors, without running code from them.

Some checkpoints are pickles of whole modules. The unpickler builds plain data, tensors, and a stand-in for every class
that belongs into such a file; a stand-in keeps the state that the file gives it and has no other code. Anything else is
refused by name.
"""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import torch
from torch import Tensor

from captioner.pytorch_file import ZIP, DamagedError, refuse_damaged

_STAND_INS = (
    *("models.Attention", "models.DecoderWithAttention", "models.Encoder"),  # sgrvinod's
    *("torch.nn.modules.", "torch.nn.parallel.", "torch.optim.", "torchvision.models.", "torch.device"),
    "torch.nn.backends.thnn.",  # in every module of PyTorch before 1.2
    *("numpy.", "_codecs.encode"),  # scores beside the weights
)


class RefusedError(ValueError):
    """A pickle asks for a class or function that it may not have; the message is its name."""


class StandIn:
    """An object of a class that is not loaded, with the attributes that a pickle gives it."""

    dump_patches = False
    """PyTorch asks this of the classes in old files."""

    def __new__(cls, *_: object) -> StandIn:
        """Takes the arguments of any class."""
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        return

    def __setstate__(self, state: object) -> None:
        """Keeps a state of named attributes, as modules have, and no other."""
        if isinstance(state, dict):
            self.__dict__.update(state)


def load_pickle(file: BinaryIO, encoding: str = "utf-8") -> Any:
    """Reads a pickle of plain data.

    Raises:
        RefusedError: it holds something else.
        Exception: it is damaged; any type is possible.
    """
    return _Unpickler(file, encoding=encoding).load()


def load_modules(path: Path) -> Any:
    """Reads what `torch.save` wrote: plain data, tensors, and stand-ins for modules and optimisers.

    Raises:
        RefusedError: the file holds something else.
        DamagedError: the file is altered, cut off, or has another format.
        OSError: the file cannot be read.
        Exception: the file is damaged; any type is possible.
    """
    file = io.BytesIO(path.read_bytes())  # PyTorch looks for a tar archive in an old file on disk
    if file.getbuffer()[: len(ZIP)] == ZIP:
        refuse_damaged(file)
        with zipfile.ZipFile(file) as archive:
            names = {Path(name).name for name in archive.namelist()}
        if "data.pkl" not in names or "constants.pkl" in names:  # the latter is TorchScript, which holds code
            raise DamagedError("it is a zip that `torch.save` did not write")
        file.seek(0)
    module = SimpleNamespace(__name__=__name__, load=load_pickle, Unpickler=_Unpickler)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about classes whose source differs, and about typed storages
        return torch.load(file, map_location="cpu", pickle_module=module, weights_only=False)


def _tensor(storage: Any, offset: int, size: Sequence[int], stride: Sequence[int], *_: object) -> Tensor:
    # PyTorch's own function would enlarge a storage that is too small
    return torch.empty(0, dtype=storage.dtype).set_(storage).as_strided(size, stride, offset)


def _parameter(tensor: Tensor, *_: object) -> Tensor:
    return tensor


_BUILT: dict[str, Any] = {
    **{f"{module}.{kind.__name__}": kind for module in ("builtins", "__builtin__") for kind in (dict, list, set)},
    **{f"collections.{kind.__name__}": kind for kind in (OrderedDict, defaultdict)},
    **{f"torch._utils._rebuild_tensor{end}": _tensor for end in ("", "_v2")},
    **dict.fromkeys(("torch._utils._rebuild_parameter", "torch.nn.parameter.Parameter"), _parameter),
}
"""Plain data and tensors by the names of what builds them; `torch.load` itself reads their storages."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        asked = f"{module}.{name}"
        if asked in _BUILT:
            return _BUILT[asked]
        if asked.startswith(_STAND_INS):
            return StandIn
        raise RefusedError(asked)
