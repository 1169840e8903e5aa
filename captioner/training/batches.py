"""Batches of photos, each with all its captions, in an order that the seed and the epoch alone decide."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Indices = npt.NDArray[np.int64]


class Batch(NamedTuple):
    """Some photos and what is said of them."""

    seen: Tensor  # photos in any of the forms that `CaptionModel.forward` takes
    tokens: Tensor  # int64 (photos, captions, 1 + length): START, pieces, END, padding; longest caption first
    photos: Indices  # (photos,): which of the split they are


class Step(NamedTuple):
    """What one step of the optimiser learns from."""

    batches: list[Batch]  # this process's share, in parts; at least one
    words: int  # in the whole step, all processes together, END counted
    captions: int  # likewise
    photos: int  # likewise


class Source(Protocol):
    """Where photos come from: cached features, or files."""

    def plain(self, photos: Sequence[Indices]) -> Iterator[Tensor]:
        """Photos as they are, a tensor for each group of indices."""
        ...

    def varied(self, photos: Sequence[Indices], seed: int, epoch: int) -> Iterator[Tensor]:
        """Photos as training shows them in an epoch, decided by seed, epoch and index alone."""
        ...


class Batches:
    """All photos of a split, in batches.

    Args:
        source: gives the photos, by index.
        captions: of each photo, its captions as ids with START and END.
        batch_size: most photos a step, of all processes together.
        pad: id of the padding.
        parts: a process's share of a step is computed in so many parts.
        rank, count: which of how many processes this is.
    """

    def __init__(
        self,
        source: Source,
        captions: Sequence[Sequence[Sequence[int]]],
        batch_size: int,
        pad: int,
        *,
        parts: int = 1,
        rank: int = 0,
        count: int = 1,
    ) -> None:
        self.source = source
        self._pad, self._parts, self._rank, self._count = pad, parts, rank, count
        self._captions = [sorted(photo, key=len, reverse=True) for photo in captions]
        self._words = np.array([sum(len(caption) - 1 for caption in photo) for photo in self._captions])
        self._said = np.array([len(photo) for photo in self._captions])
        self._steps = -(-len(self._captions) // batch_size)

    def __len__(self) -> int:
        """Steps an epoch."""
        return self._steps

    @property
    def fewest(self) -> int:
        """Photos in the smallest step, of all processes together."""
        return len(self._captions) // self._steps

    @property
    def photos(self) -> int:
        """How many, in all processes."""
        return len(self._captions)

    @property
    def captions(self) -> int:
        """How many, in all processes."""
        return int(self._said.sum())

    @property
    def digest(self) -> str:
        """Of all captions in order: two trainings of the same digest see the same."""
        return hashlib.sha256(json.dumps(self._captions).encode()).hexdigest()

    def share(self) -> Indices:
        """This process's photos when every photo is looked at once, in order."""
        return np.arange(self._rank, len(self._captions), self._count)

    def in_order(self) -> Iterator[Batch]:
        """This process's share of the photos, once and as they are."""
        photos = self.share()
        size = -(-len(self._captions) // self._steps)
        groups = [photos[first : first + size] for first in range(0, len(photos), size)]
        for group, seen in zip(groups, self.source.plain(groups), strict=True):
            yield Batch(seen, self._tokens(group), group)

    def epoch(self, seed: int, epoch: int, first: int = 0) -> Iterator[Step]:
        """An epoch's steps from the `first` on: every photo once, as even in number as can be."""
        order = np.random.default_rng((seed, epoch)).permutation(len(self._captions))
        steps = np.array_split(order, self._steps)[first:]
        shares = [
            [part for part in np.array_split(np.array_split(step, self._count)[self._rank], self._parts) if len(part)]
            for step in steps
        ]
        seen = self.source.varied([part for share in shares for part in share], seed, epoch)
        for step, share in zip(steps, shares, strict=True):
            batches = [Batch(next(seen), self._tokens(part), part) for part in share]
            yield Step(batches, int(self._words[step].sum()), int(self._said[step].sum()), len(step))

    def _tokens(self, photos: Indices) -> Tensor:
        return pad_captions([self._captions[i] for i in photos], self._pad)


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
