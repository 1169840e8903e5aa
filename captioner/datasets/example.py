"""An example of a dataset, its split, and the problems of reading one."""

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
    guessed: list[str] = field(default_factory=list)
    """Names in captions that differ from those of their photos; they are used."""
    uncaptioned: list[str] = field(default_factory=list)
    """Photos without a caption among those with one; they are not used."""
    wordless: list[str] = field(default_factory=list)
    """Captions without a letter or a digit, such as emoji alone; they are not used."""
    rejected: list[str] = field(default_factory=list)
    """Captions that the dataset marks as unusable; they are not used."""
    repeated: list[str] = field(default_factory=list)
    """Photos that are listed more than once; their captions are joined."""
    unread: list[str] = field(default_factory=list)
    """Files of captions that are not read, because another one is."""
    columns: list[str] = field(default_factory=list)
    """Phrases about the columns of tables that were read; descriptions, not faults."""

    def kinds(self) -> dict[str, list[str]]:
        """Returns every occurrence of each kind of fault that occurs, by a phrase that follows their number."""
        found = {
            "photos have captions but are missing": self.missing,
            "photos have another name in the captions": list(dict.fromkeys(self.guessed)),
            "photos have no caption": self.uncaptioned,
            "captions have no word": self.wordless,
            "captions are marked as rejected or precanned and left out": self.rejected,
            "rows are malformed and skipped": self.malformed,
            "rows are malformed and repaired": self.mended,
            "photos are listed more than once": self.repeated,
            "files of captions are not read": self.unread,
        }
        return {kind: seen for kind, seen in found.items() if seen}

    def lines(self) -> list[str]:
        """Describes each kind of fault in a phrase, with its first few occurrences."""
        return [in_short(kind, seen) for kind, seen in self.kinds().items()]


def split_named(name: object) -> Split | None:
    """Returns the split of a name that datasets use, or None."""
    return _NAMES.get(name.lower()) if isinstance(name, str) else None


def split_word(name: str) -> str:
    """Returns the word of a file's name that names a split, or an empty one: `train` of `captions_train2017`."""
    mark = re.search(r"(?<![a-z])(train|val|dev|test)", name.lower())
    return mark[1] if mark else ""


def caption_in(value: object) -> str | None:
    """Returns a value of a file as a caption without surrounding white space, or None if it is not one.

    Half of a surrogate pair, which JSON can encode but UTF-8 cannot, becomes a question mark.
    """
    if not isinstance(value, str):
        return None
    return value.strip().encode("utf-8", "replace").decode("utf-8") or None


def in_short(kind: str, seen: Sequence[str]) -> str:
    """Describes a kind of fault in a phrase, with its first few occurrences."""
    return f"{len(seen)} {kind}, such as {such_as(seen)}"


def such_as(seen: Sequence[str]) -> str:
    """Lists the first few of many for a sentence."""
    return ", ".join(seen[:_SHOWN]) + (", ..." if len(seen) > _SHOWN else "")
