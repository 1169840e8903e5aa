"""An example of a dataset, its split, and the problems of reading one."""

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
    "restval": "train",  # Karpathy's name for photos of COCO's validation set that are used for training
    "dev": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "test": "test",
    "testing": "test",
    "eval": "test",  # as Hugging Face's `datasets` reads it
    "evaluation": "test",
}
SPLIT_FOLDERS = tuple(name for name in _NAMES if name != "restval")
"""Names of the folders of splits."""

_SHOWN = 3


@dataclass(frozen=True)
class Example:
    """A photo and all its captions."""

    image: Path
    references: tuple[str, ...]
    split: Split | None
    """None if the dataset does not name one."""
    dataset: str = ""
    """Name of its dataset, where several are trained on; otherwise empty."""


@dataclass
class Problems:
    """Faults that were found while reading a dataset."""

    malformed: list[str] = field(default_factory=list)
    """Rows without a photo and a caption; they are not used."""
    mended: list[str] = field(default_factory=list)
    """Rows with a known fault; they are used."""
    missing: list[str] = field(default_factory=list)
    """Photos that have captions but do not exist."""
    uncaptioned: list[str] = field(default_factory=list)
    """Photos without a caption; they are not used."""
    wordless: list[str] = field(default_factory=list)
    """Captions without a letter or a digit, such as emoji alone; they are not used."""

    def lines(self) -> list[str]:
        """Describes each kind of fault in a phrase, with its first few occurrences."""
        kinds = (
            ("malformed rows skipped", self.malformed),
            ("malformed rows repaired", self.mended),
            ("captioned photos missing", self.missing),
            ("photos without a caption skipped", self.uncaptioned),
            ("captions without a word skipped", self.wordless),
        )
        return [f"{len(seen)} {kind}, such as {such_as(seen)}" for kind, seen in kinds if seen]


def split_named(name: object) -> Split | None:
    """Returns the split of a name that datasets use, or None."""
    return _NAMES.get(name.lower()) if isinstance(name, str) else None


def caption_in(value: object) -> str | None:
    """Returns a value of a file as a caption without surrounding white space, or None if it is not one.

    Half of a surrogate pair, which JSON can encode but UTF-8 cannot, becomes a question mark.
    """
    if not isinstance(value, str):
        return None
    return value.strip().encode("utf-8", "replace").decode("utf-8") or None


def such_as(seen: Sequence[str]) -> str:
    """Lists the first few of many for a sentence."""
    return ", ".join(seen[:_SHOWN]) + (", ..." if len(seen) > _SHOWN else "")
