"""Batches of photos, each with all its captions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from captioner.training.features import Features


class Batch(NamedTuple):
    """Some photos and what is said of them."""

    features: Tensor  # float32 (photos, regions, channels)
    tokens: Tensor  # int64 (photos, captions, 1 + length): START, pieces, END, padding; longest caption first

    @property
    def photos(self) -> int:
        """How many."""
        return len(self.features)


class Batches:
    """All photos of a split, in batches.

    Args:
        features: of the split's photos.
        captions: of each photo, its captions as ids with START and END.
        batch_size: photos a batch.
        pad: id of the padding.
    """

    def __init__(
        self, features: Features, captions: Sequence[Sequence[Sequence[int]]], batch_size: int, pad: int
    ) -> None:
        self._features, self._batch_size, self._pad = features, batch_size, pad
        self._captions = [sorted(photo, key=len, reverse=True) for photo in captions]

    def __len__(self) -> int:
        return -(-len(self._captions) // self._batch_size)

    def in_order(self) -> Iterator[Batch]:
        """Every photo once, as given."""
        return self._batches(np.arange(len(self._captions)))

    def shuffled(self, seed: int, epoch: int) -> Iterator[Batch]:
        """Every photo once, in an order that the seed and the epoch alone decide."""
        return self._batches(np.random.default_rng((seed, epoch)).permutation(len(self._captions)))

    def _batches(self, order: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Iterator[Batch]:
        for first in range(0, len(order), self._batch_size):
            photos = order[first : first + self._batch_size]
            yield Batch(self._features.of(photos), pad_captions([self._captions[i] for i in photos], self._pad))


def pad_captions(captions: Sequence[Sequence[Sequence[int]]], pad: int) -> Tensor:
    """Captions of several photos to one tensor, int64 (photos, captions, length), filled up with `pad`.

    A photo with fewer captions than the others gets empty ones: all padding.
    """
    most = max(len(photo) for photo in captions)
    longest = max(len(caption) for photo in captions for caption in photo)
    tokens = np.full((len(captions), most, longest), pad, np.int64)
    for i, photo in enumerate(captions):
        for j, caption in enumerate(photo):
            tokens[i, j, : len(caption)] = caption
    return torch.from_numpy(tokens)
