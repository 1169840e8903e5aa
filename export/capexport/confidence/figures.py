"""How good a probability is: calibration error, AUROC, and the reliability and risk-coverage curves."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

Numbers = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.bool_]
Bins = Literal["mass", "width"]
"""Bins with the same number of captions each, or of the same width each."""
_BINS = 10


class Bin(NamedTuple):
    """Captions of about the same confidence."""

    captions: int
    confidence: float
    """Their mean confidence."""
    good: float
    """The share of them that is good."""


class Coverage(NamedTuple):
    """The captions that remain when less confident ones are withheld."""

    coverage: float
    """The share of all captions that remains."""
    least: float
    """The lowest confidence among them."""
    good: float
    """The share of them that is good."""


def auroc(higher: Numbers, lower: Numbers) -> float:
    """Returns the probability that a number of `higher` exceeds one of `lower`, ties counting half; NaN if empty."""
    if not len(higher) or not len(lower):
        return float("nan")
    labels = np.repeat([True, False], [len(higher), len(lower)])
    return float(roc_auc_score(labels, np.concatenate([higher, lower])))


def reliability(confidence: Numbers, good: Labels, of: Bins = "mass") -> list[Bin]:
    """Returns the points of the reliability diagram, in order of confidence; empty bins are left out.

    Args:
        confidence: (captions,), 0..1.
        good: bool (captions,).
        of: how the ten bins are chosen.
    """
    order = np.argsort(confidence, kind="stable")
    if of == "mass":
        groups = np.array_split(order, _BINS)
    else:
        edges = np.linspace(0, 1, _BINS + 1)[1:-1]
        groups = np.split(order, np.searchsorted(confidence[order], edges, "left"))
    return [Bin(len(one), float(confidence[one].mean()), float(good[one].mean())) for one in groups if len(one)]


def calibration_error(confidence: Numbers, good: Labels, of: Bins = "mass") -> float:
    """Returns the expected calibration error, 0..1: the mean gap between a bin's confidence and its good share.

    Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning" (2015). For the arguments see
    `reliability`.
    """
    found = reliability(confidence, good, of)
    return sum(one.captions * abs(one.confidence - one.good) for one in found) / len(confidence)


def risk_coverage(confidence: Numbers, good: Labels, points: int = 10) -> list[Coverage]:
    """Returns the good share of the most confident captions: of all of them, of nine tenths, and so on.

    El-Yaniv and Wiener, "On the Foundations of Noise-free Selective Classification" (2010).
    """
    order = np.argsort(-confidence, kind="stable")
    kept = [max(1, round(len(order) * share / points)) for share in range(points, 0, -1)]
    return [Coverage(n / len(order), float(confidence[order[n - 1]]), float(good[order[:n]].mean())) for n in kept]
