"""Reads checkpoints and vocabularies of other projects, and reports what is wrong with a file in one sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captioner.errors import CaptionerError
from captioner.importers.pickles import RefusedError, StandIn, load_modules, load_pickle
from captioner.models.backbones import first_line


def read_states(path: Path, places: Mapping[str, str]) -> dict[str, Tensor]:
    """Reads the state dicts of a file.

    Args:
        path: a file of `torch.save`.
        places: the keys that lead to each state dict or module, joined by dots and empty for the file itself, and the
            prefix of its names in the result. The prefix that `DataParallel` adds to names is removed.

    Returns:
        Tensors by name. `output_size` of a pooling layer has its rows and columns, int64 (1,) or (2,).

    Raises:
        CaptionerError: the file cannot be read, holds anything but weights and plain data, or has no state dict.
    """
    with _explained(path, "a PyTorch weights file"):
        content = load_modules(path)
        found = {place: _state_dict(_at(content, place)) for place in places}
    for place, state in found.items():
        if not state:
            holds = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
            raise CaptionerError(
                f"{path} has no weights{f' under {place}' if place else ''}; it holds: {holds[:200] or 'nothing'}."
            )
    return {
        prefix + name.removeprefix("module."): value
        for place, prefix in places.items()
        for name, value in found[place].items()
    }


def _at(content: Any, place: str) -> Any:
    for key in place.split(".") if place else ():
        content = content.get(key) if isinstance(content, dict) else None
    return content


def _state_dict(found: Any) -> dict[str, Tensor]:
    """Returns the tensors of a state dict or a module, without other entries; empty if it is neither."""
    if isinstance(found, StandIn):
        return dict(_tensors(found, ""))
    named = found.items() if isinstance(found, dict) else ()
    return {name: value for name, value in named if isinstance(name, str) and isinstance(value, Tensor)}


def _tensors(module: StandIn, prefix: str) -> Iterator[tuple[str, Tensor]]:
    state = vars(module)
    for name, value in {**state.get("_parameters", {}), **state.get("_buffers", {})}.items():
        if isinstance(value, Tensor):
            yield prefix + name, value
    if "output_size" in state:
        yield f"{prefix}output_size", torch.tensor(state["output_size"]).reshape(-1)
    for name, child in state.get("_modules", {}).items():
        if isinstance(child, StandIn):
            yield from _tensors(child, f"{prefix}{name}.")


def read_words(path: Path) -> list[str]:
    """Reads words in the order of their ids from a pickle or JSON of words and ids, vvduc's JSON, or BERT's vocab.txt.

    Raises:
        CaptionerError: the file cannot be read, is none of these, or its ids are not 0, 1, 2 ...
    """
    with _explained(path, "a vocabulary"):
        content = _read(path)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
        if isinstance(content.get("itos"), dict):
            content = {word: int(index) for index, word in content["itos"].items()}
        words = {index: word for word, index in content.items()}
    if not words or set(words) != set(range(len(content))) or not all(isinstance(word, str) for word in content):
        raise CaptionerError(
            f"{path} is not a vocabulary: its {len(content)} words do not have the ids 0 to {len(content) - 1}."
        )
    return [words[index] for index in range(len(words))]


def _read(path: Path) -> Any:
    """Reads a file by its suffix: a pickle, JSON, or text with one word per line."""
    suffix = path.suffix.lower()
    if suffix in (".pickle", ".pkl"):
        with path.open("rb") as file:
            return load_pickle(file)
    text = path.read_text(encoding="utf-8-sig")
    if suffix == ".json":
        return json.loads(text)
    return {word: index for index, word in enumerate(text.rstrip("\n").split("\n"))}


@contextmanager
def _explained(path: Path, kind: str) -> Iterator[None]:
    """Turns any error while reading a file into one sentence."""
    try:
        yield
    except RefusedError as error:
        raise CaptionerError(
            f"{path} contains {error}, which is neither weights nor plain data; do not use the file."
        ) from None
    except FileNotFoundError:
        raise CaptionerError(f"There is no file {path}.") from None
    except OSError as error:
        raise CaptionerError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # a corrupt byte can raise any type
        raise CaptionerError(f"{path} is not {kind} ({first_line(error).rstrip('.')}).") from error
