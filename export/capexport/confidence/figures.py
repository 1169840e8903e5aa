"""How much a probability means: calibration error, AUROC, reliability and risk-coverage."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.bool_]
Bins = Literal["mass", "width"]


class Bin(NamedTuple):
    """Some captions of about the same confidence."""

    captions: int
    confidence: float
    """Mean."""
    good: float
    """Share of them."""


class Coverage(NamedTuple):
    """What is left where less confident captions are kept back."""

    coverage: float
    """Share of the captions."""
    least: float
    """The lowest confidence among them."""
    good: float
    """Share of them."""


def auroc(higher: Numbers, lower: Numbers) -> float:
    """The chance that a number drawn from `higher` is above one from `lower`, ties counted half; NaN without both."""
    if not len(higher) or not len(lower):
        return float("nan")
    ordered = np.sort(lower)
    below = np.searchsorted(ordered, higher, "left") + np.searchsorted(ordered, higher, "right")
    return float(below.mean() / (2 * len(lower)))


def reliability(confidence: Numbers, good: Labels, bins: int = 10, of: Bins = "mass") -> list[Bin]:
    """The reliability diagram's points, by confidence; empty bins are left out.

    Args:
        confidence: (captions,), in 0..1.
        good: (captions,).
        bins: how many.
        of: the same number of captions in each, or the same share of 0..1.
    """
    order = np.argsort(confidence, kind="stable")
    if of == "mass":
        groups = np.array_split(order, bins)
    else:
        edges = np.linspace(0, 1, bins + 1)[1:-1]
        place = np.searchsorted(edges, confidence, "right")
        groups = [order[place[order] == index] for index in range(bins)]
    return [Bin(len(one), float(confidence[one].mean()), float(good[one].mean())) for one in groups if len(one)]


def calibration_error(confidence: Numbers, good: Labels, bins: int = 10, of: Bins = "mass") -> float:
    """Expected calibration error, 0..1: how far bins are from what they promise, by their captions.

    Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning" (2015); arguments as above.
    """
    found = reliability(confidence, good, bins, of)
    return sum(one.captions * abs(one.confidence - one.good) for one in found) / len(confidence)


def risk_coverage(confidence: Numbers, good: Labels, points: int = 10) -> list[Coverage]:
    """The share of good captions among the most confident 100 %, 90 % and so on.

    El-Yaniv and Wiener, "On the Foundations of Noise-free Selective Classification" (2010).
    """
    order = np.argsort(-confidence, kind="stable")
    kept = [max(1, round(len(order) * share / points)) for share in range(points, 0, -1)]
    return [Coverage(n / len(order), float(confidence[order[n - 1]]), float(good[order[:n]].mean())) for n in kept]
