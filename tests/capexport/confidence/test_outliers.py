"""Outliers are drawn of every kind and in many sizes, and equal seeds give equal pictures."""

from __future__ import annotations

import numpy as np
import pytest

from capexport.confidence.outliers import KINDS, draw_outliers


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_draws_different_rgb_pictures(kind: str) -> None:
    pictures = list(draw_outliers(kind, 8, 3))
    assert len(pictures) == 8
    assert {picture.mode for picture in pictures} == {"RGB"}
    assert len({picture.tobytes() for picture in pictures}) == 8
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


def test_text_is_drawn_with_the_font_of_every_host() -> None:
    assert len(list(draw_outliers("text", 10, 0))) == 10
