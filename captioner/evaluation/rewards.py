"""Rewards of captions in self-critical training: CIDEr-D and BLEU-4 against fixed references."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from caprun.arrays import Float64Array, Ids
from caprun.bundle.vocabulary import Vocabulary
from captioner.evaluation.bleu import bleu
from captioner.evaluation.cider import Cider
from captioner.evaluation.ngrams import CountedPhoto, Sentence, sentence
from captioner.text.metric_words import ends_with, tokenize

_END = "<end>"  # no caption has this word


class Rewarded(NamedTuple):
    """The rewards of captions, each float64 (captions,)."""

    cider: Float64Array  # CIDEr-D, in 0..10
    bleu_4: Float64Array  # BLEU-4 of the single caption, in 0..1
    ends_badly: npt.NDArray[np.bool_]  # whether the caption ends with one of the bad endings
    longer: Float64Array  # relative difference in length to the mean of the photo's references, such as 0.1 or -0.2


class CaptionRewards:
    """Scores captions that are given as ids of a vocabulary.

    Args:
        references: for each photo, the words of its reference captions, at least one.
        vocabulary: the vocabulary of the captions.
        bad_endings: texts that a caption should not end with.

    END counts as the last word of a reference and of a finished caption; without it, `a boy is playing in a` would have
    no wrong n-gram. Document frequencies come from these references, END included.
    """

    def __init__(
        self,
        references: Sequence[Sequence[Sequence[str]]],
        vocabulary: Vocabulary,
        bad_endings: Iterable[str] = (),
    ) -> None:
        self._references, self._vocabulary = references, vocabulary
        self._bad_endings = [tokenize(ending) for ending in bad_endings]
        self._cider = Cider(self._counted(photo) for photo in range(len(references)))

    def score(self, photos: Ids, ids: Sequence[Sequence[int]], ended: npt.NDArray[np.bool_]) -> Rewarded:
        """Scores captions.

        Args:
            photos: int64 (captions,), the photo of each caption; fastest if a photo's captions follow each other.
            ids: each caption without END.
            ended: bool (captions,), whether END follows.
        """
        words = [tokenize(self._vocabulary.text(one)) for one in ids]
        said = [sentence([*one, _END] if end else one) for one, end in zip(words, ended, strict=True)]
        cider: list[float] = []
        bleu_4: list[float] = []
        means: list[float] = []
        for photo, group in groupby(range(len(said)), lambda index: int(photos[index])):
            captions = [said[index] for index in group]
            theirs = self._counted(photo)
            cider += self._cider.scores(captions, theirs)
            bleu_4 += [bleu([CountedPhoto(one, theirs)])[3] for one in captions]
            means += [sum(len(one.words) for one in theirs) / len(theirs)] * len(captions)
        ends_badly = np.array([ends_with(one, self._bad_endings) for one in words], np.bool_)
        lengths = np.array([len(one.words) for one in said]) + ~ended  # a missing END does not make a caption shorter
        return Rewarded(np.array(cider), np.array(bleu_4), ends_badly, lengths / np.array(means) - 1)

    def _counted(self, photo: int) -> list[Sentence]:
        """Counts the references of a photo; the counts of all photos would fill the memory."""
        return [sentence([*words, _END]) for words in self._references[photo]]
