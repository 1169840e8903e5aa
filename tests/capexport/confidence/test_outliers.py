"""Every kind of outlier is drawn in many sizes, and equal seeds give equal pictures."""

from __future__ import annotations

import numpy as np
import pytest

from capexport.confidence import outliers
from capexport.confidence.outliers import ALL_SCRIPTS, ALPHABETS, KINDS, draw_outliers, load_font


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_draws_different_rgb_pictures(kind: str) -> None:
    pictures = list(draw_outliers(kind, 6, 3))
    assert len(pictures) == 6
    assert {picture.mode for picture in pictures} == {"RGB"}
    assert len({picture.tobytes() for picture in pictures}) == 6
    assert len({picture.size for picture in pictures}) > 1


def test_equal_seeds_draw_equal_pictures_and_other_seeds_draw_others() -> None:
    first, again, other = (
        [np.asarray(picture).tobytes() for picture in draw_outliers("shapes", 3, seed)] for seed in (0, 0, 1)
    )
    assert first == again
    assert not set(first) & set(other)


def test_a_larger_count_starts_with_the_pictures_of_a_smaller_one() -> None:
    few, many = ([picture.tobytes() for picture in draw_outliers("icon", count, 0)] for count in (2, 5))
    assert many[:2] == few


@pytest.mark.parametrize("letters", ALPHABETS)
def test_the_font_has_the_letters_of_every_script(letters: str) -> None:
    """All missing letters are drawn as the same box."""
    face = load_font(ALL_SCRIPTS, 40)
    missing = bytes(face.getmask("\U0010fffe"))
    drawn = {bytes(face.getmask(letter)) for letter in letters}
    assert missing not in drawn
    assert len(drawn) > 0.9 * len(letters)


def test_a_chart_can_have_any_title(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outliers._Canvas, "words", lambda *_: "$3%3+ :11$16")
    assert outliers.chart(np.random.default_rng(0)).mode == "RGB"
