"""Options have their ranges, do not contradict each other, and are read from manifests older than they."""

import json
from dataclasses import asdict
from typing import Any

import pytest

from caprun.bundle.plain_data import from_dict
from caprun.errors import UsageError
from caprun.search.options import SearchOptions


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("beam_size", value) for value in (0, -1, 101, 10**9)),
        *(("max_length", value) for value in (0, -5, 1001)),
        *(("length_penalty", value) for value in (-0.1, 10.5, float("nan"), float("inf"))),
        *(("min_length", value) for value in (-1, 1000)),
        *((name, value) for name in ("no_repeat_ngram", "no_repeat_word") for value in (-1, 1001)),
        *((name, value) for name in ("n_best", "groups") for value in (0, 101)),
        *((name, value) for name in ("diversity", "temperature") for value in (-0.1, 101, float("nan"))),
        ("temperature", 1e-4),
        ("top_k", -1),
        *(("top_p", value) for value in (0, -0.5, 1.01, float("nan"))),
        *(("seed", value) for value in (-1, 2**63)),
    ],
)
def test_an_option_out_of_its_range_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"{name} is {value}"):
        SearchOptions(**{name: value})  # type: ignore[arg-type]


def test_the_limits_of_an_option_are_within_its_range() -> None:
    SearchOptions(1, 1, 0)
    SearchOptions(100, 1000, 10, min_length=999, no_repeat_ngram=1000, no_repeat_word=1000, n_best=100, groups=100)
    SearchOptions(temperature=100, top_k=2**31 - 1, top_p=1, seed=2**63 - 1, n_best=100)
    SearchOptions(temperature=0.001, top_p=1e-300)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"min_length": 22}, r"min_length is 22 and max_length 22: .* may be 21 at most"),
        ({"min_length": 5, "max_length": 3}, r"may be 2 at most"),
        ({"groups": 2}, r"groups is 2 and beam_size 3, which it does not divide"),
        ({"groups": 6}, r"groups is 6 and beam_size 3"),
        ({"n_best": 4}, r"n_best is 4 and beam_size 3: .*; widen it"),
        ({"top_k": 5}, r"top_k is 5 and temperature 0: sampling wants a temperature"),
        ({"top_p": 0.9}, r"top_p is 0.9 and temperature 0"),
        ({"seed": 7}, r"seed is 7 and temperature 0: sampling wants a temperature"),
        ({"diversity": 1.5}, r"diversity is 1.5 and groups 1: one group has no others to avoid"),
        ({"diversity": 0, "temperature": 1.0}, r"diversity is 0 and groups 1"),
        ({"temperature": 1.0, "groups": 3}, r"groups is 3 and temperature 1: sampling has no beams"),
    ],
)
def test_options_that_do_not_go_together_are_refused_in_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        SearchOptions(**options)


@pytest.mark.parametrize("value", [1, "yes", None])
def test_a_switch_is_on_or_off(value: object) -> None:
    with pytest.raises(UsageError, match=f"neutral is {value!r}; it must be True or False"):
        SearchOptions(neutral=value)  # type: ignore[arg-type]


def test_more_captions_than_beams_may_be_drawn() -> None:
    assert SearchOptions(1, temperature=1.0, n_best=5).n_best == 5


def test_options_are_read_as_they_are_written_and_without_those_that_came_later() -> None:
    old = {"beam_size": 3, "max_length": 22, "length_penalty": 0.7}
    assert from_dict(SearchOptions, old) == SearchOptions()
    bans = (3, 3, 1, ("dog",), ("a", "the"))
    for every in (
        SearchOptions(4, 30, 0.5, *bans, n_best=2, groups=2, diversity=1.5, neutral=True),
        SearchOptions(4, 30, 0.5, *bans, n_best=2, temperature=0.7, top_k=9, top_p=0.9, seed=7),
    ):
        assert from_dict(SearchOptions, json.loads(json.dumps(every.as_dict()))) == every
        assert from_dict(SearchOptions, json.loads(json.dumps(asdict(every)))) == every


def test_options_are_written_so_that_an_older_caprun_reads_those_it_knows() -> None:
    assert SearchOptions().as_dict() == {"beam_size": 3, "max_length": 22, "length_penalty": 0.7}
    assert SearchOptions(1, suppress=("dog",)).as_dict() == SearchOptions(1).as_dict() | {"suppress": ["dog"]}
    assert SearchOptions(temperature=1.0).as_dict()["seed"] == 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (SearchOptions(), "beam 3, length penalty 0.7, at most 22 steps"),
        (SearchOptions(5, no_repeat_ngram=3), "beam 5, length penalty 0.7, at most 22 steps, no repeat ngram 3"),
        (SearchOptions(bad_endings=("a", "the")), "beam 3, length penalty 0.7, at most 22 steps, bad endings a the"),
        (SearchOptions(neutral=True), "beam 3, length penalty 0.7, at most 22 steps, neutral"),
        (SearchOptions(temperature=0.7, top_p=0.9), "sampled, at most 22 steps, temperature 0.7, top p 0.9, seed 0"),
    ],
)
def test_options_are_told_to_people_where_they_are_not_as_usual(options: SearchOptions, text: str) -> None:
    assert options.text == text


def test_the_plain_search_has_its_width_and_no_option_that_needs_another() -> None:
    options = SearchOptions(6, 30, 0.5, min_length=4, n_best=6, groups=3)
    assert options.plain(1) == SearchOptions(1, 30, 0.5)
