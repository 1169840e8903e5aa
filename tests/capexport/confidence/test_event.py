"""A confidence needs an event that is neither rare nor near certain."""

from __future__ import annotations

import numpy as np
import pytest

from capexport.confidence.event import agreement, choose_event, relative_scores, scores_of
from tests.capexport.confidence.synthetic import examples


def test_human_agreement_is_ten_for_equal_captions() -> None:
    same = [[f"a {noun} runs fast"] * 3 for noun in ("dog", "cat", "man")]
    assert agreement(examples(same)) == {"": pytest.approx(10, abs=1e-6)}


def test_human_agreement_is_zero_without_common_words() -> None:
    assert agreement(examples([["a dog", "one cat"], ["red house", "blue water"]])) == {"": 0}


def test_an_event_is_moderately_frequent_or_none_is_chosen() -> None:
    event = choose_event(np.linspace(0, 1, 100))
    assert event is not None
    assert event.share == 0.5
    assert "half as well" in event.sentence
    event = choose_event(np.linspace(0, 0.4, 100))
    assert event is not None
    assert event.share == 0.25
    assert choose_event(np.zeros(100)) is None


def test_captions_are_scored_by_the_words_and_agreement_of_their_dataset() -> None:
    dogs = [[f"a {colour} dog runs", f"the {colour} dog runs"] for colour in ("red", "white", "black")]
    cups = [[f"a {colour} cup", f"one {colour} cup stands"] for colour in ("red", "white", "black")]
    captions = ["a red dog runs", "dog", "a cat", "a red cup", "cup", "a cat"]
    both = examples(dogs + cups, ["dogs"] * 3 + ["cups"] * 3)
    human = agreement(both)
    assert human == agreement(both[:3]) | agreement(both[3:])
    assert scores_of(captions, both).tolist() == [
        *scores_of(captions[:3], both[:3]),
        *scores_of(captions[3:], both[3:]),
    ]
    found = relative_scores(captions, both, human)
    assert found[0] == pytest.approx(scores_of(captions, both)[0] / human["dogs"])
    assert found[3] == pytest.approx(scores_of(captions, both)[3] / human["cups"])
