"""Batches of photos, each with all its captions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
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


class View(NamedTuple):
    """Another view of the photos of a split."""

    features: Features
    allowed: npt.NDArray[np.bool_]  # (photos,): whether the photo's captions are true of it


class Batches:
    """All photos of a split, in batches.

    Args:
        features: of the split's photos.
        captions: of each photo, its captions as ids with START and END.
        batch_size: photos a batch.
        pad: id of the padding.
        views: other views of the same photos, of which `shuffled` draws one a photo, the photo itself among them.
    """

    def __init__(
        self,
        features: Features,
        captions: Sequence[Sequence[Sequence[int]]],
        batch_size: int,
        pad: int,
        views: Sequence[View] = (),
    ) -> None:
        self._batch_size, self._pad = batch_size, pad
        self._views = [View(features, np.ones(len(captions), bool)), *views]
        self._captions = [sorted(photo, key=len, reverse=True) for photo in captions]

    def __len__(self) -> int:
        return -(-len(self._captions) // self._batch_size)

    def in_order(self) -> Iterator[Batch]:
        """Every photo once, as given."""
        count = len(self._captions)
        return self._batches(np.arange(count), np.zeros(count, np.int64))

    def shuffled(self, seed: int, epoch: int) -> Iterator[Batch]:
        """Every photo once, in an order and in views that the seed and the epoch alone decide."""
        rng = np.random.default_rng((seed, epoch))
        order = rng.permutation(len(self._captions))
        drawn = rng.integers(len(self._views), size=len(self._captions))
        allowed = np.array([view.allowed for view in self._views])[drawn, np.arange(len(drawn))]
        return self._batches(order, np.where(allowed, drawn, 0))

    def _batches(self, order: npt.NDArray[np.int64], drawn: npt.NDArray[np.int64]) -> Iterator[Batch]:
        for first in range(0, len(order), self._batch_size):
            photos = order[first : first + self._batch_size]
            features = torch.cat([self._views[drawn[photo]].features.of([photo]) for photo in photos])
            yield Batch(features, pad_captions([self._captions[i] for i in photos], self._pad))


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
