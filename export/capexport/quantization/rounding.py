"""Which way to round a weight: so that the layer's output changes least, not the weight (GPTQ)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from caprun.arrays import Float64Array

_DAMPING = 0.01  # of the mean squared input, added to each: inputs that hardly vary would decide everything


def round_weights(
    weights: Float64Array, scales: Float64Array, moments: Float64Array, limit: int
) -> npt.NDArray[np.int8]:
    """Round one input's weights after another, and let those still to be rounded make up for the error.

    Frantar et al., 2023, "GPTQ", equations 2 and 3 with the Cholesky form of section 3.3, the inputs with the largest
    second moment first.

    Args:
        weights: (outputs, inputs).
        scales: (outputs,), the step of each output's weights.
        moments: (inputs, inputs), the sum over samples of the outer product of a layer's input with itself.
        limit: the largest magnitude of a rounded weight.

    Returns:
        int8 (outputs, inputs): weights / scales, rounded.
    """
    order = np.argsort(-np.diag(moments), kind="stable")
    damped = moments[np.ix_(order, order)] + max(_DAMPING * float(np.diag(moments).mean()), 1e-12) * np.eye(len(order))
    # row j of the upper factor of the inverse: how an error at j spreads over the inputs after it
    spread = np.linalg.cholesky(np.linalg.inv(damped)).T
    rest = weights[:, order].copy()
    scales = np.where(scales > 0, scales, 1.0)  # an output without weights
    rounded = np.zeros_like(rest)
    for j in range(len(order)):
        rounded[:, j] = np.clip(np.rint(rest[:, j] / scales), -limit, limit)
        error = (rest[:, j] - rounded[:, j] * scales) / spread[j, j]
        rest[:, j + 1 :] -= np.outer(error, spread[j, j + 1 :])
    return rounded[:, np.argsort(order)].astype(np.int8)
