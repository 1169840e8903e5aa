"""When a caption is good: what a confidence is the probability of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from captioner.evaluation.cider import Cider, cider_scores
from captioner.evaluation.metrics import tokenize
from captioner.evaluation.ngrams import sentence

_SHARES = {
    0.5: "at least half as well as",
    0.25: "at least a quarter as well as",
    0.75: "at least three quarters as well as",
    1.0: "at least as well as",
}
"""Of what people agree among themselves; the first of which base rates are moderate is taken."""
MODERATE = (0.3, 0.7)


class Event(NamedTuple):
    """A caption's CIDEr-D against what people wrote of its photo is as high as that."""

    threshold: float
    human: float
    """Mean CIDEr-D of what one person wrote of a photo against what the others did."""
    sentence: str


def choose_event(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Event | None:
    """An event that neither nearly always nor hardly ever happens; None where there is none.

    Args:
        captions: the model's, one a photo.
        references: what people wrote of each photo, two captions or more.
    """
    human = agreement(references)
    scores = scores_of(captions, references)
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
    """Mean CIDEr-D of each reference against the others of its photo."""
    photos = [[sentence(tokenize(text)) for text in of_photo] for of_photo in references]
    cider = Cider(photos)
    scores = [
        cider.scores([one], [*photo[:index], *photo[index + 1 :]])[0]
        for photo in photos
        for index, one in enumerate(photo)
    ]
    return float(np.mean(scores))


def scores_of(captions: Sequence[str], references: Sequence[Sequence[str]]) -> npt.NDArray[np.float64]:
    """CIDEr-D of each caption, (photos,), among these photos."""
    words = [[tokenize(text) for text in of_photo] for of_photo in references]
    return cider_scores([tokenize(caption) for caption in captions], words)
