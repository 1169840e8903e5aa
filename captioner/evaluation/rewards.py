"""What a caption is worth in self-critical training: CIDEr-D and BLEU-4 against references that never change.

Thousands of captions are scored between two steps of the optimiser. So what depends on the references alone is computed
once and kept in sorted arrays, and captions are scored many at a time, without a loop over them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from caprun.arrays import Float64Array, Ids
from caprun.bundle.vocabulary import Joining, Vocabulary
from captioner.evaluation.ngrams import MAX_ORDER
from captioner.text.metric_words import tokenize

_SIGMA = 6.0  # of CIDEr-D's penalty on the difference in length
_TINY, _SMALL = 1e-15, 1e-9  # see captioner.evaluation.bleu
_END = 0  # the id of what stands behind a caption's last word


class Rewarded(NamedTuple):
    """What captions are worth, each float64 (captions,)."""

    cider: Float64Array  # CIDEr-D, in 0..10
    bleu_4: Float64Array  # BLEU-4 of the caption alone, in 0..1
    longer: Float64Array  # how much longer than the photo's references, as a share of their mean: 0.1, -0.2


class _Said(NamedTuple):
    """Captions, one after the other."""

    words: Ids  # (all words,)
    lengths: Ids  # (captions,)


class _Counted(NamedTuple):
    """N-grams of one order and how often a caption has them: sorted by caption, each once."""

    caption: Ids
    ngram: Ids
    times: Ids


class _Order(NamedTuple):
    """The references' n-grams of one order."""

    keys: Ids  # sorted; an n-gram's id is its place in here
    rarity: Float64Array  # (n-grams + 1,): log of photos over photos that have it; last, of one that none has
    places: Ids  # sorted: photo * (n-grams + 1) + n-gram, each once
    first: Ids  # (places + 1,): where the entries of each begin
    most: Ids  # (places,): how often the reference of the photo that has it most often has it
    reference: Ids  # of each entry, which of the photo's references it is of
    weight: Float64Array  # of each entry, its tf-idf
    norm: Float64Array  # (photos, references)


