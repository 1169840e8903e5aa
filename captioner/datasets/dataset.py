"""A dataset for training and evaluation: each photo in one split, and the problems found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from captioner.config import DataConfig
from captioner.datasets.example import SPLITS, Example, Problems, such_as
from captioner.datasets.formats import read_dataset
from captioner.datasets.splitting import split_examples
from captioner.errors import CaptionerError


@dataclass(frozen=True)
class Dataset:
    """Captioned photos from one dataset, or from several that are joined for training."""

    format: str
    examples: tuple[Example, ...]
    problems: Problems
    splits_from: str
    """Origin of the splits: the dataset's own files, or a random draw by photo."""
    unlisted: int = 0
    """Number of photos outside the dataset's own splits; they are not used."""
    source: str = ""
    """Format and files, if the format's name does not identify the file."""
    name: str = ""
    """Name of the dataset's folder if several datasets are joined; otherwise empty."""
    weight: float = 1.0
    """Average number of times a training photo is shown per epoch."""
    parts: tuple[Dataset, ...] = ()
    """The joined datasets; empty for a single dataset."""
    notes: tuple[str, ...] = ()
    """Warnings from comparing the datasets."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the joined datasets; empty for a single dataset."""
        return tuple(part.name for part in self.parts)

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each dataset, by `Example.dataset`."""
        return {part.name: part.weight for part in self.parts} or {"": self.weight}

    @property
    def mixed_in(self) -> dict[str, float]:
        """Weights below 1, by dataset; empty if no dataset has a larger weight, since only then is a dataset old."""
        weights = self.weights
        return {name: weight for name, weight in weights.items() if weight < 1} if max(weights.values()) >= 1 else {}

    def without(self, images: Collection[Path]) -> Dataset:
        """Returns the dataset without some photos."""
        kept = tuple(example for example in self.examples if example.image not in images)
        return replace(self, examples=kept, parts=tuple(part.without(images) for part in self.parts))

    def split(self, name: str) -> list[Example]:
        """Returns the examples of a split, in the dataset's order.

        Raises:
            CaptionerError: the split has no photos.
        """
        chosen = [example for example in self.examples if example.split == name]
        if not chosen:
            there = ", ".join(split for split in SPLITS if any(e.split == split for e in self.examples))
            raise CaptionerError(f"The dataset has no photos in split {name!r}; its splits are {there}.")
        return chosen

    def summary(self) -> list[str]:
        """Describes the dataset, one finding per line."""
        if self.parts:
            lines = [f"{part.name}: {line}" for part in self.parts for line in part.summary()]
            return [*lines, *(f"warning: {note}" for note in self.notes)]
        captions = sum(len(example.references) for example in self.examples)
        counts = Counter(example.split for example in self.examples)
        splits = ", ".join(f"{split} {counts[split]}" for split in SPLITS if counts[split])
        return [
            f"dataset: {self.source or self.format}, {len(self.examples)} photos, {captions} captions",
            *(f"columns: {columns}" for columns in self.problems.columns),
            f"splits ({self.splits_from}): {splits} photos",
            *([f"weight {self.weight:g}: shown {self.weight:g} times per epoch"] * (self.weight != 1)),
            *([f"warning: {self.unlisted} photos are in no split and not used"] * bool(self.unlisted)),
            *(f"warning: {line}" for line in self.problems.lines()),
        ]


def load_dataset(
    directory: Path, config: DataConfig | None = None, *, allow_missing: bool = False, cache: Path | None = None
) -> Dataset:
    """Reads a dataset of captioned photos in any known format.

    Missing splits are drawn by photo (`split_examples`).

    Args:
        directory: the dataset, see `read_dataset`.
        config: training settings, for splits that are drawn; None for the defaults.
        allow_missing: whether to accept captions whose photos are missing.
        cache: the cache folder, by default the user's.

    Raises:
        CaptionerError: the dataset does not exist, is not in a known format, has no captions, is missing photos, or
            lists a photo in two splits.
    """
    reading = read_dataset(directory, cache)
    problems = reading.problems
    if problems.missing and not allow_missing:
        raise CaptionerError(
            f"{len(problems.missing)} photos of {directory} have captions but are missing: "
            f"{such_as(problems.missing)}; add them, or leave them out with --allow-missing."
        )
    if not reading.examples and problems.missing:
        raise CaptionerError(f"All photos that have captions in {directory} are missing; check the path.")
    if not reading.examples:
        why = "; ".join([*problems.lines(), *problems.columns]) or "its file is empty"
        raise CaptionerError(f"{directory} has no captions ({why}); check the path.")
    shared = [example.image.name for example in reading.in_two_splits()]
    if shared:
        raise CaptionerError(
            f"{len(shared)} photos of {directory} are in two of its splits: {such_as(shared)}; "
            "list each photo in one split."
        )
    drawn, splits_from = split_examples(reading.examples, config or DataConfig())
    listed = tuple(example for example in drawn if example.split is not None)
    return Dataset(
        reading.format,
        listed,
        problems,
        splits_from,
        unlisted=len(drawn) - len(listed),
        source=reading.source,
    )
