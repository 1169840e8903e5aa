"""Batches of photos with all their captions, in an order that depends only on seed and epoch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from captioner.models.decoder import pad_captions

Indices = npt.NDArray[np.int64]


class Batch(NamedTuple):
    """Photos and their captions."""

    seen: Tensor  # photos in any form that `CaptionModel.forward` accepts
    tokens: Tensor  # int64 (photos, captions, 1 + length): START, pieces, END, padding; longest caption first
    photos: Indices  # (photos,): indices in the split
    weights: Tensor  # float32 (photos,): weight of each caption of a photo in the loss


class Step(NamedTuple):
    """The data of one optimiser step; counts are over all processes."""

    batches: list[Batch]  # this process's share, in at least one part
    words: int  # END included
    captions: int
    photos: int
    weighted_words: float  # words, each times the weight of its photo's captions
    weighted_captions: float


class Source(Protocol):
    """A source of photos: cached features, or files."""

    def plain(self, photos: Sequence[Indices]) -> Iterator[Tensor]:
        """Yields unchanged photos, a tensor for each group of indices."""
        ...

    def varied(self, photos: Sequence[Indices], seed: int, epoch: int) -> Iterator[Tensor]:
        """Yields photos as an epoch of training shows them; they depend only on seed, epoch and index.

        An index beyond the number of photos is another showing of photo `index % photos` in the same epoch.
        """
        ...


class Batches:
    """Divides the photos of a split into batches.

    Args:
        source: yields photos by index.
        captions: for each photo, its captions as ids with START and END.
        batch_size: maximum number of photos per step, over all processes.
        pad: id of the padding.
        parts: number of parts in which a process computes its share of a step.
        rank, count: index of this process, and number of processes.
        balance: 0 gives every caption the same weight in the loss, 1 every photo; in between, the weight of a caption
            is (most captions of a photo / captions of its photo) ** balance.
        shown: for each photo, how often an epoch shows it on average; None shows each photo once. Fractions are
            drawn among the photos with the same value, at least one of them, so every epoch has the same number of
            steps.
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
        balance: float = 0.0,
        shown: Sequence[float] | None = None,
    ) -> None:
        self.source = source
        self._pad, self._parts, self._rank, self._count = pad, parts, rank, count
        self._captions = [sorted(photo, key=len, reverse=True) for photo in captions]
        self._words = np.array([sum(len(caption) - 1 for caption in photo) for photo in self._captions])
        self._said = np.array([len(photo) for photo in self._captions])
        self._weights = (self._said.max() / self._said) ** balance
        self._shown = np.ones(len(self._captions)) if shown is None else np.array(shown, float)
        self.showings = len(self._draw(np.random.default_rng(0)))
        """Number of photos that an epoch shows; a photo shown twice counts twice."""
        self._steps = -(-self.showings // batch_size)
        self._batch_size = batch_size

    def __len__(self) -> int:
        """Returns the number of steps in an epoch."""
        return self._steps

    @property
    def fewest(self) -> int:
        """Number of photos in the smallest step, over all processes."""
        return self.showings // self._steps

    @property
    def photos(self) -> int:
        """Number of photos in the split."""
        return len(self._captions)

    @property
    def captions(self) -> int:
        """Number of captions that an epoch shows; the expected number if photos are drawn by weight."""
        return round(float((self._said * self._shown).sum()))

    @property
    def digest(self) -> str:
        """A digest of all captions in order, and of how often they are shown."""
        seen: object = [self._captions, self._shown.tolist()] if (self._shown != 1).any() else self._captions
        return hashlib.sha256(json.dumps(seen).encode()).hexdigest()

    def share(self) -> Indices:
        """Returns the indices of this process's photos in a pass over all photos, in order."""
        return np.arange(self._rank, len(self._captions), self._count)

    def in_order(self) -> Iterator[Batch]:
        """Yields this process's share of the photos once, without augmentation."""
        photos = self.share()
        size = -(-len(self._captions) // -(-len(self._captions) // self._batch_size))
        groups = [photos[first : first + size] for first in range(0, len(photos), size)]
        for group, seen in zip(groups, self.source.plain(groups), strict=True):
            yield self._batch(group, seen)

    def epoch(self, seed: int, epoch: int, first: int = 0) -> Iterator[Step]:
        """Yields the steps of an epoch from index `first` on, dividing the photos as evenly as possible."""
        rng = np.random.default_rng((seed, epoch))
        order = self._draw(rng) if (self._shown != 1).any() else rng.permutation(len(self._captions))
        steps = np.array_split(order, self._steps)[first:]
        shares = [
            [part for part in np.array_split(np.array_split(step, self._count)[self._rank], self._parts) if len(part)]
            for step in steps
        ]
        seen = self.source.varied([part for share in shares for part in share], seed, epoch)
        for step, share in zip(steps, shares, strict=True):
            batches = [self._batch(part % len(self._captions), next(seen)) for part in share]
            photos = step % len(self._captions)
            words, captions, weights = self._words[photos], self._said[photos], self._weights[photos]
            yield Step(
                batches,
                int(words.sum()),
                int(captions.sum()),
                len(step),
                float((words * weights).sum()),
                float((captions * weights).sum()),
            )

    def _batch(self, photos: Indices, seen: Tensor) -> Batch:
        tokens = pad_captions([self._captions[i] for i in photos], self._pad)
        return Batch(seen, tokens, photos, torch.from_numpy(self._weights[photos]).float())

    def _draw(self, rng: np.random.Generator) -> Indices:
        """Draws the photos of an epoch in random order; each repetition adds the number of photos to an index."""
        chosen = []
        for weight in np.unique(self._shown):
            photos = np.flatnonzero(self._shown == weight)
            whole = int(weight)
            chosen += [photos + len(self._shown) * time for time in range(whole)]
            rest = max(round((weight - whole) * len(photos)), 1 - whole)  # at least one photo of each weight
            chosen.append(np.sort(rng.permutation(photos)[:rest]) + len(self._shown) * whole)
        return rng.permutation(np.concatenate(chosen))
