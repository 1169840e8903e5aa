"""A probability from numbers: logistic regression and ridge regression, few lines each and always the same answer."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.floating[Any]]
_LIMIT, _STEPS, _CLOSE = 30.0, 50, 1e-6


class Weights(NamedTuple):
    """What a number is predicted with."""

    bias: float
    of: npt.NDArray[np.float64]
    """(features,)."""

    def __call__(self, features: Numbers) -> npt.NDArray[np.float64]:
        """(rows, features) to (rows,)."""
        return np.asarray(self.bias + features.astype(np.float64) @ self.of)


def sigmoid(logits: Numbers) -> npt.NDArray[np.float64]:
    """The probabilities, with logits cut where `caprun.bundle.confidence` cuts them."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -_LIMIT, _LIMIT))), np.float64)


def logistic(features: Numbers, labels: npt.NDArray[np.bool_], penalty: float, weights: Numbers) -> Weights:
    """The logit of a probability, by Newton's method on the penalised likelihood.

    Args:
        features: (rows, features); they are brought to mean 0 and deviation 1 before they are penalised.
        labels: (rows,).
        penalty: of the squared weights, half of it; the bias is free.
        weights: (rows,), of the rows.
    """
    mean, scale = _standard(features)
    rows = np.column_stack([np.ones(len(features)), (features - mean) / scale])
    ridge = np.full(rows.shape[1], float(penalty))
    ridge[0] = 1e-6  # only so that there is an answer where all labels are the same
    found = np.zeros(rows.shape[1])
    for _ in range(_STEPS):
        chance = sigmoid(rows @ found)
        slope = rows.T @ (weights * (chance - labels)) + ridge * found
        bend = (rows * (weights * chance * (1 - chance))[:, None]).T @ rows + np.diag(ridge)
        step = np.linalg.solve(bend, slope)
        found -= step
        if np.abs(step).max() < _CLOSE:
            break
    return _back(found[0], found[1:], mean, scale)


def ridge(features: Numbers, targets: Numbers, penalty: float) -> Weights:
    """Least squares with a penalty on the weights of standardised features; see `logistic` for the arguments."""
    mean, scale = _standard(features)
    rows = (features - mean) / scale
    level = float(targets.mean())
    found = np.linalg.solve(rows.T @ rows + penalty * np.eye(rows.shape[1]), rows.T @ (targets - level))
    return _back(level, found, mean, scale)


def _standard(features: Numbers) -> tuple[Numbers, Numbers]:
    """Mean and deviation; what does not vary gets a deviation that leaves it at 0."""
    mean, deviation = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    return mean, np.where(deviation > 1e-6, deviation, np.inf)


def _back(bias: float, found: Numbers, mean: Numbers, scale: Numbers) -> Weights:
    """The same for features as they came."""
    of = found / scale
    return Weights(float(bias - mean @ of), of)