class CaptionRewards:
    """Scores captions of some photos, given as ids of a vocabulary.

    Args:
        references: of each photo, the words of its reference captions, at least one.
        vocabulary: of the captions.

    Of the references and of a caption that was ended, END is a word like any other (the last): without it, `a boy is
    playing in a` has no n-gram that is wrong. In how many photos an n-gram occurs is counted in these references, END
    included. Apart from it, the numbers are those of `captioner.evaluation.cider.Cider` and
    `captioner.evaluation.bleu.bleu`, and so `pycocoevalcap`'s.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[str]]], vocabulary: Vocabulary) -> None:
        self._ids: dict[str, int] = {}
        self._vocabulary = vocabulary
        # with blanks between pieces, a piece's words do not depend on its neighbours
        apart = vocabulary.joining == Joining()
        self._of_piece = [self._intern(tokenize(piece)) for piece in vocabulary.pieces] if apart else None
        captions = [[*self._intern(words), _END] for of_photo in references for words in of_photo]
        counts = np.array([len(of_photo) for of_photo in references], np.int64)
        # the words known now are all there will be, but for those of joined pieces, which no reference has
        self._base = len(self._ids) + 2
        photo = np.repeat(np.arange(len(counts)), counts)
        number = np.arange(len(photo)) - np.repeat(counts.cumsum() - counts, counts)
        said = _flat(captions)
        self._counts = counts
        self._lengths = np.zeros((len(counts), int(counts.max())))
        self._lengths[photo, number] = said.lengths
        # closest reference length, the shorter of two, is looked for among these alone
        self._there = np.arange(self._lengths.shape[1]) < counts[:, None]
        self._orders = self._index(said, photo, number)

    def score(self, photos: Ids, captions: Sequence[Sequence[int]], ended: npt.NDArray[np.bool_]) -> Rewarded:
        """What captions are worth.

        Args:
            photos: int64 (captions,), the photo of each.
            captions: their ids, END not among them.
            ended: (captions,), whether END follows.
        """
        said = _flat(
            [[*self._words(ids), _END] if end else self._words(ids) for ids, end in zip(captions, ended, strict=True)]
        )
        rows, references = len(said.lengths), self._lengths.shape[1]
        difference = said.lengths[:, None] - self._lengths[photos]
        closeness = np.exp(-(difference**2) / (2 * _SIGMA**2)) * self._there[photos]
        similarity = np.zeros((rows, references))
        precision = np.ones(rows)
        for order, (known, counted) in enumerate(zip(self._orders, self._count(said), strict=True), 1):
            weight = counted.times * known.rarity[np.minimum(counted.ngram, len(known.keys))]
            norm = np.sqrt(np.bincount(counted.caption, weight**2, rows))
            place = photos[counted.caption] * (len(known.keys) + 1) + counted.ngram
            at = np.searchsorted(known.places, place)
            # past the last place stands one that no n-gram has
            shared = (counted.ngram < len(known.keys)) & (np.append(known.places, -1)[at] == place)
            at, caption = at[shared], counted.caption[shared]
            clipped = np.bincount(caption, np.minimum(counted.times[shared], known.most[at]), rows)
            precision *= (clipped + _TINY) / (np.maximum(said.lengths - order + 1, 0) + _SMALL)
            entry, owner = _ranges(known.first[at], known.first[at + 1])
            theirs = known.weight[entry]
            product = np.minimum(weight[shared][owner], theirs) * theirs
            cell = caption[owner] * references + known.reference[entry]
            products = np.bincount(cell, product, rows * references).reshape(rows, references)
            norms = norm[:, None] * known.norm[photos]
            # an order without n-grams of any weight has a norm of 0 and adds nothing
            similarity += np.divide(products, norms, out=np.zeros(norms.shape), where=products > 0)
        cider = 10 / MAX_ORDER * (similarity * closeness).sum(1) / self._counts[photos]
        bleu_4 = self._brevity(photos, said.lengths) * precision ** (1 / MAX_ORDER)
        mean = self._lengths[photos].sum(1) / self._counts[photos]
        # an end that is missing is not a word less
        return Rewarded(cider, bleu_4, (said.lengths + ~ended) / mean - 1)

    def _brevity(self, photos: Ids, lengths: Ids) -> Float64Array:
        """BLEU's penalty on captions shorter than the reference whose length is closest, the shorter of two."""
        theirs = np.where(self._there[photos], self._lengths[photos], np.inf)
        away = np.abs(theirs - lengths[:, None])
        closest = np.where(away == away.min(1, keepdims=True), theirs, np.inf).min(1)
        ratio = (lengths + _TINY) / (closest + _SMALL)
        penalty: Float64Array = np.exp(np.minimum(0.0, 1 - 1 / ratio))
        return penalty

    def _intern(self, words: Iterable[str]) -> list[int]:
        return [self._ids.setdefault(word, len(self._ids) + 1) for word in words]

    def _words(self, ids: Sequence[int]) -> list[int]:
        if self._of_piece is not None:
            return [word for piece in ids for word in self._of_piece[piece]]
        # one that no reference has is any such word: base - 1
        return [self._ids.get(word, self._base - 1) for word in tokenize(self._vocabulary.text(ids))]

    def _index(self, said: _Said, photo: Ids, number: Ids) -> list[_Order]:
        """What is to be known of the references, order by order; `photo` and `number` of each."""
        photos, references = self._lengths.shape
        orders: list[_Order] = []
        place = np.arange(len(said.words))
        owner, offset = _owners(said)
        before = said.words
        for order in range(1, MAX_ORDER + 1):
            inside = offset + order <= said.lengths[owner]
            place, owner, offset, before = place[inside], owner[inside], offset[inside], before[inside]
            whole = before if order == 1 else before * self._base + said.words[place + order - 1]
            keys, ids = np.unique(whole, return_inverse=True)
            size = len(keys) + 1
            cell, times = np.unique(owner * size + ids, return_counts=True)
            caption, ngram = np.divmod(cell, size)
            in_photo = np.unique(photo[caption] * size + ngram)
            frequency = np.bincount(in_photo % size, minlength=size).clip(1)
            rarity = np.log(photos) - np.log(frequency)
            weight = times * rarity[ngram]
            norm = np.zeros((photos, references))
            np.add.at(norm, (photo[caption], number[caption]), weight**2)
            where = photo[caption] * size + ngram
            sort = np.argsort(where, kind="stable")
            places, first = np.unique(where[sort], return_index=True)
            most = np.maximum.reduceat(times[sort], first) if len(first) else times
            orders.append(
                _Order(
                    keys,
                    rarity,
                    places,
                    np.append(first, len(sort)),
                    most,
                    number[caption][sort],
                    weight[sort],
                    np.sqrt(norm),
                )
            )
            before = ids
        return orders

    def _count(self, said: _Said) -> list[_Counted]:
        """Count the n-grams of captions; what no reference has gets an id past the last."""
        counted = []
        place = np.arange(len(said.words))
        owner, offset = _owners(said)
        before = said.words
        for order, known in enumerate(self._orders, 1):
            inside = offset + order <= said.lengths[owner]
            place, owner, offset, before = place[inside], owner[inside], offset[inside], before[inside]
            whole = before if order == 1 else before * self._base + said.words[place + order - 1]
            ids = _known(known.keys, whole)
            size = len(known.keys) + len(whole) + 1
            cell, times = np.unique(owner * size + ids, return_counts=True)
            caption, ngram = np.divmod(cell, size)
            counted.append(_Counted(caption, ngram, times))
            before = ids
        return counted


def _flat(captions: Sequence[Sequence[int]]) -> _Said:
    lengths = np.array([len(caption) for caption in captions], np.int64)
    return _Said(np.array([word for caption in captions for word in caption], np.int64), lengths)


def _owners(said: _Said) -> tuple[Ids, Ids]:
    """Of each word, its caption and its place in it."""
    owner = np.repeat(np.arange(len(said.lengths)), said.lengths)
    begins = said.lengths.cumsum() - said.lengths
    return owner, np.arange(len(owner)) - begins[owner]


def _known(keys: Ids, asked: Ids) -> Ids:
    """The place of each in `keys`; of those that are not there, past its end, the same for the same."""
    if not len(keys):
        return np.unique(asked, return_inverse=True)[1]
    at = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    strange = keys[at] != asked
    at[strange] = len(keys) + np.unique(asked[strange], return_inverse=True)[1]
    return at


def _ranges(first: Ids, end: Ids) -> tuple[Ids, Ids]:
    """All numbers of the ranges first..end, one range after the other, and of each the range it is of."""
    sizes = end - first
    owner = np.repeat(np.arange(len(sizes)), sizes)
    begins = sizes.cumsum() - sizes
    return first[owner] + np.arange(len(owner)) - begins[owner], owner
