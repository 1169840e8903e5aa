"""From a bundle and a dataset to a confidence: fitted on dev photos, and measured on those it was not fitted on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from capexport.confidence.event import Event, choose_event, scores_of
from capexport.confidence.figures import auroc, calibration_error, reliability, risk_coverage
from capexport.confidence.outliers import KINDS, draw_outliers
from capexport.confidence.regression import Weights, logistic, ridge, sigmoid
from caprun.arrays import Float32Array
from caprun.bundle.confidence import CAPTION_FEATURES, Confidence, Linear, is_whole
from caprun.engine import Captioner
from caprun.photos.preprocessing import load
from caprun.search.decoding import search
from caprun.search.hypothesis import Hypothesis
from caprun.search.options import SearchOptions
from captioner.datasets import Example

FEWEST = 200
"""Photos of dev, and of training, without which nothing is fitted."""
FOLDS = 10
_FEWEST_WHOLE = 50
_BATCH = 16
_DIRECTIONS = 128
"""Of the photos' vectors in which photos and outliers differ."""
_TRAIN_PENALTY, _DEV_PENALTY, _OUTLIER_PENALTY = 1000.0, 1.0, 3.0  # chosen on one model; far from it they do as well
_FITTED_SEED, _MEASURED_SEED = 0, 1


@dataclass(frozen=True)
class Effort:
    """How much is looked at."""

    train: int = 6000
    """Training photos that are captioned, at most."""
    outliers: int = 100
    """Of each kind, to fit on."""
    measured: int = 40
    """Of each kind, to measure on."""


class Looked(NamedTuple):
    """What a model made of photos."""

    photos: Float32Array
    """(photos, features): see `caprun.bundle.confidence.Confidence.probability`."""
    hypotheses: list[Hypothesis]
    captions: list[str]

    @property
    def features(self) -> npt.NDArray[np.float64]:
        """(photos, len(CAPTION_FEATURES))."""
        rows = [[feature(one) for feature in CAPTION_FEATURES.values()] for one in self.hypotheses]
        return np.array(rows).reshape(len(rows), len(CAPTION_FEATURES))

    @property
    def whole(self) -> npt.NDArray[np.bool_]:
        """(photos,): what is neither empty nor cut; of the others the confidence is 0, and nothing is learnt."""
        return np.array([is_whole(one) for one in self.hypotheses], bool)


def fit_confidence(
    captioners: Mapping[str, Captioner],
    train: Sequence[Example],
    dev: Sequence[Example],
    say: Callable[[str], None],
    effort: Effort | None = None,
) -> Confidence | None:
    """Fits a confidence and measure it, or say why there is none.

    Whether a photo is familiar is learnt from training photos against drawn outliers. Which photos are captioned well
    is learnt from the training split, where all captions are better than they will be; how far that and the caption's
    own log-probabilities are to be trusted, from dev, over all precisions and searches together. Every figure on dev
    is of photos that were not in the fit (folds by photo), and every one of outliers is of others of their kind, or of
    kinds that were not in the fit.

    Args:
        captioners: one a precision, the one that is used by default first.
        train: photos that the model was trained on, with references.
        dev: photos that it was not.
        say: what is found.
        effort: how much to look at.
    """
    effort = effort or Effort()
    dev = [example for example in dev if len(example.references) > 1]
    if min(len(dev), len(train)) < FEWEST:
        say(
            f"no confidence: it takes {FEWEST} dev photos with two captions or more and {FEWEST} training photos "
            f"(--data), and there are {len(dev)} and {len(train)}"
        )
        return None
    began = time.monotonic()
    first, main = next(iter(captioners.items()))
    references = [example.references for example in dev]
    looked = {
        (precision, beam): look(captioner, _opened(dev, captioner), _options(captioner, beam))
        for precision, captioner in captioners.items()
        for beam in _beams(captioner)
    }
    own = looked[first, main.spec.search.beam_size]
    event = choose_event(own.captions, references)
    if event is None:
        say("no confidence: by no measure of it are from 30 % to 70 % of the captions of dev good")
        return None
    drawn = [train[i] for i in np.random.default_rng(0).permutation(len(train))[: effort.train]]
    trained = look(main, _opened(drawn, main))
    told = _which_are_captioned_well(trained, [example.references for example in drawn])
    outliers = {kind: vectors(main, _drawn(kind, effort.outliers, _FITTED_SEED, main)) for kind in KINDS}
    familiar = _familiar(trained.photos, list(outliers.values()))
    good = {key: scores_of(one.captions, references) >= event.threshold for key, one in looked.items()}
    fold = np.random.default_rng(0).permutation(len(dev)) % FOLDS
    rows = {key: _rows(one, told) for key, one in looked.items()}
    whole = {key: one.whole for key, one in looked.items()}
    if own.whole.sum() < _FEWEST_WHOLE:
        say(
            f"no confidence: of {len(dev)} captions of dev {own.whole.sum()} are neither empty nor cut at the maximum "
            f"length, and it takes {_FEWEST_WHOLE}"
        )
        return None
    good_chances = {key: _out_of_fold(rows, good, whole, fold, key) for key in looked}
    chances = {key: sigmoid(familiar(one.photos)) * good_chances[key] for key, one in looked.items()}
    confidence = _confidence(event, _fit_good(rows, good, whole), told, familiar)
    key = first, main.spec.search.beam_size
    held_out = HeldOut(own.photos, good_chances[key], chances[key])
    measured: dict[str, Any] = {
        "split": "dev",
        "photos": len(dev),
        "folds": FOLDS,
        "threshold": event.threshold,
        "human_cider": round(event.human, 4),
        "train_photos": len(drawn),
        "precision": first,
        "search": main.spec.search.text,
        "found": [_figures(*name, chances[name], good[name]) for name in looked],
        "reliability": [_rounded(one._asdict()) for one in reliability(chances[key], good[key])],
        "risk_coverage": [_rounded(one._asdict()) for one in risk_coverage(chances[key], good[key])],
        "outliers": _outlier_figures(main, confidence, held_out, trained.photos, outliers, effort.measured),
    }
    figures = measured["found"][0]
    say(
        f"confidence: {100 * figures['base_rate']:.0f} % of {len(dev)} captions are good; out of fold, calibration "
        f"error {figures['error_equal_mass']:.3f}, AUROC {figures['auroc']:.3f}; against outliers "
        f"{measured['outliers']['auroc']:.3f} ({time.monotonic() - began:.0f} s)"
    )
    return Confidence(confidence.event, confidence.good, confidence.familiar, measured)


