"""What a search asks of a decoder, and what it makes of the answers: steps, and captions as ids."""

import math
from typing import NamedTuple, Protocol

import numpy as np

from caprun.arrays import Float32Array, Ids

WHOLE = 2**31 - 1
"""A number of candidates that no vocabulary has: all of them."""


class StepOutput(NamedTuple):
    """What a decoder says after one step."""

    log_prob: Float32Array
    """(rows, beams, k): log-probabilities of the k likeliest next pieces, the likeliest first."""
    candidate: Ids
    """(rows, beams, k): those pieces."""
    alpha: Float32Array | None
    """(rows, beams, regions): where each beam looked, if the model attends and somebody wants to know."""


class Steps(Protocol):
    """A decoder that has seen a batch of photos and carries their state from step to step."""

    @property
    def photo(self) -> Float32Array:
        """(photos, features): what the decoder started from, a vector a photo, as `photo_vectors` makes it.

        No search uses it; `caprun.bundle.confidence.Confidence` does. It is the same after any number of steps, and is
        copied from a GPU only when it is read.
        """
        ...

    def __call__(self, row: Ids, parent: Ids, token: Ids, k: int) -> StepOutput:
        """Read one piece a beam and say which may follow.

        Args:
            row: (rows,), the photos still being captioned, as indices into the batch.
            parent: (rows, beams), the states to go on from, as indices into the rows x beams states that the call
                before left (at first: one state a photo).
            token: (rows, beams), the pieces said last.
            k: how many candidates to return; a smaller vocabulary has fewer.

        Returns:
            Arrays that later calls leave as they are.
        """
        ...


def photo_vectors(hidden: Float32Array, cell: Float32Array) -> Float32Array:
    """(photos, features) of a decoder's first states, (photos, layers, units) each: hidden before cell, all layers."""
    features = [state.reshape(len(state), math.prod(state.shape[1:])) for state in (hidden, cell)]
    return np.concatenate(features, axis=1)
