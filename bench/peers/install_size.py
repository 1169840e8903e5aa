"""The disk space of packages and everything they require, as installed in this environment.

Sizes are those of the files in each distribution's RECORD, byte code included. A package in editable mode has no such
list; its folders are added up.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement


class Size(NamedTuple):
    """Sizes in bytes."""

    total: int
    cuda: int
    """The part that CPU wheels do not have: NVIDIA's libraries and PyTorch's CUDA libraries."""


def install_size(requirements: Iterable[str], folders: Iterable[Path] = ()) -> Size:
    """Adds up the sizes of requirements, of everything they require, and of folders.

    Raises:
        SystemExit: a requirement is not installed.
    """
    own = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    total, cuda = sum(path.stat().st_size for path in own), 0
    for name in _closure(requirements):
        distribution = importlib.metadata.distribution(name)
        for file in distribution.files or ():
            path = Path(str(distribution.locate_file(file)))
            if path.is_file():
                size = path.stat().st_size
                total += size
                cuda += size * _is_cuda(name, path)
    return Size(total, cuda)


def _is_cuda(name: str, path: Path) -> bool:
    return name.startswith(("nvidia-", "cuda-")) or name == "triton" or (name == "torch" and "cuda" in path.name)


def _closure(requirements: Iterable[str]) -> set[str]:
    """Returns the normalised names of the requirements and of everything they require."""
    wanted = [Requirement(text) for text in requirements]
    seen: set[tuple[str, str]] = set()  # names with extras
    while wanted:
        requirement = wanted.pop()
        for extra in ("", *requirement.extras):
            key = (re.sub(r"[-_.]+", "-", requirement.name).lower(), extra)
            if key in seen:
                continue
            seen.add(key)
            try:
                needed = importlib.metadata.requires(requirement.name) or []
            except importlib.metadata.PackageNotFoundError:
                raise SystemExit(
                    f'Error: {requirement.name} is not installed; run pip install ".[dev,bench]".'
                ) from None
            for text in needed:
                child = Requirement(text)
                # the marker of an extra's requirement is false without that extra
                if child.marker is None or child.marker.evaluate({"extra": extra}):
                    wanted.append(child)
    return {name for name, _ in seen}
