"""A confidence from a bundle and a dataset: fitted on dev photos, measured on photos that were not in the fit."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from capexport.confidence.captioned import caption_all, encode_all, outliers_of, photos_of
from capexport.confidence.event import MODERATE, agreement, choose_event, scores_of
from capexport.confidence.measurement import FEWEST_WHOLE, Fitted, Train, measure
from capexport.confidence.outliers import KINDS
from capexport.confidence.predictors import Key, Labelled, as_confidence, fit_direction, fit_familiar, fit_good
from capexport.examples import drawn_from_each_dataset
from caprun.bundle.confidence import Confidence
from caprun.engine import Captioner
from caprun.search.options import SearchOptions
from captioner.datasets import Example

FEWEST = 200
"""Photos of dev, and of training, that a fit needs."""
_SEED = 0


@dataclass(frozen=True)
class Effort:
    """How much is captioned."""

    train: int = 6000
    """Training photos, at most."""
    outliers: int = 100
    """Outliers of each kind to fit on."""
    measured: int = 40
    """Outliers of each kind to measure on."""


def fit_confidence(
    captioners: Mapping[str, Captioner],
    train: Sequence[Example],
    dev: Sequence[Example],
    say: Callable[[str], None],
    effort: Effort | None = None,
) -> Confidence | None:
    """Fits a confidence and measures it, or says why there is none.

    Which photos are familiar is learnt from training photos against drawn outliers. Which photos are captioned well
    is learnt from training photos too, whose captions are better than those of other photos. How far to trust that,
    and the caption's own log-probabilities, is learnt from dev photos, over all precisions and searches together. All
    figures are of photos that were not in the fit: dev photos by fold, and new outliers. Whatever rules a confidence
    out is checked before the training photos are captioned, which takes longest.

    Args:
        captioners: the model in each precision, the one used by default first.
        train: photos that the model was trained on, with references.
        dev: photos that it was not trained on. Those with one caption are not used.
        say: takes a line for each finding.
        effort: how much to caption; None for the default.
    """
    effort = effort or Effort()
    began = time.monotonic()
    dev = [example for example in dev if len(example.references) > 1]
    if min(len(dev), len(train)) < FEWEST:
        say(
            f"no confidence: it needs {FEWEST} dev photos with two captions or more and {FEWEST} training photos, and "
            f"--data has {len(dev)} and {len(train)}"
        )
        return None
    references = [example.references for example in dev]
    human = agreement(references)
    if round(human, 2) <= 0:
        say("no confidence: people's captions of the same dev photo agree no more than those of different photos")
        return None
    own, main = next(iter(captioners.items()))
    first = caption_all(main, photos_of(dev, main))
    scores = scores_of(first.texts, references)
    if first.whole.sum() < FEWEST_WHOLE:
        say(
            f"no confidence: {first.whole.sum()} of {len(dev)} captions of dev photos are neither empty nor cut at "
            f"the maximum length, and it needs {FEWEST_WHOLE}"
        )
        return None
    event = choose_event(scores, human)
    if event is None:
        low, high = (round(100 * share) for share in MODERATE)
        say(f"no confidence: by no threshold between {low}% and {high}% of the captions of dev photos are good")
        return None
    captioned = {Key(own, main.spec.search.beam_size): first}
    for precision, captioner in captioners.items():
        for options in _searches(captioner):
            key = Key(precision, options.beam_size)
            if key not in captioned:
                captioned[key] = caption_all(captioner, photos_of(dev, captioner), options)
    labelled = {
        key: Labelled(one, scores_of(one.texts, references) >= event.threshold) for key, one in captioned.items()
    }
    drawn = drawn_from_each_dataset(train, effort.train)
    trained = Train(
        caption_all(main, photos_of(drawn, main)),
        [example.references for example in drawn],
        np.array([example.dataset for example in drawn]),
    )
    outliers = {kind: encode_all(main, outliers_of(kind, effort.outliers, _SEED, main)) for kind in KINDS}
    direction = fit_direction(trained.captioned, trained.references)
    familiar = fit_familiar(trained.captioned.photos, list(outliers.values()))
    confidence = as_confidence(event, fit_good(labelled, direction), direction, familiar)
    datasets = np.array([example.dataset for example in dev])
    fitted = Fitted(confidence, direction, familiar, trained, labelled, datasets, outliers)
    measured: dict[str, Any] = {
        "split": "dev",
        "photos": len(dev),
        "threshold": event.threshold,
        "human_cider": round(event.human, 4),
        "train_photos": len(drawn),
        "precision": own,
        "search": main.spec.search.text,
        **measure(fitted, main, effort.measured),
    }
    for line in _summary(measured, time.monotonic() - began):
        say(line)
    return replace(confidence, measured=measured)


def _searches(captioner: Captioner) -> list[SearchOptions]:
    """Returns the model's own search, then greedy search and a wide beam."""
    own = captioner.spec.search
    return [own, *(own.plain(beam) for beam in (1, 5) if beam != own.beam_size)]


def _summary(measured: Mapping[str, Any], seconds: float) -> list[str]:
    own = measured["found"][0]
    share, photos, against = 100 * own["base_rate"], measured["photos"], measured["outliers"]["auroc"]
    lines = [
        f"confidence: {share:.0f}% of {photos} captions of dev photos are good ({seconds:.0f} s)",
        f"confidence out of fold: {_errors(own)}; against outliers, AUROC {against:.3f}",
    ]
    for one in measured.get("datasets", ()):
        line = f"confidence on {one['dataset']}: {_errors(one)}"
        if one["transfer"]:
            line += f"; fitted without it, {_errors(one['transfer'])}"
        lines.append(line)
    return lines


def _errors(figures: Mapping[str, Any]) -> str:
    discrimination = "none" if figures["auroc"] is None else f"{figures['auroc']:.3f}"
    return f"calibration error {figures['error_equal_mass']:.3f}, AUROC {discrimination}"
