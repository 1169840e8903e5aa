"""Both regressions recover known coefficients."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from capexport.confidence.regression import logistic, ridge


def test_logistic_regression_recovers_the_weights_that_drew_the_labels() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(3, [1, 10, 0.3], (20000, 3))
    labels = rng.random(20000) < expit(features @ [1.0, -0.2, 5.0] - 17)
    found = logistic(features, labels, 1e-6, np.ones(20000))
    assert found.of == pytest.approx([1.0, -0.2, 5.0], rel=0.1)
    assert found.bias == pytest.approx(-17, rel=0.1)


def test_a_row_of_weight_two_counts_as_two_rows() -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.normal(0, 1, (60, 2)), rng.random(60) < 0.5
    features -= features.mean(0)
    features[30:] = -features[:30]  # repeating the rows keeps the mean and the deviation
    twice = logistic(np.concatenate([features] * 2), np.concatenate([labels] * 2), 1.0, np.ones(120))
    weighted = logistic(features, labels, 1.0, np.full(60, 2.0))
    assert weighted.of == pytest.approx(twice.of)


def test_a_feature_that_never_varies_gets_no_weight() -> None:
    features = np.column_stack([np.ones(40), np.linspace(0, 1, 40)])
    for found in (
        logistic(features, features[:, 1] > 0.4, 1.0, np.ones(40)),
        ridge(features, features[:, 1], 1.0),
    ):
        assert found.of[0] == 0
        assert found.of[1] > 0


@pytest.mark.parametrize("label", [True, False])
def test_equal_labels_give_a_constant_probability_that_depends_on_their_count(label: bool) -> None:
    features = np.random.default_rng(0).normal(0, 1, (50, 3))
    for count in (5, 50):
        chance = expit(logistic(features[:count], np.full(count, label), 1.0, np.ones(count))(features))
        assert chance == pytest.approx(abs(label - 0.5 / (count + 1)))


def test_separable_labels_give_finite_weights() -> None:
    features = np.linspace(-1, 1, 50)[:, None]
    found = logistic(features, features[:, 0] > 0, 0.01, np.ones(50))
    assert np.isfinite(found.of).all()
    assert ((found(features) > 0) == (features[:, 0] > 0)).all()


def test_the_fit_minimises_the_penalised_likelihood() -> None:
    rng = np.random.default_rng(0)
    features, weights = rng.normal(0, 1, (80, 2)), rng.uniform(0.5, 2, 80)
    features = (features - features.mean(0)) / features.std(0)
    labels = rng.random(80) < expit(features @ [2.0, -1.0])
    found = logistic(features, labels, 3.0, weights)
    slope = features.T @ (weights * (expit(found(features)) - labels)) + 3.0 * found.of
    assert slope == pytest.approx(np.zeros(2), abs=1e-5)
    assert weights @ (expit(found(features)) - labels) == pytest.approx(0, abs=1e-5)


def test_ridge_regression_without_penalty_is_least_squares() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(2, 3, (30, 4))
    targets = features @ [1.0, 2.0, -3.0, 0.5] + 7
    found = ridge(features, targets, 0.0)
    assert found.of == pytest.approx([1.0, 2.0, -3.0, 0.5])
    assert found.bias == pytest.approx(7)
