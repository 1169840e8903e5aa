"""The event that a confidence predicts is moderately frequent, or there is none."""

from __future__ import annotations

import pytest

from capexport.confidence.event import agreement, choose_event, scores_of


def test_people_agree_fully_where_they_say_the_same() -> None:
    same = [[f"a {noun} runs fast"] * 3 for noun in ("dog", "cat", "man")]
    assert agreement(same) == pytest.approx(10, abs=1e-6)


def test_captions_without_a_word_in_common_do_not_agree() -> None:
    assert agreement([["a dog", "one cat"], ["red house", "blue water"]]) == 0


def test_an_event_is_moderately_frequent_or_there_is_none() -> None:
    references = [[f"{a} {b} one two", f"{a} {b} three four"] for a in "efghij" for b in "klmnop"]
    captions = [texts[0] if i % 2 else "zebra" for i, texts in enumerate(references)]
    human = agreement(references)
    event = choose_event(scores_of(captions, references), human)
    assert event is not None
    assert "half as well" in event.sentence
    assert event.threshold == round(human / 2, 2)
    assert event.human == human
    assert choose_event(scores_of(["zebra"] * len(references), references), human) is None
    assert choose_event(scores_of(captions, references), 0.0) is None
