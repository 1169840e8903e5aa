"""Chooses scales for int8 weights, and rounds the weights so that a layer's output changes least (GPTQ)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from caprun.arrays import Float64Array

_DAMPING = 0.01  # share of the mean squared input that is added to each, against nearly constant inputs
_FOUR = 4
_MOST = 127
_MOST_OF_TWO = 128
"""Without VNNI, x86 adds the products of two neighbouring inputs in 16 bits, which hold at most 128 times the largest
activation, 255. Kernels read inputs in fours, so any two of four may be added."""


def find_scales(weights: Float64Array) -> Float64Array:
    """Finds the finest steps with which no sum of two products overflows.

    Args:
        weights: (outputs, inputs).

    Returns:
        (outputs,), the step between the rounded weights of each output; 0 for an output without weights.
    """
    in_fours = np.sort(_in_fours(np.abs(weights)), axis=2)
    # rounding may add one to a sum of two
    scales: Float64Array = np.maximum(in_fours[..., -2:].sum(2) / (_MOST_OF_TWO - 1), in_fours[..., -1] / _MOST).max(1)
    return scales


def round_weights(weights: Float64Array, scales: Float64Array, moments: Float64Array) -> npt.NDArray[np.int8]:
    """Rounds the weights of one input after another; those not yet rounded compensate for the error.

    Frantar et al., 2023, "GPTQ", equations 2 and 3 with the Cholesky form of section 3.3. Inputs are taken in
    descending order of their second moment.

    Args:
        weights: (outputs, inputs).
        scales: (outputs,), the result of `find_scales`, or coarser.
        moments: (inputs, inputs), the sum over samples of the outer product of the layer's input with itself.

    Returns:
        int8 (outputs, inputs): weights / scales, rounded.
    """
    order = np.argsort(-np.diag(moments), kind="stable")
    damped = moments[np.ix_(order, order)] + max(_DAMPING * float(np.diag(moments).mean()), 1e-12) * np.eye(len(order))
    # row j of the upper Cholesky factor of the inverse distributes an error at input j over later inputs
    spread = np.linalg.cholesky(np.linalg.inv(damped)).T
    rest = weights[:, order].copy()
    scales = np.where(scales > 0, scales, 1.0)
    rounded = np.zeros_like(weights)
    in_fours = _in_fours(rounded)  # magnitudes; 0 where not yet rounded
    for j, column in enumerate(order):
        four = in_fours[:, column // _FOUR]
        limit = np.minimum(_MOST, _MOST_OF_TWO - four.max(1))
        rounded[:, column] = np.clip(np.rint(rest[:, j] / scales), -limit, limit)
        four[:, column % _FOUR] = np.abs(rounded[:, column])
        error = (rest[:, j] - rounded[:, column] * scales) / spread[j, j]
        rest[:, j + 1 :] -= np.outer(error, spread[j, j + 1 :])
    return rounded.astype(np.int8)


def _in_fours(columns: Float64Array) -> Float64Array:
    """Copies (outputs, inputs) to (outputs, fours, 4), padded with zeros."""
    filled = np.pad(columns, ((0, 0), (0, -columns.shape[1] % _FOUR)))
    return filled.reshape(len(columns), -1, _FOUR)
