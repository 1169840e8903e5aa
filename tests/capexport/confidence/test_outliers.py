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


def test_the_same_seed_draws_the_same_pictures_and_another_others() -> None:
    first, again, other = (
        [np.asarray(picture).tobytes() for picture in draw_outliers("shapes", 3, seed)] for seed in (0, 0, 1)
    )
    assert first == again
    assert not set(first) & set(other)


def test_more_pictures_begin_with_those_of_fewer() -> None:
    few, many = ([picture.tobytes() for picture in draw_outliers("icon", count, 0)] for count in (2, 5))
    assert many[:2] == few


@pytest.mark.parametrize("letters", ALPHABETS)
def test_every_script_has_its_letters(letters: str) -> None:
    """A missing letter is drawn as the same box as any other."""
    face = load_font(ALL_SCRIPTS, 40)
    missing = bytes(face.getmask("\U0010fffe"))
    drawn = {bytes(face.getmask(letter)) for letter in letters}
    assert missing not in drawn
    assert len(drawn) > 0.9 * len(letters)


def test_a_chart_may_have_any_title(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outliers._Canvas, "words", lambda *_: "$3%3+ :11$16")
    assert outliers.chart(np.random.default_rng(0)).mode == "RGB"
