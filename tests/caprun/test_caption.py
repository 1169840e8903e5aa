"""Result rows have one definition for the command line, files, HTTP and Ray."""

from typing import Any

import numpy as np
import pytest

from caprun.caption import Caption, CaptionWord, as_row
from caprun.errors import ImageError


def caption(text: str = "a dog", confidence: float | None = None, **more: Any) -> Caption:
    words = tuple(CaptionWord(word, -1.23456789, None) for word in text.split())
    return Caption(text, -2.46913578, words, finished=True, confidence=confidence, **more)


def test_a_row_omits_unknown_fields_and_rounds_to_six_decimals() -> None:
    word = {"log_prob": -1.234568}
    assert as_row(caption()) == {
        "caption": "a dog",
        "log_prob": -2.469136,
        "finished": True,
        "words": [{"word": "a", **word}, {"word": "dog", **word}],
    }


def test_a_truncated_caption_is_unfinished_and_its_alternatives_are_rows() -> None:
    cut = Caption("a dog", -1.0, (), finished=False, alternatives=(caption(),))
    row = as_row(cut)
    assert row["finished"] is False
    assert row["alternatives"] == [as_row(caption())]


def test_keys_have_a_fixed_order() -> None:
    full = caption(confidence=0.5, alternatives=(caption("a cat", 0.25),))
    assert list(as_row(full)) == ["caption", "log_prob", "finished", "confidence", "words", "alternatives"]
    assert list(as_row(full)["alternatives"][0]) == ["caption", "log_prob", "finished", "confidence", "words"]


def test_attention_is_a_grid_of_rounded_weights() -> None:
    alpha = np.array([[1 / 3, 2 / 3]], np.float32)
    row = as_row(Caption("dog", -1.0, (CaptionWord("dog", -1.0, alpha),), finished=True))
    assert row["words"] == [{"word": "dog", "log_prob": -1.0, "alpha": [[0.333333, 0.666667]]}]


@pytest.mark.parametrize(("least", "abstains"), [(None, False), (0.123457, False), (0.123458, True)])
def test_a_row_below_the_minimum_confidence_has_a_reason_and_no_caption(least: float | None, abstains: bool) -> None:
    row = as_row(caption(confidence=0.1234567), least)
    assert row["confidence"] == 0.123457
    assert ("abstained" in row, "caption" in row) == (abstains, not abstains)
    if abstains:
        sentence = "The model abstains: its confidence in its caption is 0.123457, below 0.123458."
        assert row == {"abstained": sentence, "confidence": 0.123457}


def test_an_error_is_a_row_with_its_message() -> None:
    assert as_row(ImageError("a.jpg is empty."), 0.5) == {"error": "a.jpg is empty."}
