"""What every reader of a format yields: photos with their captions, and what it had to pass over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")

_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "restval": "train",  # Karpathy's: photos of COCO's validation set that everybody trains on
    "dev": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "test": "test",
    "testing": "test",
}
SPLIT_FOLDERS = tuple(name for name in _NAMES if name != "restval")
"""What people call the folders of splits."""

_SHOWN = 3


@dataclass(frozen=True)
class Example:
    """A photo and all its captions."""

    image: Path
    references: tuple[str, ...]
    split: Split | None
    """None where the dataset does not say."""
    dataset: str = ""
    """Name of its dataset where several are trained on; empty where there is one."""


@dataclass
class Problems:
    """What a reader met that is not right."""

    malformed: list[str] = field(default_factory=list)
    """Rows that hold no photo and caption; they are not used."""
    mended: list[str] = field(default_factory=list)
    """Rows that are wrong in a known way; they are used."""
    missing: list[str] = field(default_factory=list)
    """Photos that have captions and are not there."""
    uncaptioned: list[str] = field(default_factory=list)
    """Photos that should have a caption and have none; they are not used."""

    def lines(self) -> list[str]:
        """One sentence a kind, with the first few of it."""
        kinds = (
            ("malformed rows passed over", self.malformed),
            ("malformed rows mended", self.mended),
            ("captioned photos missing", self.missing),
            ("photos without a caption passed over", self.uncaptioned),
        )
        return [f"{len(seen)} {kind}, such as {such_as(seen)}" for kind, seen in kinds if seen]


def split_named(name: object) -> Split | None:
    """The split that datasets call by this name, if it is one."""
    return _NAMES.get(name.lower()) if isinstance(name, str) else None


def caption_in(value: object) -> str | None:
    """A value of a file as a caption, without the white space around it; None if it is none.

    Half of a surrogate pair, which JSON can write and UTF-8 cannot, becomes a question mark.
    """
    if not isinstance(value, str):
        return None
    return value.strip().encode("utf-8", "replace").decode("utf-8") or None


def such_as(seen: Sequence[str]) -> str:
    """The first few of many, for a sentence."""
    return ", ".join(seen[:_SHOWN]) + (", ..." if len(seen) > _SHOWN else "")
