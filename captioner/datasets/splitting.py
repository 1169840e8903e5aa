"""Draws the splits of datasets that have none."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from captioner.config import DataConfig
from captioner.datasets.example import Example, Split


def split_examples(examples: Sequence[Example], config: DataConfig) -> tuple[list[Example], str]:
    """Draws the missing splits of a dataset: all splits, or dev from train.

    A photo's split depends only on its name and the seed, so adding a photo does not move others. Examples without a
    split stay without one if other examples have one.

    Args:
        examples: the examples.
        config: has the relative sizes of train, dev and test, and the seed.

    Returns:
        The examples with their splits, and the origin of the splits as a phrase.
    """
    parts, seed = config.splits, config.split_seed
    there = {example.split for example in examples}
    of_draw = f"{':'.join(f'{part:g}' for part in parts)}, seed {seed}"
    if there <= {None}:
        return _with_dev(_drawn(examples, parts, seed)), f"drawn by photo, {of_draw}"
    train = [i for i, example in enumerate(examples) if example.split == "train"]
    if len(train) > 1 and "dev" not in there:
        drawn = _with_dev(_drawn([examples[i] for i in train], (parts[0], parts[1], 0), seed))
        mixed = list(examples)
        for i, example in zip(train, drawn, strict=True):
            mixed[i] = example
        return mixed, f"from the dataset; dev drawn from train by photo, {of_draw}"
    return list(examples), "from the dataset"


def _drawn(examples: Sequence[Example], parts: tuple[float, float, float], seed: int) -> list[Example]:
    whole = sum(parts)
    train, dev = parts[0] / whole, (parts[0] + parts[1]) / whole

    def draw(name: str) -> Split:
        name = unicodedata.normalize("NFC", name)  # a dataset copied on a Mac has decomposed names
        digest = hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest()
        lot = int.from_bytes(digest[:8], "big") / 2**64
        return "train" if lot < train else "dev" if lot < dev else "test"

    return [replace(example, split=draw(example.image.name)) for example in examples]


def _with_dev(examples: list[Example]) -> list[Example]:
    """Moves the last photo to dev if train or dev is empty, which happens with a handful of photos."""
    if {"train", "dev"} <= {example.split for example in examples}:
        return examples
    return [replace(e, split="dev" if i == len(examples) - 1 else "train") for i, e in enumerate(examples)]
