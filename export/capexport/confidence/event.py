"""The event whose probability a confidence is: when a caption is good."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from captioner.evaluation.cider import Cider, cider_scores
from captioner.evaluation.ngrams import count, sentence
from captioner.text.metric_words import tokenize

_SHARES = {
    0.5: "at least half as well as",
    0.25: "at least a quarter as well as",
    0.75: "at least three quarters as well as",
    1.0: "at least as well as",
}
"""Shares of the agreement among people; the first one with a moderate base rate is taken."""
MODERATE = (0.3, 0.7)


class Event(NamedTuple):
    """A caption is good if its CIDEr-D against what people wrote of its photo reaches a threshold."""

    threshold: float
    human: float
    """Mean CIDEr-D of one person's caption of a photo against the others'."""
    sentence: str


def choose_event(scores: npt.NDArray[np.float64], human: float) -> Event | None:
    """Chooses a threshold that is neither nearly always nor hardly ever reached; None where there is none.

    Args:
        scores: (captions,), the CIDEr-D of a model's captions, see `scores_of`.
        human: the agreement among people, see `agreement`.
    """
    for share, words in _SHARES.items():
        threshold = round(share * human, 2)
        if threshold > 0 and MODERATE[0] <= float((scores >= threshold).mean()) <= MODERATE[1]:
            return Event(
                threshold,
                human,
                f"The caption agrees with what people wrote of the photo {words} their captions agree with each other "
                f"(CIDEr-D of {threshold:.2f} or more).",
            )
    return None


def agreement(references: Sequence[Sequence[str]]) -> float:
    """Returns the mean CIDEr-D of each reference against the others of its photo.

    Args:
        references: two captions or more of each photo.
    """
    photos = [[sentence(tokenize(text)) for text in of_photo] for of_photo in references]
    cider = Cider(photos)
    scores = [
        cider.scores([one], [*photo[:index], *photo[index + 1 :]])[0]
        for photo in photos
        for index, one in enumerate(photo)
    ]
    return float(np.mean(scores))


def scores_of(captions: Sequence[str], references: Sequence[Sequence[str]]) -> npt.NDArray[np.float64]:
    """Returns the CIDEr-D of each caption, (captions,); document frequencies are those of these photos."""
    words = [[tokenize(text) for text in of_photo] for of_photo in references]
    return cider_scores(count([tokenize(caption) for caption in captions], words))
