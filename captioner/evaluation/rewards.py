"""Rewards of captions in self-critical training: CIDEr-D and BLEU-4 against fixed references.

Thousands of captions are scored between two optimiser steps. Everything that depends only on the references is
therefore computed once and kept in sorted arrays, and captions are scored in batches without a Python loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from caprun.arrays import Float64Array, Ids
from caprun.bundle.vocabulary import Joining, Vocabulary
from captioner.evaluation.bleu import SMALL, TINY
from captioner.evaluation.cider import SIGMA
from captioner.evaluation.ngrams import MAX_ORDER
from captioner.text.metric_words import ends_with, tokenize

_END = 0  # the word id of END


class Rewarded(NamedTuple):
    """The rewards of captions, each float64 (captions,)."""

    cider: Float64Array  # CIDEr-D, in 0..10
    bleu_4: Float64Array  # BLEU-4 of the single caption, in 0..1
    ends_badly: npt.NDArray[np.bool_]  # whether the caption ends with one of the bad endings
    longer: Float64Array  # relative difference in length to the mean of the photo's references, such as 0.1 or -0.2


class _Captions(NamedTuple):
    """Captions, concatenated."""

    words: Ids  # (all words,)
    lengths: Ids  # (captions,)


class _Order(NamedTuple):
    """The references' n-grams of one order."""

    keys: Ids  # sorted; the id of an n-gram is its index here
    rarity: Float64Array  # (n-grams + 1,): log(photos / photos with the n-gram); the last is for unseen n-grams
    places: Ids  # sorted, unique: photo * (n-grams + 1) + n-gram
    first: Ids  # (places + 1,): index of the first entry of each place
    most: Ids  # (places,): largest count in any reference of the photo
    reference: Ids  # (entries,): index of the reference within the photo
    weight: Float64Array  # (entries,): tf-idf
    norm: Float64Array  # (photos, references)


