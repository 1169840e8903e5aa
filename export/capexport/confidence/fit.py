"""Fits a confidence for a bundle on dev photos, and measures it on photos that were not in the fit."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from capexport.confidence.captioned import caption_examples, encode_all, outliers_of
from capexport.confidence.event import MODERATE, agreement, choose_event, relative_scores
from capexport.confidence.measurement import FEWEST_WHOLE, Fitted, measure
from capexport.confidence.outliers import KINDS
from capexport.confidence.predictors import Key, Labelled, as_confidence, fit_direction, fit_familiar, fit_good
from capexport.examples import drawn_from_each_dataset
from caprun.bundle.confidence import Confidence
from caprun.engine import Captioner
from captioner.datasets import Example

FEWEST = 200
"""Minimum number of dev photos, and of training photos."""
DEV_PHOTOS = 5000
"""Maximum number of dev photos that are captioned."""
TRAIN_PHOTOS = 6000
"""Maximum number of training photos that are captioned."""
OUTLIERS = 150
"""Number of outliers of each kind in the fit."""
_SEED = 0
_DISAGREE = "human captions of one dev photo agree no more than those of different photos"


def fit_confidence(
    captioners: Mapping[str, Captioner], train: Sequence[Example], dev: Sequence[Example], say: Callable[[str], None]
) -> Confidence | None:
    """Fits and measures a confidence, or reports why it cannot and returns None.

    Training photos and drawn outliers determine which photos are familiar, and training photos which ones are captioned
    well. Dev photos determine the weights of this and of a caption's log-probabilities, for all precisions and searches
    together; dev photos with one caption, those of datasets whose human captions do not agree, and those beyond
    `DEV_PHOTOS` are not used. All figures are measured on photos that were not in the fit: dev photos by fold, and new
    outliers. The training photos are captioned last. The first captioner has the default precision.
    """
    began = time.monotonic()
    dev = [example for example in dev if len(example.references) > 1]
    agreed = agreement(dev)
    if human := {dataset: score for dataset, score in agreed.items() if round(score, 2) > 0}:
        for dataset in [name for name in agreed if name not in human]:
            photos = sum(example.dataset == dataset for example in dev)
            say(f"confidence: {dataset} is left out, because {_DISAGREE} (dev photos: {photos})")
        dev = [example for example in dev if example.dataset in human]
    if min(len(dev), len(train)) < FEWEST:
        say(
            f"no confidence: it needs {FEWEST} dev photos with at least two captions and {FEWEST} training photos; "
            f"--data has {len(dev)} and {len(train)}"
        )
        return None
    if not human:
        say(f"no confidence: {_DISAGREE}")
        return None
    if len(dev) > DEV_PHOTOS:
        dev = drawn_from_each_dataset(dev, DEV_PHOTOS)
    own, main = next(iter(captioners.items()))
    first = caption_examples(main, dev)
    if first.whole.sum() < FEWEST_WHOLE:
        say(
            f"no confidence: {first.whole.sum()} of {len(dev)} dev captions are neither empty nor cut at the maximum "
            f"length; it needs {FEWEST_WHOLE}"
        )
        return None
    event = choose_event(relative_scores(first.texts, dev, human))
    if event is None:
        low, high = (round(100 * share) for share in MODERATE)
        say(f"no confidence: no threshold makes between {low}% and {high}% of the dev captions good")
        return None
    search = main.spec.search
    captioned = {Key(own, search.beam_size): first}
    for precision, captioner in captioners.items():
        for options in (search, search.plain(1), search.plain(5)):
            key = Key(precision, options.beam_size)
            if key not in captioned:
                captioned[key] = caption_examples(captioner, dev, options)
    labelled = {
        key: Labelled(one, relative_scores(one.texts, dev, human) >= event.share) for key, one in captioned.items()
    }
    trained = caption_examples(main, drawn_from_each_dataset(train, TRAIN_PHOTOS))
    outliers = {kind: encode_all(main, outliers_of(kind, OUTLIERS, _SEED, main)) for kind in KINDS}
    direction = fit_direction(trained)
    familiar = fit_familiar(trained.photos, list(outliers.values()))
    good = fit_good(labelled, direction)
    confidence = as_confidence(event, good, direction, familiar)
    measured: dict[str, Any] = {
        "split": "dev",
        "photos": len(dev),
        "share": event.share,
        "human_cider": {dataset: round(score, 4) for dataset, score in human.items()},
        "train_photos": len(trained.texts),
        "precision": own,
        "search": search.text,
        **measure(Fitted(good, direction, familiar, trained, labelled, outliers), main),
    }
    share, against = 100 * measured["found"][0]["base_rate"], measured["outliers"]["auroc"]
    seconds = time.monotonic() - began
    say(f"confidence: {share:.0f}% of {len(dev)} dev captions are good ({seconds:.0f} s)")
    say(f"confidence out of fold: {_errors(measured['found'][0])}; against outliers, AUROC {against:.3f}")
    for one in measured.get("datasets", ()):
        transfer = f"; fitted without it, {_errors(one['transfer'])}" if one["transfer"] else ""
        say(f"confidence on {one['dataset']}: {_errors(one)}{transfer}")
    return replace(confidence, measured=measured)


def _errors(figures: Mapping[str, Any]) -> str:
    discrimination = "none" if figures["auroc"] is None else f"{figures['auroc']:.3f}"
    return f"calibration error {figures['error_equal_mass']:.3f}, AUROC {discrimination}"
