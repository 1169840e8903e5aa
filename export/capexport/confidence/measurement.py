"""Measures a confidence for the manifest, on photos that were not in its fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from capexport.confidence.captioned import Captioned, caption_all, outliers_of
from capexport.confidence.figures import auroc, calibration_error, reliability, risk_coverage
from capexport.confidence.predictors import (
    FOLDS,
    Dev,
    Key,
    chances_of_good,
    chances_out_of_fold,
    fit_direction,
    fit_familiar,
    fit_good,
)
from capexport.confidence.regression import Weights
from caprun.arrays import Float32Array
from caprun.engine import Captioner

FEWEST_WHOLE = 50
"""Minimum number of captions that are neither empty nor cut."""
OUTLIERS = 40
"""Number of outliers of each kind to measure on."""
_SEED = 1
Chances = npt.NDArray[np.float64]
"""Probabilities of captions, (photos,)."""


@dataclass(frozen=True)
class Fitted:
    """The parts of a confidence and the data they were fitted on."""

    good: Weights
    direction: Weights
    familiar: Weights
    train: Captioned
    dev: Dev
    outliers: Mapping[str, Float32Array]
    """Features of drawn pictures, (pictures, features), by kind."""

    @property
    def own(self) -> Key:
        """The precision and search used by default."""
        return next(iter(self.dev))


def measure(fitted: Fitted, captioner: Captioner) -> dict[str, Any]:
    """Measures a confidence out of fold, by dataset if there are several, and against outliers."""
    own, dev = fitted.own, fitted.dev
    datasets = dev[own].captioned.datasets
    fold = np.random.default_rng(0).permutation(len(datasets)) % FOLDS
    good_chances = {key: chances_out_of_fold(dev, fitted.direction, fold, key) for key in dev}
    chances = {key: expit(fitted.familiar(one.captioned.photos)) * good_chances[key] for key, one in dev.items()}
    confidence, good = chances[own], dev[own].good
    measured: dict[str, Any] = {
        "folds": FOLDS,
        "found": [key._asdict() | figures_of(chances[key], dev[key].good) for key in dev],
        "reliability": [_rounded(one) for one in reliability(confidence, good)],
        "risk_coverage": [_rounded(one) for one in risk_coverage(confidence, good)],
        "outliers": _against_outliers(fitted, captioner, good_chances[own]),
    }
    names = np.unique(datasets).tolist()
    if len(names) > 1:
        measured["datasets"] = [
            {
                "dataset": name,
                "photos": int((datasets == name).sum()),
                **figures_of(confidence[datasets == name], good[datasets == name]),
                "transfer": _transfer(fitted, name),
            }
            for name in names
        ]
    return measured


def figures_of(confidence: Chances, good: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Returns base rate, mean confidence, calibration errors, AUROC (None without both outcomes) and Brier score."""
    return _rounded(
        {
            "base_rate": float(good.mean()),
            "mean_confidence": float(confidence.mean()),
            "error_equal_mass": calibration_error(confidence, good),
            "error_equal_width": calibration_error(confidence, good, of="width"),
            "auroc": auroc(confidence[good], confidence[~good]),
            "brier": float(((confidence - good) ** 2).mean()),
        }
    )


def _transfer(fitted: Fitted, name: str) -> dict[str, Any] | None:
    """Fits without a dataset's photos and measures on its dev photos; None if too few other photos are left."""
    own = fitted.dev[fitted.own]
    others, train = own.captioned.datasets != name, fitted.train.only(fitted.train.datasets != name)
    if min((own.captioned.whole & others).sum(), train.whole.sum()) < FEWEST_WHOLE:
        return None
    direction = fit_direction(train)
    familiar = fit_familiar(train.photos, list(fitted.outliers.values()))
    good = fit_good(fitted.dev, direction, others)
    confidence = expit(familiar(own.captioned.photos)) * chances_of_good(own.captioned, direction, good)
    return {"fitted_on": int(others.sum()), **figures_of(confidence[~others], own.good[~others])}


def _against_outliers(fitted: Fitted, captioner: Captioner, good: Chances) -> dict[str, Any]:
    """Measures the AUROC of dev photos against new outliers of all kinds, and of each kind, fitted with and without it.

    `good` is each dev caption's probability of being good if its photo is familiar, out of fold.
    """
    photos = fitted.dev[fitted.own].captioned.photos
    confidence = expit(fitted.familiar(photos)) * good
    kinds, everything = [], []
    for kind in fitted.outliers:
        drawn = caption_all(captioner, outliers_of(kind, OUTLIERS, _SEED, captioner))
        good_drawn = chances_of_good(drawn, fitted.direction, fitted.good)
        found = expit(fitted.familiar(drawn.photos)) * good_drawn
        rest = [pictures for other, pictures in fitted.outliers.items() if other != kind]
        familiar = fit_familiar(fitted.train.photos, rest)
        figures = {
            "auroc": auroc(confidence, found),
            "left_out": auroc(expit(familiar(photos)) * good, expit(familiar(drawn.photos)) * good_drawn),
            "median": float(np.median(found)),
        }
        kinds.append({"kind": kind} | _rounded(figures))
        everything.append(found)
    every = auroc(confidence, np.concatenate(everything))
    return {"of_each_kind": OUTLIERS, "auroc": round(every, 4), "kinds": kinds}


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Rounds values for the manifest; NaN becomes None, since JSON has no NaN."""
    return {
        name: (None if math.isnan(value) else round(value, 4)) if isinstance(value, float) else value
        for name, value in values.items()
    }
