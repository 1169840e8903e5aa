"""Logistic and ridge regression by scikit-learn, returned as plain weights of the original features."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression, Ridge

Numbers = npt.NDArray[np.floating[Any]]
_LIMIT = 30.0
"""The largest logit, as in `caprun.bundle.confidence`."""
_CONSTANT = 1e-6
"""A feature that deviates by less from its mean gets no weight: it would be as large as the inverse."""


class Weights(NamedTuple):
    """A linear function of features."""

    bias: float
    of: npt.NDArray[np.float64]
    """(features,)."""

    def __call__(self, features: Numbers) -> npt.NDArray[np.float64]:
        """Maps (rows, features) to (rows,)."""
        return np.asarray(self.bias + features.astype(np.float64) @ self.of)


def sigmoid(logits: Numbers) -> npt.NDArray[np.float64]:
    """Turns logits into probabilities, with logits cut where `caprun.bundle.confidence` cuts them."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -_LIMIT, _LIMIT))), np.float64)


def logistic(features: Numbers, labels: npt.NDArray[np.bool_], penalty: float, weights: Numbers) -> Weights:
    """Fits the logit of a probability by penalised maximum likelihood.

    Args:
        features: (rows, features). They are standardised before their weights are penalised.
        labels: bool (rows,). Where all are the same, only the bias is fitted.
        penalty: factor of half the squared weights; the bias is not penalised.
        weights: (rows,), how much each row counts.
    """
    if labels.all() or not labels.any():
        odds = (weights @ labels + 0.5) / (weights @ ~labels + 0.5)
        return Weights(float(np.log(odds)), np.zeros(features.shape[1]))
    mean, scale = _mean_and_scale(features)
    model = LogisticRegression(C=1 / penalty, solver="newton-cholesky", tol=1e-8)
    model.fit((features - mean) / scale, labels, weights)
    return _unscaled(float(model.intercept_[0]), model.coef_[0], mean, scale)


def ridge(features: Numbers, targets: Numbers, penalty: float) -> Weights:
    """Fits least squares with a penalty on the squared weights of standardised features; see `logistic`."""
    mean, scale = _mean_and_scale(features)
    model = Ridge(penalty).fit((features - mean) / scale, targets)
    return _unscaled(float(model.intercept_), model.coef_, mean, scale)


def _mean_and_scale(features: Numbers) -> tuple[Numbers, Numbers]:
    """Returns each feature's mean and deviation; an infinite deviation turns a constant feature into zeros."""
    mean, deviation = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    return mean, np.where(deviation > _CONSTANT, deviation, np.inf)


def _unscaled(bias: float, of: Numbers, mean: Numbers, scale: Numbers) -> Weights:
    of = of / scale
    return Weights(float(bias - mean @ of), of)
