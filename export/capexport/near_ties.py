"""Near-ties: captions whose scores are so close that rounding decides which one a search finds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
import numpy.typing as npt

from caprun.bundle.vocabulary import Special
from caprun.engine import Captioner
from caprun.search.hypothesis import Hypothesis
from caprun.search.options import SearchOptions
from caprun.search.steps import StepOutput, Steps

TOLERANCE = 1e-4
"""Largest difference between the scores of two captions that tie."""


def is_near_tie(
    first: Sequence[float],
    second: Sequence[float],
    captions: Sequence[Hypothesis],
    options: SearchOptions,
    tolerance: float = TOLERANCE,
) -> bool:
    """Returns whether two captions have almost equal scores, as a whole or up to the first piece that differs.

    After that piece each caption continues independently, so later differences are not due to rounding. `first` and
    `second` are the log-probabilities of the captions' pieces under one model; see `log_probs_in`.
    """
    scores = [sum(log_probs) / len(log_probs) ** options.length_penalty for log_probs in (first, second)]
    if abs(scores[0] - scores[1]) <= tolerance:
        return True
    pairs = zip_longest(captions[0].ids, captions[1].ids)
    differing = 1 + next(position for position, (one, other) in enumerate(pairs) if one != other)
    return abs(sum(first[:differing]) - sum(second[:differing])) <= tolerance


def log_probs_in(captioner: Captioner, image: npt.NDArray[np.uint8], hypothesis: Hypothesis) -> list[float]:
    """Returns the log-probability that a model gives to each piece of a caption, END included.

    `image` is uint8 (height, width, 3). The caption may come from another backend.
    """
    said = pieces_of(hypothesis, captioner.spec.special)
    outputs = replay(captioner.backend.encode(image[None]), said, len(captioner.vocabulary))
    return [
        float(output.log_prob[output.candidate == following][0])
        for output, following in zip(outputs, said[1:], strict=True)
    ]


def pieces_of(hypothesis: Hypothesis, special: Special) -> list[int]:
    """Returns a caption's ids with START and, where it is finished, END."""
    return [special.start, *hypothesis.ids, *([special.end] if hypothesis.finished else [])]


def replay(steps: Steps, said: Sequence[int], pieces: int) -> list[StepOutput]:
    """Feeds a caption to the decoder; returns its output after each piece but the last."""
    zero = np.zeros((1, 1), np.int64)
    return [steps(zero[0], zero, np.full((1, 1), token), pieces) for token in said[:-1]]
