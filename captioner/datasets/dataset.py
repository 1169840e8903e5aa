"""What is in a folder of captioned photos: finds its format, and reports what is wrong with it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from captioner.errors import CaptionerError

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
_SHOWN = 3


@dataclass(frozen=True)
class Example:
    """A photo and all its captions."""

    image: Path
    references: tuple[str, ...]
    split: Split | None
    """None where the dataset does not say."""


@dataclass
class Problems:
    """What a reader had to pass over, counted, with the first few of each kind."""

    malformed: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """One sentence a kind."""
        kinds = (("malformed rows passed over", self.malformed), ("captioned photos missing", self.missing))
        return [f"{len(seen)} {kind}, such as {_such_as(seen)}" for kind, seen in kinds if seen]


@dataclass(frozen=True)
class Dataset:
    """The captioned photos of a folder, every photo in exactly one split."""

    format: str
    examples: tuple[Example, ...]
    problems: Problems
    splits_from: str
    """Where the splits are from: the dataset's own files, or a draw by photo."""
    unlisted: int = 0
    """Photos in none of the dataset's own splits; they are not used."""

    def split(self, name: str) -> list[Example]:
        """The examples of a split, in the dataset's order.

        Raises:
            CaptionerError: there is no such split, or nothing in it.
        """
        chosen = [example for example in self.examples if example.split == name]
        if not chosen:
            there = ", ".join(split for split in SPLITS if any(e.split == split for e in self.examples))
            raise CaptionerError(f"The dataset has no photos in split {name!r}; it has {there}.")
        return chosen

    def summary(self) -> list[str]:
        """What was found, a line each, for a person."""
        captions = sum(len(example.references) for example in self.examples)
        counts = Counter(example.split for example in self.examples)
        splits = ", ".join(f"{split} {counts[split]}" for split in SPLITS if counts[split])
        return [
            f"dataset: {self.format}, {len(self.examples)} photos, {captions} captions",
            f"splits ({self.splits_from}): {splits} photos",
            *([f"warning: {self.unlisted} photos are in none of the split lists and not used"] * bool(self.unlisted)),
            *(f"warning: {line}" for line in self.problems.lines()),
        ]


Reader = Callable[[Path, Problems], Iterable[Example]]


def load_dataset(directory: Path, *, allow_missing: bool = False, seed: int = 0) -> Dataset:
    """Read a folder of captioned photos, whichever of the known formats it is in.

    Where the dataset has no splits, a tenth of the photos each is drawn for dev and test, by photo and never by
    caption, from the photo's name and the seed: a photo that is added changes nobody else's split.

    Args:
        directory: the folder.
        allow_missing: go on without the photos that are captioned but not there.
        seed: of the draw.

    Raises:
        CaptionerError: no such folder, no known format, no captions, or missing photos.
    """
    from captioner.datasets import coco, flickr8k

    if not directory.is_dir():
        raise CaptionerError(f"There is no dataset folder {directory}; name one with --data.")
    for module in (flickr8k, coco):
        if module.recognises(directory):
            break
    else:
        raise CaptionerError(
            f"{directory} is no dataset that is known: it must hold Flickr8k's captions.txt and its photos, or "
            "COCO's captions.json (or annotations/captions_*.json) and its photos."
        )
    problems = Problems()
    examples = list(module.read(directory, problems))
    if problems.missing and not allow_missing:
        raise CaptionerError(
            f"{len(problems.missing)} photos that {directory} captions are missing, such as "
            f"{_such_as(problems.missing)}; put them there, or go on without them with --allow-missing."
        )
    if not examples and problems.missing:
        raise CaptionerError(f"None of the photos that {directory} captions is there.")
    if not examples:
        raise CaptionerError(f"{directory} has no captions ({'; '.join(problems.lines()) or 'its file is empty'}).")
    _refuse_shared(directory, examples)
    splits_from = "from the dataset"
    if all(example.split is None for example in examples):
        splits_from = f"drawn by photo, seed {seed}"
        examples = [replace(example, split=_draw(example.image.name, seed)) for example in examples]
        if not {"train", "dev"} <= {example.split for example in examples}:
            examples = _halve(examples)
    listed = tuple(example for example in examples if example.split is not None)
    return Dataset(module.NAME, listed, problems, splits_from, unlisted=len(examples) - len(listed))


def _refuse_shared(directory: Path, examples: list[Example]) -> None:
    """A photo that is learnt must not be a photo that is scored."""
    first: dict[Path, Split | None] = {}
    shared = [e.image.name for e in examples if first.setdefault(e.image, e.split) != e.split]
    if shared:
        raise CaptionerError(
            f"{len(shared)} photos of {directory} are in two of its splits, such as {_such_as(shared)}; "
            "leave each in one."
        )


def _draw(name: str, seed: int) -> Split:
    lot = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") / 2**64
    return "train" if lot < 0.8 else "dev" if lot < 0.9 else "test"


def _halve(examples: list[Example]) -> list[Example]:
    """A handful of photos may all be drawn for one split; then the last is for dev, so that training can validate."""
    return [replace(e, split="dev" if i == len(examples) - 1 else "train") for i, e in enumerate(examples)]


def _such_as(seen: list[str]) -> str:
    return ", ".join(seen[:_SHOWN]) + (", ..." if len(seen) > _SHOWN else "")
