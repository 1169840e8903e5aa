"""A confidence refuses unusable weights and always returns a probability."""

import numpy as np
import pytest

from caprun.bundle.confidence import Confidence, Linear
from caprun.search.hypothesis import Hypothesis


def test_weights_of_an_unknown_feature_are_refused() -> None:
    with pytest.raises(ValueError, match="'colour', which this caprun does not know"):
        Linear(0.0, {"colour": 1.0})


def test_a_photo_with_more_features_than_weights_is_refused() -> None:
    confidence = Confidence("It is good.", Linear(0.0, {}, (1.0, 2.0)), Linear(0.0))
    with pytest.raises(ValueError, match="3 features and the confidence 2 weights"):
        confidence.probability(np.zeros(3, np.float32), Hypothesis((1,), np.zeros(2), True, None))


def test_the_confidence_of_an_empty_or_unfinished_caption_is_zero() -> None:
    """The photo and the probability of END do not matter."""
    sure = Confidence("It is good.", Linear(25.0, {"log_prob": 1.0}, (9.0,)), Linear(25.0))
    empty = Hypothesis((), np.zeros(1), True, None), Hypothesis((), np.empty(0), False, None)
    for hypothesis in (*empty, Hypothesis((5, 6), np.zeros(2), False, None)):
        assert sure.probability(np.ones(1, np.float32), hypothesis) == 0


def test_empty_captions_huge_weights_and_nan_give_a_probability() -> None:
    names = ("log_prob", "mean_log_prob", "lowest_log_prob", "spread", "pieces", "finished")
    weights = Linear(1e9, dict.fromkeys(names, -1e9), (1e9, -1e9))
    confidence = Confidence("It is good.", weights, weights)
    for photo in (np.zeros(2, np.float32), np.array([1e30, -1e30], np.float32)):
        for hypothesis in (Hypothesis((), np.empty(0), False, None), Hypothesis((1,), np.full(2, -1e9), True, None)):
            assert 0 <= confidence.probability(photo, hypothesis) <= 1
    nothing = np.full(2, np.nan, np.float32)
    assert 0 <= confidence.probability(nothing, Hypothesis((1,), np.zeros(2), True, None)) < 1e-9
