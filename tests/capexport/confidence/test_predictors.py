"""The fits recover the model that drew the labels, and are measured on photos outside the fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from capexport.confidence.captioned import Captioned
from capexport.confidence.event import Event
from capexport.confidence.figures import auroc, calibration_error
from capexport.confidence.predictors import (
    FOLDS,
    Key,
    Labelled,
    as_confidence,
    chances_of_good,
    chances_out_of_fold,
    fit_direction,
    fit_familiar,
    fit_good,
)
from capexport.confidence.regression import Weights
from tests.capexport.confidence.synthetic import KEY, examples, synthetic

DIRECTION = Weights(0.0, np.eye(12)[0])


def test_probabilities_are_calibrated_on_captions_outside_the_fit() -> None:
    rng = np.random.default_rng(0)
    seen, others = synthetic(rng, 1500), synthetic(rng, 4000)
    found = chances_of_good(others.captioned, DIRECTION, fit_good({KEY: seen}, DIRECTION))
    assert calibration_error(found, others.good) < 0.03
    assert auroc(found[others.good], found[~others.good]) > 0.75


def test_each_photos_probability_comes_from_a_fit_without_its_fold() -> None:
    rng = np.random.default_rng(0)
    labelled = synthetic(rng, 60)
    fold = np.arange(60) % FOLDS
    found = chances_out_of_fold({KEY: labelled}, DIRECTION, fold, KEY)
    turned = replace(labelled, good=np.where(fold == 3, ~labelled.good, labelled.good))
    again = chances_out_of_fold({KEY: turned}, DIRECTION, fold, KEY)
    assert (again[fold == 3] == found[fold == 3]).all()
    assert (again[fold != 3] != found[fold != 3]).all()


def test_precisions_and_searches_share_the_weight_of_one() -> None:
    labelled = synthetic(np.random.default_rng(0), 200)
    once = fit_good({KEY: labelled}, DIRECTION)
    twice = fit_good({KEY: labelled, Key("int8", 3): labelled}, DIRECTION)
    assert twice.of == pytest.approx(once.of)
    assert twice.bias == pytest.approx(once.bias)


def test_cut_captions_get_probability_zero_and_are_not_fitted() -> None:
    labelled = synthetic(np.random.default_rng(0), 400)
    some = np.arange(400) % 3 == 0
    hypotheses = [replace(one, finished=not cut) for one, cut in zip(labelled.captioned.hypotheses, some, strict=True)]
    captioned = replace(labelled.captioned, hypotheses=hypotheses)
    found, other = (
        chances_out_of_fold({KEY: Labelled(captioned, good)}, DIRECTION, np.arange(400) % FOLDS, KEY)
        for good in (labelled.good, labelled.good ^ some)
    )
    assert (found == other).all()
    assert ((found == 0) == some).all()


def test_the_direction_points_to_training_photos_that_are_captioned_well() -> None:
    rng = np.random.default_rng(0)
    captioned = synthetic(rng, 300).captioned
    well = captioned.photos @ np.eye(12)[5] > 0
    texts = [f"dog {i} runs" for i in range(300)]
    references = [[f"dog {i} runs fast" if good else f"cat {i + 1}"] for i, good in enumerate(well)]
    direction = fit_direction(replace(captioned, texts=texts, examples=examples(references)))
    assert np.abs(direction.of).argmax() == 5
    assert direction.of[5] > 0


def test_the_direction_does_not_depend_on_the_order_of_photos() -> None:
    """Many captions have equal scores, such as captions with no word of the references."""
    labelled = synthetic(np.random.default_rng(0), 90)
    texts = [f"dog {i}" if i % 3 else "zebra" for i in range(90)]
    references = [[f"dog {i}"] for i in range(90)]
    forwards = fit_direction(replace(labelled.captioned, texts=texts, examples=examples(references)))
    photos, hypotheses = labelled.captioned.photos[::-1], labelled.captioned.hypotheses[::-1]
    turned = Captioned(photos, hypotheses, texts[::-1], examples(references[::-1]))
    assert fit_direction(turned).of == pytest.approx(forwards.of)


def test_photos_are_distinguished_from_a_kind_of_outlier_not_in_the_fit() -> None:
    rng = np.random.default_rng(0)
    photos = rng.normal(0, 1, (600, 30)) + np.eye(30)[0] * 3
    kinds = [rng.normal(0, 1, (60, 30)) - np.eye(30)[0] * 3 + np.eye(30)[i] * 4 for i in range(1, 6)]
    familiar = fit_familiar(photos[:400].astype(np.float32), [one.astype(np.float32) for one in kinds[:-1]])
    assert auroc(familiar(photos[400:]), familiar(kinds[-1])) > 0.99
    assert (familiar(photos[400:]) > 0).mean() > 0.95


def test_the_runtime_computes_the_probability_of_the_fit() -> None:
    rng = np.random.default_rng(0)
    captioned = synthetic(rng, 50).captioned
    good = Weights(-0.5, rng.normal(0, 0.5, 7))
    direction, familiar = Weights(0.0, rng.normal(0, 1, 12)), Weights(1.0, rng.normal(0, 1, 12))
    confidence = as_confidence(Event(0.5, "It is good."), good, direction, familiar)
    expected = chances_of_good(captioned, direction, good) * expit(familiar(captioned.photos))
    pairs = zip(captioned.photos, captioned.hypotheses, strict=True)
    assert [confidence.probability(*pair) for pair in pairs] == pytest.approx(expected, rel=1e-4)
