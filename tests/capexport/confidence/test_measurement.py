"""Figures for a dataset come from photos outside the fit: other folds, or fits without the dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from capexport.confidence import measurement
from capexport.confidence.captioned import Captioned
from capexport.confidence.measurement import Fitted, figures_of
from capexport.confidence.predictors import Labelled, fit_direction, fit_familiar, fit_good
from capexport.confidence.regression import Weights
from tests.capexport.confidence.synthetic import KEY, examples, synthetic

COUNT = 400
DATASETS = ["one"] * COUNT + ["other"] * COUNT


def joined(parts: Sequence[Captioned], datasets: Sequence[str]) -> Captioned:
    return Captioned(
        np.concatenate([part.photos for part in parts]),
        [one for part in parts for one in part.hypotheses],
        [text for part in parts for text in part.texts],
        examples([[f"a b c {name} {i}"] for i, name in enumerate(datasets)], datasets),
    )


def named(fitted: Fitted, dev: Sequence[str], train: Sequence[str]) -> Fitted:
    """Assigns the same photos to other datasets."""

    def renamed(captioned: Captioned, datasets: Sequence[str]) -> Captioned:
        return replace(captioned, examples=examples([one.references for one in captioned.examples], datasets))

    labelled = fitted.dev[KEY]
    own = replace(labelled, captioned=renamed(labelled.captioned, dev))
    return replace(fitted, dev={KEY: own}, train=renamed(fitted.train, train))


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    """Returns a confidence fitted on two datasets in which opposite captions are good."""
    rng = np.random.default_rng(0)
    parts = [synthetic(rng, COUNT, sign) for sign in (1, -1)]
    captioned = joined([part.captioned for part in parts], DATASETS)
    dev = {KEY: Labelled(captioned, np.concatenate([part.good for part in parts]))}
    outliers = {"noise": rng.normal(8, 1, (50, 12)).astype(np.float32)}
    direction = fit_direction(captioned)
    familiar = fit_familiar(captioned.photos, list(outliers.values()))
    return Fitted(fit_good(dev, direction), direction, familiar, captioned, dev, outliers)


@pytest.mark.parametrize("name", ["one", "other"])
def test_a_fit_without_a_dataset_does_not_use_its_dev_photos(fitted: Fitted, name: str) -> None:
    """The fit ranks the captions in reverse, which shows that it has learnt only from the other dataset."""
    found = measurement._transfer(fitted, name)
    assert found is not None
    assert found["fitted_on"] == COUNT
    assert found["auroc"] < 0.3
    good = fitted.dev[KEY].good[np.array(DATASETS) == name]
    assert found["base_rate"] == pytest.approx(good.mean(), abs=1e-4)


@pytest.mark.parametrize("name", ["one", "other"])
def test_a_fit_without_a_dataset_does_not_use_its_training_photos(
    fitted: Fitted, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    counts: list[int] = []

    def direction(captioned: Captioned) -> Weights:
        seen.extend(text for one in captioned.examples for text in one.references)
        counts.append(len(captioned.texts))
        return fit_direction(captioned)

    def familiar(photos: np.ndarray, outliers: Sequence[np.ndarray]) -> Weights:
        counts.append(len(photos))
        return fit_familiar(photos, outliers)

    monkeypatch.setattr(measurement, "fit_direction", direction)
    monkeypatch.setattr(measurement, "fit_familiar", familiar)
    measurement._transfer(fitted, name)
    assert counts == [COUNT, COUNT]
    assert {text.split()[3] for text in seen} == {"one", "other"} - {name}


def test_a_fit_without_a_dataset_needs_enough_photos_of_the_other_datasets(fitted: Fitted) -> None:
    few = ["few"] * (measurement.FEWEST_WHOLE - 1)
    few += ["many"] * (2 * COUNT - len(few))
    assert measurement._transfer(named(fitted, few, DATASETS), "many") is None
    assert measurement._transfer(named(fitted, few, DATASETS), "few") is not None
    assert measurement._transfer(named(fitted, DATASETS, ["one"] * 2 * COUNT), "one") is None


@pytest.mark.parametrize("good", [True, False])
def test_captions_that_are_all_good_or_all_bad_have_no_auroc(good: bool) -> None:
    found = figures_of(np.linspace(0, 1, 20), np.full(20, good))
    assert found["auroc"] is None
    assert found["base_rate"] == good
    assert found["error_equal_mass"] == pytest.approx(0.5)