def look(captioner: Captioner, images: Iterable[npt.NDArray[np.uint8]], options: SearchOptions | None = None) -> Looked:
    """Captions prepared photos, batch by batch."""
    special = captioner.spec.special
    photos: list[Float32Array] = []
    hypotheses: list[Hypothesis] = []
    for batch in _batches(images):
        steps = captioner.backend.encode(batch)
        photos.append(np.array(steps.photo))
        options = options or captioner.spec.search
        hypotheses += search(steps, len(batch), special.start, special.end, options, vocabulary=captioner.vocabulary)
    return Looked(np.concatenate(photos), hypotheses, [captioner.vocabulary.text(one.ids) for one in hypotheses])


def vectors(captioner: Captioner, images: Iterable[npt.NDArray[np.uint8]]) -> Float32Array:
    """What a model makes of prepared photos before it says a word, (photos, features)."""
    return np.concatenate([np.array(captioner.backend.encode(batch).photo) for batch in _batches(images)])


def _batches(images: Iterable[npt.NDArray[np.uint8]]) -> Iterator[npt.NDArray[np.uint8]]:
    ahead = iter(images)
    while batch := list(islice(ahead, _BATCH)):
        yield np.stack(batch)


def _opened(examples: Sequence[Example], captioner: Captioner) -> Iterator[npt.NDArray[np.uint8]]:
    return (load(example.image, captioner.spec.image) for example in examples)


def _drawn(kind: str, count: int, seed: int, captioner: Captioner) -> Iterator[npt.NDArray[np.uint8]]:
    return (load(picture, captioner.spec.image) for picture in draw_outliers(kind, count, seed))


def _beams(captioner: Captioner) -> list[int]:
    """The model's own search first, then greedy and a wide beam."""
    return list(dict.fromkeys((captioner.spec.search.beam_size, 1, 5)))


def _options(captioner: Captioner, beam: int) -> SearchOptions:
    own = captioner.spec.search
    return own if beam == own.beam_size else own.plain(beam)


def _which_are_captioned_well(looked: Looked, references: Sequence[Sequence[str]]) -> Weights:
    """A direction of the photos' vectors: what the log-probabilities of training captions do not say of their rank."""
    rank = np.argsort(np.argsort(scores_of(looked.captions, references))) / len(references)
    features = looked.features
    both = ridge(np.column_stack([features, looked.photos]), rank, _TRAIN_PENALTY)
    return Weights(0.0, both.of[features.shape[1] :])


def _familiar(photos: Float32Array, outliers: Sequence[Float32Array]) -> Weights:
    """The logit of being a photo; photos and outliers, and the kinds of these, weigh the same."""
    rows = np.concatenate([photos, *outliers]).astype(np.float64)
    sizes = [len(photos), *map(len, outliers)]
    shares = [0.5, *[0.5 / len(outliers)] * len(outliers)]
    weights = np.concatenate([np.full(n, 2000 * share / n) for n, share in zip(sizes, shares, strict=True)])
    mean, scale = rows.mean(0), rows.std(0) + 1e-6
    rows = (rows - mean) / scale
    _, directions = np.linalg.eigh((rows * weights[:, None]).T @ rows)
    directions = directions[:, -_DIRECTIONS:]
    found = logistic(rows @ directions, np.arange(len(rows)) < len(photos), _OUTLIER_PENALTY, weights)
    of = directions @ found.of / scale
    return Weights(float(found.bias - mean @ of), of)


