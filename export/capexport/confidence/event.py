"""Defines when a caption is good, the event that a confidence predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from captioner.datasets import Example
from captioner.evaluation.cider import Cider, cider_scores
from captioner.evaluation.ngrams import count, sentence
from captioner.text.metric_words import tokenize

_SHARES = {
    0.5: "at least half as well as",
    0.25: "at least a quarter as well as",
    0.75: "at least three quarters as well as",
    1.0: "at least as well as",
}
"""Shares of the agreement among people, in words; the first one with a moderate base rate is chosen."""
MODERATE = (0.3, 0.7)


class Event(NamedTuple):
    """A caption is good if its CIDEr-D reaches a share of the agreement among people in its dataset."""

    share: float
    sentence: str


def choose_event(relative: npt.NDArray[np.float64]) -> Event | None:
    """Chooses the share that a moderate number of `relative_scores` reach; None if no share qualifies."""
    for share, words in _SHARES.items():
        if MODERATE[0] <= float((relative >= share).mean()) <= MODERATE[1]:
            return Event(
                share,
                f"The caption agrees with what people wrote of the photo {words} their captions agree with each other.",
            )
    return None


def agreement(examples: Sequence[Example]) -> dict[str, float]:
    """Returns each dataset's mean CIDEr-D of human captions, each scored against the others of its photo.

    Each photo needs at least two captions.
    """
    found = {}
    for dataset in dict.fromkeys(example.dataset for example in examples):
        photos = [
            [sentence(tokenize(text)) for text in example.references]
            for example in examples
            if example.dataset == dataset
        ]
        cider = Cider(photos)
        scores = [
            cider.scores([one], [*photo[:index], *photo[index + 1 :]])[0]
            for photo in photos
            for index, one in enumerate(photo)
        ]
        found[dataset] = float(np.mean(scores))
    return found


def scores_of(captions: Sequence[str], examples: Sequence[Example]) -> npt.NDArray[np.float64]:
    """Returns the CIDEr-D of each caption, (captions,), with document frequencies from its dataset."""
    datasets = np.array([example.dataset for example in examples])
    scores = np.empty(len(captions))
    for dataset in np.unique(datasets):
        of = np.flatnonzero(datasets == dataset).tolist()
        words = [[tokenize(text) for text in examples[index].references] for index in of]
        scores[of] = cider_scores(count([tokenize(captions[index]) for index in of], words))
    return scores


def relative_scores(
    captions: Sequence[str], examples: Sequence[Example], human: Mapping[str, float]
) -> npt.NDArray[np.float64]:
    """Returns each caption's CIDEr-D divided by the agreement among people in its dataset, (captions,).

    Words that are rare in one dataset are common in another, so CIDEr-D cannot be compared between datasets, but
    this ratio can.
    """
    of_people = np.array([human[example.dataset] for example in examples], np.float64)
    return np.divide(scores_of(captions, examples), of_people, dtype=np.float64)
