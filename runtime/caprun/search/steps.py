"""The decoder as a search sees it: a function that takes one step for a batch of photos."""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from caprun.arrays import Float32Array, Ids

WHOLE = 2**31 - 1
"""Number of candidates that stands for the whole vocabulary: larger than any."""


class StepOutput(NamedTuple):
    """The result of a decoder's step."""

    log_prob: Float32Array
    """Log-probabilities of the k likeliest next pieces, the likeliest first; (rows, beams, k)."""
    candidate: Ids
    """Ids of those pieces; (rows, beams, k)."""
    alpha: Float32Array | None
    """Attention weights of each beam, (rows, beams, regions); None if not requested."""


Step = Callable[[Ids, Ids, Ids, int], StepOutput]
"""The call of `Steps`, which is all that a search needs."""


class Steps(Protocol):
    """A decoder that has encoded photos and carries their state from step to step."""

    @property
    def photo(self) -> Float32Array:
        """The decoder's first state as a vector for each photo, (photos, features); see `photo_vectors`.

        `caprun.bundle.confidence.Confidence` reads it. It does not change from step to step, and is copied from a GPU
        only when it is read.
        """
        ...

    def __call__(self, row: Ids, parent: Ids, token: Ids, k: int) -> StepOutput:
        """Reads one piece for each beam and returns the likeliest next pieces.

        Args:
            row: Photos that are not finished, as indices into the batch; (rows,).
            parent: States to continue, as indices into the rows x beams states of the previous call (for the
                first call: one state for each photo); (rows, beams).
            token: Last piece of each beam; (rows, beams).
            k: Number of candidates; fewer if the vocabulary is smaller.

        Returns:
            Arrays that later calls do not change.
        """
        ...


def photo_vectors(hidden: Float32Array, cell: Float32Array) -> Float32Array:
    """Joins a decoder's first hidden and cell state, (photos, layers, units) each, to (photos, features)."""
    features = [state.reshape(len(state), math.prod(state.shape[1:])) for state in (hidden, cell)]
    return np.concatenate(features, axis=1)
