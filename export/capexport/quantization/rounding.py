"""Rounds weights so that a layer's output changes least (GPTQ)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from caprun.arrays import Float64Array

_DAMPING = 0.01  # share of the mean squared input that is added to each, against nearly constant inputs


def round_weights(
    weights: Float64Array, scales: Float64Array, moments: Float64Array, limit: int
) -> npt.NDArray[np.int8]:
    """Rounds the weights of one input after another; those not yet rounded compensate for the error.

    Frantar et al., 2023, "GPTQ", equations 2 and 3 with the Cholesky form of section 3.3. Inputs are taken in
    descending order of their second moment.

    Args:
        weights: (outputs, inputs).
        scales: (outputs,), the step between the rounded weights of each output.
        moments: (inputs, inputs), the sum over samples of the outer product of the layer's input with itself.
        limit: largest magnitude of a rounded weight.

    Returns:
        int8 (outputs, inputs): weights / scales, rounded.
    """
    order = np.argsort(-np.diag(moments), kind="stable")
    damped = moments[np.ix_(order, order)] + max(_DAMPING * float(np.diag(moments).mean()), 1e-12) * np.eye(len(order))
    # row j of the upper Cholesky factor of the inverse distributes an error at input j over later inputs
    spread = np.linalg.cholesky(np.linalg.inv(damped)).T
    rest = weights[:, order].copy()
    scales = np.where(scales > 0, scales, 1.0)  # an output without weights has a scale of 0
    rounded = np.zeros_like(rest)
    for j in range(len(order)):
        rounded[:, j] = np.clip(np.rint(rest[:, j] / scales), -limit, limit)
        error = (rest[:, j] - rounded[:, j] * scales) / spread[j, j]
        rest[:, j + 1 :] -= np.outer(error, spread[j, j + 1 :])
    return rounded[:, np.argsort(order)].astype(np.int8)
