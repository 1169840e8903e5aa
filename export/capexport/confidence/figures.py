"""Quality of predicted probabilities: calibration error, AUROC, and the reliability and risk-coverage curves."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

Numbers = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.bool_]
Bins = Literal["mass", "width"]
"""Bins with equal numbers of captions, or of equal width."""
_BINS = 10


def auroc(higher: Numbers, lower: Numbers) -> float:
    """Returns the probability that a number of `higher` exceeds one of `lower`, ties counting half; NaN if empty."""
    if not len(higher) or not len(lower):
        return float("nan")
    labels = np.repeat([True, False], [len(higher), len(lower)])
    return float(roc_auc_score(labels, np.concatenate([higher, lower])))


def reliability(confidence: Numbers, good: Labels, of: Bins = "mass") -> list[dict[str, float]]:
    """Returns the number, mean confidence and share of good captions of each bin; empty bins are left out.

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
    return [
        {"captions": len(one), "confidence": float(confidence[one].mean()), "good": float(good[one].mean())}
        for one in groups
        if len(one)
    ]


def calibration_error(confidence: Numbers, good: Labels, of: Bins = "mass") -> float:
    """Returns the expected calibration error, 0..1: the mean gap between confidence and share of good captions.

    Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning" (2015). For the arguments see
    `reliability`.
    """
    found = reliability(confidence, good, of)
    return sum(one["captions"] * abs(one["confidence"] - one["good"]) for one in found) / len(confidence)


def risk_coverage(confidence: Numbers, good: Labels, points: int = 10) -> list[dict[str, float]]:
    """Returns coverage, lowest confidence and share of good captions of the most confident 100%, 90%, ... of captions.

    El-Yaniv and Wiener, "On the Foundations of Noise-free Selective Classification" (2010).
    """
    order = np.argsort(-confidence, kind="stable")
    kept = [max(1, round(len(order) * share / points)) for share in range(points, 0, -1)]
    return [
        {"coverage": n / len(order), "least": float(confidence[order[n - 1]]), "good": float(good[order[:n]].mean())}
        for n in kept
    ]