Key = tuple[str, int]
"""A precision and a beam."""


def _rows(looked: Looked, told: Weights) -> npt.NDArray[np.float64]:
    return np.column_stack([looked.features, told(looked.photos)])


def _fit_good(
    rows: Mapping[Key, npt.NDArray[np.float64]],
    good: Mapping[Key, npt.NDArray[np.bool_]],
    of: Mapping[Key, npt.NDArray[np.bool_]],
) -> Weights:
    """Over all precisions and searches together, which count as one; `of` says which captions."""
    features = np.concatenate([one[of[key]] for key, one in rows.items()])
    labels = np.concatenate([one[of[key]] for key, one in good.items()])
    return logistic(features, labels, _DEV_PENALTY, np.full(len(labels), 1 / len(rows)))


def _out_of_fold(
    rows: Mapping[Key, npt.NDArray[np.float64]],
    good: Mapping[Key, npt.NDArray[np.bool_]],
    whole: Mapping[Key, npt.NDArray[np.bool_]],
    fold: npt.NDArray[np.int64],
    key: Key,
) -> npt.NDArray[np.float64]:
    """Each photo's probability from a fit on the other folds' photos."""
    found = np.empty(len(fold))
    for one in range(FOLDS):
        others = {name: of & (fold != one) for name, of in whole.items()}
        found[fold == one] = sigmoid(_fit_good(rows, good, others)(rows[key][fold == one]))
    return found * whole[key]


def _confidence(event: Event, good: Weights, told: Weights, familiar: Weights) -> Confidence:
    *of_caption, of_told = good.of.tolist()
    caption = {name: _short(weight) for name, weight in zip(CAPTION_FEATURES, of_caption, strict=True) if weight}
    return Confidence(
        event.sentence,
        Linear(_short(good.bias), caption, tuple(map(_short, (of_told * told.of).tolist()))),
        Linear(_short(familiar.bias), {}, tuple(map(_short, familiar.of.tolist()))),
    )


def _short(number: float) -> float:
    """As a manifest has it: no more digits than can matter."""
    return float(f"{number:.7g}")


def _figures(
    precision: str, beam: int, confidence: npt.NDArray[np.float64], good: npt.NDArray[np.bool_]
) -> dict[str, Any]:
    return {
        "precision": precision,
        "beam_size": beam,
        **_rounded(
            {
                "base_rate": float(good.mean()),
                "mean_confidence": float(confidence.mean()),
                "error_equal_mass": calibration_error(confidence, good),
                "error_equal_width": calibration_error(confidence, good, of="width"),
                "auroc": auroc(confidence[good], confidence[~good]),
                "brier": float(((confidence - good) ** 2).mean()),
            }
        ),
    }


class HeldOut(NamedTuple):
    """Photos of dev, each with what is thought of its caption by a fit that had not seen it."""

    photos: Float32Array
    """(photos, features)."""
    good: npt.NDArray[np.float64]
    """(photos,): were the photo familiar."""
    confidence: npt.NDArray[np.float64]
    """(photos,)."""


def _outlier_figures(
    captioner: Captioner,
    confidence: Confidence,
    dev: HeldOut,
    photos: Float32Array,
    fitted: Mapping[str, Float32Array],
    count: int,
) -> dict[str, Any]:
    """AUROC of dev photos' confidence against outliers', by kind, and where that kind was in neither's fit."""
    kinds, everything = [], []
    for kind in fitted:
        looked = look(captioner, _drawn(kind, count, _MEASURED_SEED, captioner))
        found = probabilities(confidence, looked)
        others = _familiar(photos, [one for other, one in fitted.items() if other != kind])
        good = np.array([confidence.good.logit(*each) for each in zip(looked.photos, looked.hypotheses, strict=True)])
        unseen = sigmoid(others(looked.photos)) * sigmoid(good) * looked.whole
        figures = {
            "auroc": auroc(dev.confidence, found),
            "left_out": auroc(sigmoid(others(dev.photos)) * dev.good, unseen),
            "median": float(np.median(found)),
        }
        kinds.append({"kind": kind} | _rounded(figures))
        everything.append(found)
    every = auroc(dev.confidence, np.concatenate(everything))
    return {"of_each_kind": count, "auroc": round(every, 4), "kinds": kinds}


def probabilities(confidence: Confidence, looked: Looked) -> npt.NDArray[np.float64]:
    """The confidence of each caption."""
    return np.array([confidence.probability(*each) for each in zip(looked.photos, looked.hypotheses, strict=True)])


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}
