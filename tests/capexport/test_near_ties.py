"""Captions are near-ties if the model scores them alike, in full or up to the first piece that differs."""

from __future__ import annotations

import numpy as np

from capexport.near_ties import is_near_tie
from caprun.search.hypothesis import Hypothesis
from caprun.search.options import SearchOptions


def _hypothesis(*ids: int) -> Hypothesis:
    return Hypothesis(ids, np.zeros(len(ids)), finished=True, alpha=None)


def test_captions_are_near_ties_if_pytorch_is_undecided_where_they_first_differ() -> None:
    options = SearchOptions()
    one, other = _hypothesis(4, 5, 6), _hypothesis(4, 7)
    assert is_near_tie([-1, -2.0, -1, -1], [-1, -2.00005, -9], [one, other], options)
    assert not is_near_tie([-1, -2.0, -1, -1], [-1, -2.01, -9], [one, other], options)
    assert not is_near_tie([-1, -2.0, -1, -1], [-2, -1.01, -9], [one, other], options)
