"""Which photo is learnt, which validated and which tested, where a dataset does not say."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from caprun.errors import UsageError
from captioner.datasets.example import Example, Split

Parts = tuple[float, float, float]
"""Of the photos for train, dev and test, relative to each other: they need not add up to 100."""

PARTS: Parts = (80, 10, 10)


class Splitting(NamedTuple):
    """Examples with their splits."""

    examples: list[Example]
    source: str
    """Where the splits are from, for a person."""


def split_examples(examples: Sequence[Example], parts: Parts, seed: int) -> Splitting:
    """Draw the splits that a dataset does not have: all of them, or dev from train where it has train alone.

    A photo's split is drawn from its name and the seed, never by caption, so that a photo that is added changes nobody
    else's. An example whose split is None beside others that have one is left as it is.

    Raises:
        UsageError: a part is negative or not finite, or train or dev has none.
    """
    _check(parts)
    there = {example.split for example in examples}
    of_draw = f"{':'.join(f'{part:g}' for part in parts)}, seed {seed}"
    if there <= {None}:
        return Splitting(_with_dev(_drawn(examples, parts, seed)), f"drawn by photo, {of_draw}")
    train = [i for i, example in enumerate(examples) if example.split == "train"]
    if len(train) > 1 and "dev" not in there:
        drawn = _with_dev(_drawn([examples[i] for i in train], (parts[0], parts[1], 0), seed))
        mixed = list(examples)
        for i, example in zip(train, drawn, strict=True):
            mixed[i] = example
        return Splitting(mixed, f"from the dataset; dev, which it lacks, drawn from train by photo, {of_draw}")
    return Splitting(list(examples), "from the dataset")


def _check(parts: Parts) -> None:
    if len(parts) != 3 or not math.isfinite(sum(parts)) or min(parts) < 0 or min(parts[:2]) == 0:
        given = " ".join(f"{part:g}" for part in parts)
        raise UsageError(f"Splits of {given} cannot be drawn: train and dev need a part each, and none is negative.")


def _drawn(examples: Sequence[Example], parts: Parts, seed: int) -> list[Example]:
    whole = sum(parts)
    train, dev = parts[0] / whole, (parts[0] + parts[1]) / whole

    def draw(name: str) -> Split:
        digest = hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest()
        lot = int.from_bytes(digest[:8], "big") / 2**64
        return "train" if lot < train else "dev" if lot < dev else "test"

    return [replace(example, split=draw(example.image.name)) for example in examples]


def _with_dev(examples: list[Example]) -> list[Example]:
    """A handful of photos may all be drawn for one split; then the last is for dev, so that training can validate."""
    if {"train", "dev"} <= {example.split for example in examples}:
        return examples
    return [replace(e, split="dev" if i == len(examples) - 1 else "train") for i, e in enumerate(examples)]
