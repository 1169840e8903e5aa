"""Fits the parts of a confidence: which photos are captioned well, which are familiar, and which captions are good."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import expit
from scipy.stats import rankdata

from capexport.confidence.captioned import Captioned
from capexport.confidence.event import Event, scores_of
from capexport.confidence.regression import Weights, logistic, ridge
from caprun.arrays import Float32Array
from caprun.bundle.confidence import CAPTION_FEATURES, Confidence, Linear

FOLDS = 10
_COMPONENTS = 128
"""Number of principal components of photo features that separate photos from outliers."""
_OUTLIER_WEIGHT = 2000.0
"""Weight of all photos and outliers together, against `_OUTLIER_PENALTY`."""
_PHOTO_SHARE = 0.98
"""Assumed share of photos among the pictures to caption. With a smaller share, photos of an unfamiliar collection count
as outliers too easily: after a fit on Flickr8k only, the mean confidence on other photos is 44% for 0.5 and 59% for
0.98, while 65% of the captions are good."""
_TRAIN_PENALTY, _DEV_PENALTY = 1000.0, 1.0  # chosen on one model; the result hardly depends on them
_OUTLIER_PENALTY = 0.03
"""Small, so that the logits of photos and outliers are far enough apart for `_PHOTO_SHARE`."""


class Key(NamedTuple):
    """A precision and a search."""

    precision: str
    beam_size: int


@dataclass(frozen=True)
class Labelled:
    """Captions of dev photos, and whether each is good."""

    captioned: Captioned
    good: npt.NDArray[np.bool_]
    """(photos,)."""


Dev = Mapping[Key, Labelled]
"""The same photos, captioned with every precision and search."""


def fit_direction(train: Captioned) -> Weights:
    """Fits the direction in photo features along which training photos are captioned better.

    Captions of training photos are better than those of other photos, so the fit uses only their ranks, and keeps only
    the part that features of the captions do not explain.
    """
    rank = rankdata(scores_of(train.texts, train.examples)) / len(train.texts)
    both = ridge(np.column_stack([train.features, train.photos]), rank, _TRAIN_PENALTY)
    return Weights(0.0, both.of[train.features.shape[1] :])


def fit_familiar(photos: Float32Array, outliers: Sequence[Float32Array]) -> Weights:
    """Fits the logit of being a photo rather than an outlier.

    Photos and outliers have the same total weight, and so do all kinds of outliers; then the logit is corrected for
    `_PHOTO_SHARE`.

    Args:
        photos: (photos, features), of training photos.
        outliers: (pictures, features) of each kind.
    """
    rows = np.concatenate([photos, *outliers]).astype(np.float64)
    sizes = np.array([len(photos), *map(len, outliers)])
    shares = np.array([0.5, *[0.5 / len(outliers)] * len(outliers)])
    weights = np.repeat(_OUTLIER_WEIGHT * shares / sizes, sizes)
    mean, scale = rows.mean(0), rows.std(0) + 1e-6
    rows = (rows - mean) / scale
    _, components = np.linalg.eigh((rows * weights[:, None]).T @ rows)
    components = components[:, -_COMPONENTS:]
    found = logistic(rows @ components, np.arange(len(rows)) < len(photos), _OUTLIER_PENALTY, weights)
    of = components @ found.of / scale
    odds = math.log(_PHOTO_SHARE / (1 - _PHOTO_SHARE))
    return Weights(float(found.bias - mean @ of) + odds, of)


def fit_good(dev: Dev, direction: Weights, photos: npt.NDArray[np.bool_] | None = None) -> Weights:
    """Fits the logit of a caption being good, over all precisions and searches; each photo weighs 1 in total.

    Captions that are empty or cut are left out. `photos`, bool (photos,), selects photos; None for all.
    """
    parts = []
    for one in dev.values():
        used = one.captioned.whole if photos is None else one.captioned.whole & photos
        parts.append((_features(one.captioned, direction)[used], one.good[used]))
    features, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return logistic(features, labels, _DEV_PENALTY, np.full(len(labels), 1 / len(dev)))


def chances_of_good(captioned: Captioned, direction: Weights, good: Weights) -> npt.NDArray[np.float64]:
    """Returns the probability that each caption is good if its photo is familiar, (photos,)."""
    return np.asarray(expit(good(_features(captioned, direction))) * captioned.whole)


def chances_out_of_fold(dev: Dev, direction: Weights, fold: npt.NDArray[np.int64], key: Key) -> npt.NDArray[np.float64]:
    """Returns `chances_of_good` of each photo by a fit on the other folds; `fold` is each photo's, int (photos,)."""
    found = np.empty(len(fold))
    for one in range(FOLDS):
        fitted = fit_good(dev, direction, fold != one)
        found[fold == one] = chances_of_good(dev[key].captioned, direction, fitted)[fold == one]
    return found


def as_confidence(event: Event, good: Weights, direction: Weights, familiar: Weights) -> Confidence:
    """Assembles the fits for the manifest."""
    *of_caption, of_direction = good.of.tolist()
    caption = {name: _short(weight) for name, weight in zip(CAPTION_FEATURES, of_caption, strict=True) if weight}
    return Confidence(
        event.sentence,
        Linear(_short(good.bias), caption, tuple(map(_short, (of_direction * direction.of).tolist()))),
        Linear(_short(familiar.bias), {}, tuple(map(_short, familiar.of.tolist()))),
    )


def _features(captioned: Captioned, direction: Weights) -> npt.NDArray[np.float64]:
    return np.column_stack([captioned.features, direction(captioned.photos)])


def _short(number: float) -> float:
    """Rounds a weight to seven significant digits for the manifest."""
    return float(f"{number:.7g}")
