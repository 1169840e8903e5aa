"""What a `pip install` of some packages takes on disk: they and all they require, as installed in this environment.

Sizes come from the files that each distribution's RECORD lists, as they are on disk, byte code included; nothing is
installed to measure it. A package installed in editable mode has no such list, so its folders are added up.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement


class Size(NamedTuple):
    """Bytes on disk."""

    total: int
    cuda: int
    """Of them, NVIDIA's libraries and PyTorch's own for CUDA, which a wheel for CPUs has not."""


def install_size(requirements: Iterable[str], folders: Iterable[Path] = ()) -> Size:
    """The size of what is required, of what that requires, and so on, and of some folders besides.

    Raises:
        SystemExit: something required is not installed here.
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
    """Names of all distributions needed, normalised."""
    wanted = [Requirement(text) for text in requirements]
    seen: set[tuple[str, str]] = set()  # and their extras
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
                raise SystemExit(f'{requirement.name} is not installed here: pip install ".[dev,bench]".') from None
            for text in needed:
                child = Requirement(text)
                # what an extra asks for has a marker that is false without it
                if child.marker is None or child.marker.evaluate({"extra": extra}):
                    wanted.append(child)
    return {name for name, _ in seen}
