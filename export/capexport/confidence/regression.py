"""Logistic and ridge regression by scikit-learn, returned as plain weights of the original features."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

Numbers = npt.NDArray[np.floating[Any]]


class Weights(NamedTuple):
    """A linear function of features."""

    bias: float
    of: npt.NDArray[np.float64]
    """(features,)."""

    def __call__(self, features: Numbers) -> npt.NDArray[np.float64]:
        """Maps (rows, features) to (rows,)."""
        return np.asarray(self.bias + features.astype(np.float64) @ self.of)


def logistic(features: Numbers, labels: npt.NDArray[np.bool_], penalty: float, weights: Numbers) -> Weights:
    """Fits the logit of a probability by penalised maximum likelihood.

    Args:
        features: (rows, features). They are standardised before their weights are penalised.
        labels: bool (rows,). If all are equal, only the bias is fitted.
        penalty: factor of half the squared weights; the bias is not penalised.
        weights: (rows,), sample weights.
    """
    if labels.all() or not labels.any():
        odds = (weights @ labels + 0.5) / (weights @ ~labels + 0.5)
        return Weights(float(np.log(odds)), np.zeros(features.shape[1]))
    model = LogisticRegression(C=1 / penalty, solver="newton-cholesky", tol=1e-8)
    return _fitted(model, features, labels, weights)


def ridge(features: Numbers, targets: Numbers, penalty: float) -> Weights:
    """Fits least squares with a penalty on the squared weights of standardised features; see `logistic`."""
    return _fitted(Ridge(penalty), features, targets)


def _fitted(model: Any, features: Numbers, targets: npt.NDArray[Any], weights: Numbers | None = None) -> Weights:
    scaler = StandardScaler()
    model.fit(scaler.fit_transform(features.astype(np.float64)), targets, weights)
    of = np.ravel(model.coef_) / scaler.scale_
    return Weights(float(np.ravel(model.intercept_)[0] - scaler.mean_ @ of), of)
