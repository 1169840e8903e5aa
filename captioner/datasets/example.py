"""Examples of a dataset, their splits, and the problems found while reading them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")

_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "trainval": "train",
    "restval": "train",  # Karpathy's name for COCO validation photos that are used for training
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
"""Names of split folders."""
_NOUNS = "set|split|data|images?|photos?|captions?|annotations?|labels?"
_WORD = re.compile(rf"(?<![A-Za-z])((?i:{'|'.join(_NAMES)}))(?i:{_NOUNS})?(?![a-z])")  # not `valley`

_SHOWN = 3


@dataclass(frozen=True)
class Example:
    """A photo and all its captions."""

    image: Path
    references: tuple[str, ...]
    split: Split | None
    """None if the dataset does not assign one."""
    dataset: str = ""
    """Name of its dataset if several are joined; otherwise empty."""


@dataclass
class Problems:
    """Faults found while reading a dataset."""

    malformed: list[str] = field(default_factory=list)
    """Rows without a photo or without a caption; they are not used."""
    mended: list[str] = field(default_factory=list)
    """Rows with a known fault; they are used."""
    missing: list[str] = field(default_factory=list)
    """Photos that have captions but do not exist."""
    guessed: list[str] = field(default_factory=list)
    """Names in captions that differ from the photo's name; they are used."""
    uncaptioned: list[str] = field(default_factory=list)
    """Photos without a caption; they are not used."""
    wordless: list[str] = field(default_factory=list)
    """Captions without a letter or digit, or marks of a missing value such as `NaN`; they are not used."""
    rejected: list[str] = field(default_factory=list)
    """Captions that the dataset marks as unusable; they are not used."""
    unread: list[str] = field(default_factory=list)
    """Caption files that are not read because another file is."""
    columns: list[str] = field(default_factory=list)
    """Descriptions of the table columns that were read; these are not faults."""

    def kinds(self) -> dict[str, list[str]]:
        """Returns the faults by kind, a phrase that follows their number, such as `photos have no caption`."""
        found = {
            "photos have captions but are missing": self.missing,
            "photos have another name in the captions": list(dict.fromkeys(self.guessed)),
            "photos have no caption": self.uncaptioned,
            "captions have no word": self.wordless,
            "captions are marked as rejected or precanned and left out": self.rejected,
            "rows are malformed and skipped": self.malformed,
            "rows are malformed and repaired": self.mended,
            "caption files are not read": self.unread,
        }
        return {kind: seen for kind, seen in found.items() if seen}

    def lines(self) -> list[str]:
        """Describes each kind of fault in a phrase, with its first few occurrences."""
        return [in_short(kind, seen) for kind, seen in self.kinds().items()]


def split_named(name: object) -> Split | None:
    """Returns the split that a name such as `val` stands for, or None."""
    return _NAMES.get(name.lower()) if isinstance(name, str) else None


def split_in(name: str) -> Split | None:
    """Returns the split that a word of a file name stands for, as in `captions_train2017`, `valSet` or `testset`."""
    word = _WORD.search(name)
    return split_named(word[1]) if word else None


def caption_in(value: object) -> str | None:
    """Returns a value as a caption without surrounding white space, or None if it is not a caption.

    Half of a surrogate pair, which JSON can encode but UTF-8 cannot, becomes a question mark.
    """
    if not isinstance(value, str):
        return None
    return value.strip().encode("utf-8", "replace").decode("utf-8") or None


def in_short(kind: str, seen: Sequence[str]) -> str:
    """Describes a kind of fault in a phrase, with its first few occurrences."""
    return f"{len(seen)} {kind}: {such_as(seen)}"


def such_as(seen: Sequence[str]) -> str:
    """Lists the first few items for a sentence."""
    return ", ".join(seen[:_SHOWN]) + (", ..." if len(seen) > _SHOWN else "")
