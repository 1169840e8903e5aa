"""Selects a limited number of examples, and reads their photos."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
import numpy.typing as npt

from caprun.photos.preprocessing import ImageSpec, load
from captioner.datasets import Example


def from_each_dataset(examples: Sequence[Example], count: int) -> list[Example]:
    """Selects up to `count` examples, one from each dataset in turn; a small dataset contributes all its examples."""
    by_dataset: dict[str, list[Example]] = {}
    for example in examples:
        by_dataset.setdefault(example.dataset, []).append(example)
    turns = chain.from_iterable(zip_longest(*by_dataset.values()))
    return [example for example in turns if example is not None][:count]


def drawn_from_each_dataset(examples: Sequence[Example], count: int) -> list[Example]:
    """Draws a fixed random sample, with equal shares for all datasets that are large enough."""
    order = np.random.default_rng(0).permutation(len(examples))
    return from_each_dataset([examples[i] for i in order], count)


def prepared(files: Sequence[Path], image: ImageSpec) -> npt.NDArray[np.uint8]:
    """Reads photos and resizes them to the model's input size.

    Returns:
        uint8 (photos, height, width, 3).

    Raises:
        ImageError: a photo cannot be read.
    """
    photos = np.empty((len(files), image.height, image.width, 3), np.uint8)
    for photo, file in zip(photos, files, strict=True):
        photo[:] = load(file, image)
    return photos