class CaptionRewards:
    """Scores captions that are given as ids of a vocabulary.

    Args:
        references: for each photo, the words of its reference captions, at least one.
        vocabulary: the vocabulary of the captions.
        bad_endings: texts that a caption should not end with.

    END counts as the last word of a reference and of a finished caption; without it, `a boy is playing in a` would have
    no wrong n-gram. Document frequencies come from these references, END included. Apart from END, the values equal
    those of `captioner.evaluation.cider.Cider` and `captioner.evaluation.bleu.bleu`, and thus of `pycocoevalcap`.
    """

    def __init__(
        self,
        references: Sequence[Sequence[Sequence[str]]],
        vocabulary: Vocabulary,
        bad_endings: Iterable[str] = (),
    ) -> None:
        self._ids: dict[str, int] = {}
        self._vocabulary = vocabulary
        # if spaces join pieces, the words of a piece do not depend on its neighbours
        apart = vocabulary.joining == Joining()
        self._of_piece = [self._intern(tokenize(piece)) for piece in vocabulary.pieces] if apart else None
        captions = _flat([[*self._intern(words), _END] for of_photo in references for words in of_photo])
        counts = np.array([len(of_photo) for of_photo in references], np.int64)
        self._bad_endings = [self._intern(tokenize(ending)) for ending in bad_endings]
        # all words are known now, except words of joined pieces that are in no reference
        self._base = len(self._ids) + 2
        number, photo = _ranges(np.zeros_like(counts), counts)
        self._counts = counts
        self._lengths = np.zeros((len(counts), int(counts.max())))
        self._lengths[photo, number] = captions.lengths
        # which references exist; the others are padding
        self._there = np.arange(self._lengths.shape[1]) < counts[:, None]
        self._orders = self._index(captions, photo, number)

    def score(self, photos: Ids, ids: Sequence[Sequence[int]], ended: npt.NDArray[np.bool_]) -> Rewarded:
        """Scores captions.

        Args:
            photos: int64 (captions,), the photo of each caption.
            ids: each caption without END.
            ended: bool (captions,), whether END follows.
        """
        words = [self._words(one) for one in ids]
        ends_badly = np.array([ends_with(caption, self._bad_endings) for caption in words], np.bool_)
        captions = _flat([[*caption, _END] if end else caption for caption, end in zip(words, ended, strict=True)])
        rows, references = len(captions.lengths), self._lengths.shape[1]
        difference = captions.lengths[:, None] - self._lengths[photos]
        closeness = np.exp(-(difference**2) / (2 * SIGMA**2)) * self._there[photos]
        similarity = np.zeros((rows, references))
        precision = np.ones(rows)
        counted = self._ngrams(captions, self._known_ids)
        for order, (known, (caption, ngram, times)) in enumerate(zip(self._orders, counted, strict=True), 1):
            weight = times * known.rarity[np.minimum(ngram, len(known.keys))]
            norm = np.sqrt(np.bincount(caption, weight**2, rows))
            place = photos[caption] * (len(known.keys) + 1) + ngram
            at = np.searchsorted(known.places, place)
            # -1 stands for a place past the last; no n-gram has it
            shared = (ngram < len(known.keys)) & (np.append(known.places, -1)[at] == place)
            at, caption = at[shared], caption[shared]
            clipped = np.bincount(caption, np.minimum(times[shared], known.most[at]), rows)
            precision *= (clipped + TINY) / (np.maximum(captions.lengths - order + 1, 0) + SMALL)
            entry, owner = _ranges(known.first[at], known.first[at + 1])
            theirs = known.weight[entry]
            product = np.minimum(weight[shared][owner], theirs) * theirs
            cell = caption[owner] * references + known.reference[entry]
            products = np.bincount(cell, product, rows * references).reshape(rows, references)
            norms = norm[:, None] * known.norm[photos]
            # an order without weighted n-grams has a norm of 0 and adds nothing
            similarity += np.divide(products, norms, out=np.zeros(norms.shape), where=products > 0)
        cider = 10 / MAX_ORDER * (similarity * closeness).sum(1) / self._counts[photos]
        bleu_4 = self._brevity(photos, captions.lengths) * precision ** (1 / MAX_ORDER)
        mean = self._lengths[photos].sum(1) / self._counts[photos]
        # a missing END does not make a caption shorter
        return Rewarded(cider, bleu_4, ends_badly, (captions.lengths + ~ended) / mean - 1)

    def _brevity(self, photos: Ids, lengths: Ids) -> Float64Array:
        """Computes BLEU's brevity penalty against the reference closest in length, the shorter of two."""
        theirs = np.where(self._there[photos], self._lengths[photos], np.inf)
        away = np.abs(theirs - lengths[:, None])
        closest = np.where(away == away.min(1, keepdims=True), theirs, np.inf).min(1)
        ratio = (lengths + TINY) / (closest + SMALL)
        penalty: Float64Array = np.exp(np.minimum(0.0, 1 - 1 / ratio))
        return penalty

    def _intern(self, words: Iterable[str]) -> list[int]:
        return [self._ids.setdefault(word, len(self._ids) + 1) for word in words]

    def _words(self, ids: Sequence[int]) -> list[int]:
        if self._of_piece is not None:
            return [word for piece in ids for word in self._of_piece[piece]]
        # words that are in no reference share the id base - 1
        return [self._ids.get(word, self._base - 1) for word in tokenize(self._vocabulary.text(ids))]

    def _ngrams(
        self, captions: _Captions, ids_of: Callable[[int, Ids], tuple[Ids, int]]
    ) -> Iterator[tuple[Ids, Ids, Ids]]:
        """Yields for each order, sorted by caption, the n-grams of captions: caption, id, and count in the caption.

        Args:
            captions: the captions.
            ids_of: given an order and numbers that identify n-grams, returns their ids and a number above every id.
        """
        place = np.arange(len(captions.words))
        offset, owner = _ranges(np.zeros_like(captions.lengths), captions.lengths)
        ids = captions.words
        for order in range(1, MAX_ORDER + 1):
            inside = offset + order <= captions.lengths[owner]
            place, owner, offset, ids = place[inside], owner[inside], offset[inside], ids[inside]
            # an n-gram is identified by the id of its first n-1 words and its last word
            whole = ids if order == 1 else ids * self._base + captions.words[place + order - 1]
            ids, size = ids_of(order, whole)
            cell, times = np.unique(owner * size + ids, return_counts=True)
            yield *np.divmod(cell, size), times

    def _known_ids(self, order: int, ngrams: Ids) -> tuple[Ids, int]:
        keys = self._orders[order - 1].keys
        return _positions(keys, ngrams), len(keys) + len(ngrams) + 1

    def _index(self, captions: _Captions, photo: Ids, number: Ids) -> list[_Order]:
        """Indexes the references by order; `photo` and `number` are each reference's photo and index within it."""
        photos, references = self._lengths.shape
        orders: list[_Order] = []
        keys: list[Ids] = []

        def new_ids(_: int, ngrams: Ids) -> tuple[Ids, int]:
            unique, ids = np.unique(ngrams, return_inverse=True)
            keys.append(unique)
            return ids, len(unique) + 1

        for caption, ngram, times in self._ngrams(captions, new_ids):
            size = len(keys[-1]) + 1
            where = photo[caption] * size + ngram
            frequency = np.bincount(np.unique(where) % size, minlength=size).clip(1)
            rarity = np.log(photos) - np.log(frequency)
            weight = times * rarity[ngram]
            norm = np.zeros((photos, references))
            np.add.at(norm, (photo[caption], number[caption]), weight**2)
            sort = np.argsort(where, kind="stable")
            places, first = np.unique(where[sort], return_index=True)
            most = np.maximum.reduceat(times[sort], first) if len(first) else times
            ends = np.append(first, len(sort))
            orders.append(
                _Order(keys[-1], rarity, places, ends, most, number[caption][sort], weight[sort], np.sqrt(norm))
            )
        return orders


def _flat(captions: Sequence[Sequence[int]]) -> _Captions:
    lengths = np.array([len(caption) for caption in captions], np.int64)
    return _Captions(np.array([word for caption in captions for word in caption], np.int64), lengths)


def _positions(keys: Ids, asked: Ids) -> Ids:
    """Returns the index of each value in sorted `keys`; values not in `keys` get consistent indices past its end."""
    if not len(keys):
        return np.unique(asked, return_inverse=True)[1]
    at = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    unknown = keys[at] != asked
    at[unknown] = len(keys) + np.unique(asked[unknown], return_inverse=True)[1]
    return at


def _ranges(first: Ids, end: Ids) -> tuple[Ids, Ids]:
    """Concatenates the ranges first..end; returns the numbers and the index of each number's range."""
    sizes = end - first
    owner = np.repeat(np.arange(len(sizes)), sizes)
    begins = sizes.cumsum() - sizes
    return first[owner] + np.arange(len(owner)) - begins[owner], owner
