"""Search options are checked for their ranges and for contradictions, and are read from older manifests."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from caprun.bundle.plain_data import from_dict
from caprun.errors import UsageError
from caprun.search.options import SEARCH_OPTIONS, SearchOptions


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
    with pytest.raises(UsageError, match=rf"^`{name}` is {value}; it must be .*\.$"):
        SearchOptions(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("beam_size", True, "`beam_size` is True; it must be a whole number from 1 to 100."),
        ("beam_size", "5", "`beam_size` is '5'; it must be a whole number from 1 to 100."),
        ("max_length", 7.0, "`max_length` is 7.0; it must be a whole number from 1 to 1000."),
        ("seed", None, "`seed` is None; it must be a whole number from 0 to 9223372036854775807."),
        ("length_penalty", "high", "`length_penalty` is 'high'; it must be a number from 0 to 10."),
        ("temperature", False, "`temperature` is False; it must be a number from 0 to 100."),
        ("suppress", 3, "`suppress` is 3; it must be words, such as 'a the' or ['a', 'the']."),
        ("suppress", {"boy"}, "`suppress` is {'boy'}; it must be words, such as 'a the' or ['a', 'the']."),
        (
            "bad_endings",
            ["a", 1],
            "`bad_endings` is ['a', 1]; it must be words, such as 'a the' or ['a', 'the'].",
        ),
    ],
)
def test_a_value_of_another_type_is_refused_in_one_sentence(name: str, value: Any, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        SearchOptions(**{name: value})
    assert str(caught.value) == sentence


@pytest.mark.parametrize("words", ["boy girl", " boy\tgirl ", ["boy", "girl"], ("boy", "girl")])
@pytest.mark.parametrize("name", ["suppress", "bad_endings"])
def test_words_can_be_a_string_a_list_or_a_tuple(name: str, words: Any) -> None:
    options = SearchOptions(**{name: words})
    assert getattr(options, name) == ("boy", "girl")
    assert options == SearchOptions(**{name: ("boy", "girl")})  # type: ignore[arg-type]
    assert hash(options) == hash(SearchOptions(**{name: ("boy", "girl")}))  # type: ignore[arg-type]


def test_a_word_is_not_split_into_letters() -> None:
    assert SearchOptions(suppress="boy").suppress == ("boy",)  # type: ignore[arg-type]


def test_numpy_numbers_are_converted_to_python_numbers() -> None:
    options = SearchOptions(np.int64(5), length_penalty=np.float32(1), temperature=0)  # type: ignore[arg-type]
    assert (type(options.beam_size), type(options.length_penalty), type(options.temperature)) == (int, float, float)


def test_the_defaults_are_valid() -> None:
    for name, option in SEARCH_OPTIONS.items():
        assert option.validated(name, option.default) == getattr(SearchOptions(), name)


def test_the_limits_of_every_range_are_accepted() -> None:
    SearchOptions(1, 1, 0)
    SearchOptions(100, 1000, 10, min_length=999, no_repeat_ngram=1000, no_repeat_word=1000, n_best=100, groups=100)
    SearchOptions(temperature=100, top_k=2**31 - 1, top_p=1, seed=2**63 - 1, n_best=100)
    SearchOptions(temperature=0.001, top_p=1e-300)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"min_length": 22}, r"`min_length` \(22\) must be at most 21, since `max_length` \(22\)"),
        ({"min_length": 5, "max_length": 3}, r"must be at most 2, "),
        ({"groups": 2}, r"`groups` \(2\) must divide `beam_size` \(3\)\."),
        ({"groups": 6}, r"`groups` \(6\) must divide `beam_size` \(3\)"),
        ({"n_best": 4}, r"`n_best` \(4\) must be at most `beam_size` \(3\)"),
        ({"top_k": 5}, r"`top_k` \(5\) is only for sampling; give a `temperature` above 0"),
        ({"top_p": 0.9}, r"`top_p` \(0\.9\) is only for sampling"),
        ({"seed": 7}, r"`seed` \(7\) is only for sampling"),
        ({"diversity": 1.5}, r"`diversity` \(1\.5\) needs several `groups`"),
        ({"diversity": 0, "temperature": 1.0}, r"`diversity` \(0\) needs several `groups`"),
        ({"temperature": 1.0, "groups": 3}, r"`groups` \(3\) is only for search"),
    ],
)
def test_contradictory_options_are_refused_in_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        SearchOptions(**options)


@pytest.mark.parametrize("value", [1, "yes", None])
def test_a_flag_must_be_true_or_false(value: object) -> None:
    with pytest.raises(UsageError, match=f"`neutral` is {value!r}; it must be true or false"):
        SearchOptions(neutral=value)  # type: ignore[arg-type]


def test_n_best_can_exceed_beam_size_in_sampling() -> None:
    assert SearchOptions(1, temperature=1.0, n_best=5).n_best == 5


def test_options_are_read_back_unchanged_and_newer_ones_can_be_missing() -> None:
    old = {"beam_size": 3, "max_length": 22, "length_penalty": 0.7}
    assert from_dict(SearchOptions, old) == SearchOptions()
    bans = (3, 3, 1, ("dog",), ("a", "the"))
    for every in (
        SearchOptions(4, 30, 0.5, *bans, n_best=2, groups=2, diversity=1.5, neutral=True),
        SearchOptions(4, 30, 0.5, *bans, n_best=2, temperature=0.7, top_k=9, top_p=0.9, seed=7),
    ):
        assert from_dict(SearchOptions, json.loads(json.dumps(every.as_dict()))) == every
        assert from_dict(SearchOptions, json.loads(json.dumps(asdict(every)))) == every


def test_unused_options_are_not_written_so_an_older_caprun_can_read_them() -> None:
    assert SearchOptions().as_dict() == {"beam_size": 3, "max_length": 22, "length_penalty": 0.7}
    assert SearchOptions(1, suppress=("dog",)).as_dict() == SearchOptions(1).as_dict() | {"suppress": ["dog"]}
    assert SearchOptions(temperature=1.0).as_dict()["seed"] == 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (SearchOptions(), "beam 3, length penalty 0.7, at most 22 steps"),
        (SearchOptions(5, no_repeat_ngram=3), "beam 5, length penalty 0.7, at most 22 steps, no repeat ngram 3"),
        (SearchOptions(bad_endings=("a", "the")), "beam 3, length penalty 0.7, at most 22 steps, bad endings a the"),
        (SearchOptions(repeatable="a"), "beam 3, length penalty 0.7, at most 22 steps"),  # type: ignore[arg-type]
        (
            SearchOptions(no_repeat_word=9, repeatable=("a", "of")),
            "beam 3, length penalty 0.7, at most 22 steps, no repeat word 9, repeatable a of",
        ),
        (SearchOptions(neutral=True), "beam 3, length penalty 0.7, at most 22 steps, neutral"),
        (SearchOptions(temperature=0.7, top_p=0.9), "sampled, at most 22 steps, temperature 0.7, top p 0.9, seed 0"),
    ],
)
def test_the_text_names_beam_length_and_options_that_differ_from_defaults(options: SearchOptions, text: str) -> None:
    assert options.text == text


def test_a_plain_search_keeps_only_lengths_and_bans() -> None:
    bans = {"no_repeat_ngram": 3, "no_repeat_word": 9, "repeatable": "a", "suppress": "b", "bad_endings": "c"}
    options = SearchOptions(6, 30, 0.5, min_length=4, n_best=6, groups=3, neutral=True, **bans)  # type: ignore[arg-type]
    assert options.plain(1) == SearchOptions(1, 30, 0.5, min_length=4, **bans)  # type: ignore[arg-type]
    assert SearchOptions(3, 30, 0.5, temperature=1.0, top_k=3).plain(1) == SearchOptions(1, 30, 0.5)
