"""Calibration error, AUROC and the curves, compared with values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from capexport.confidence.figures import auroc, calibration_error, reliability, risk_coverage


def test_auroc_is_the_share_of_pairs_in_the_right_order() -> None:
    rng = np.random.default_rng(0)
    higher, lower = rng.integers(0, 9, 40) / 8, rng.integers(0, 7, 30) / 8  # with many ties
    pairs = [(a > b) + 0.5 * (a == b) for a in higher for b in lower]
    assert auroc(higher, lower) == pytest.approx(np.mean(pairs))


def test_auroc_is_nan_without_good_or_without_bad_captions() -> None:
    assert math.isnan(auroc(np.empty(0), np.ones(3)))
    assert math.isnan(auroc(np.ones(3), np.empty(0)))


@pytest.mark.parametrize("bins", ["mass", "width"])
def test_calibrated_probabilities_have_almost_no_calibration_error(bins: str) -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(100_000)
    assert calibration_error(confidence, rng.random(100_000) < confidence, of=bins) < 0.01


@pytest.mark.parametrize("bins", ["mass", "width"])
def test_probabilities_too_high_by_a_fifth_have_an_error_of_a_fifth(bins: str) -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.2, 1, 100_000)
    found = calibration_error(confidence, rng.random(100_000) < confidence - 0.2, of=bins)
    assert found == pytest.approx(0.2, abs=0.01)


def test_bins_of_equal_width_split_at_tenths_and_leave_out_empty_bins() -> None:
    confidence = np.array([0.05, 0.1, 0.19, 0.95, 1.0, 0.0])
    found = reliability(confidence, np.array([True, False, True, True, True, False]), of="width")
    assert [(one["captions"], one["good"]) for one in found] == [(2, 0.5), (2, 0.5), (2, 1.0)]
    assert [one["confidence"] for one in found] == pytest.approx([0.025, 0.145, 0.975])


def test_bins_of_equal_mass_hold_equally_many_captions() -> None:
    found = reliability(np.linspace(0, 1, 50) ** 3, np.zeros(50, bool))
    assert [one["captions"] for one in found] == [5] * 10


def test_the_risk_coverage_curve_keeps_the_most_confident_captions() -> None:
    confidence = np.array([0.9, 0.1, 0.5, 0.7])
    curve = risk_coverage(confidence, np.array([True, False, False, True]), points=4)
    assert [tuple(one.values()) for one in curve] == [
        (1.0, 0.1, 0.5),
        (0.75, 0.5, 2 / 3),
        (0.5, 0.7, 1.0),
        (0.25, 0.9, 1.0),
    ]
