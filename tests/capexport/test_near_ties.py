"""Captions tie if the model scores them alike, as a whole or up to the piece where they differ."""

from __future__ import annotations

import numpy as np

from capexport.near_ties import is_near_tie
from caprun.search.hypothesis import Hypothesis
from caprun.search.options import SearchOptions


def _hypothesis(*ids: int) -> Hypothesis:
    return Hypothesis(ids, np.zeros(len(ids)), finished=True, alpha=None)


def test_captions_that_part_where_pytorch_is_undecided_are_near_ties() -> None:
    options = SearchOptions()
    one, other = _hypothesis(4, 5, 6), _hypothesis(4, 7)
    assert is_near_tie([-1, -2.0, -1, -1], [-1, -2.00005, -9], [one, other], options)
    assert not is_near_tie([-1, -2.0, -1, -1], [-1, -2.01, -9], [one, other], options)
    assert not is_near_tie([-1, -2.0, -1, -1], [-2, -1.01, -9], [one, other], options)
