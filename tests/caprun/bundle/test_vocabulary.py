"""A vocabulary turns pieces into words and words into text."""

import json
from typing import Any

import pytest

from caprun.bundle.vocabulary import Joining, Vocabulary, WordSpan


def vocabulary(text: str, **joining: Any) -> Vocabulary:
    """The pieces of `text` by order of appearance, so that its ids are what `say` feeds back."""
    return Vocabulary(tuple(dict.fromkeys(text.split())), Joining(**joining))


def ids(vocabulary: Vocabulary, text: str) -> list[int]:
    return [vocabulary.pieces.index(piece) for piece in text.split()]


def say(text: str, **joining: Any) -> str:
    pieces = vocabulary(text, **joining)
    return pieces.text(ids(pieces, text))


def words(text: str, **joining: Any) -> list[WordSpan]:
    pieces = vocabulary(text, **joining)
    return pieces.words(ids(pieces, text))


def test_by_default_every_piece_is_a_word() -> None:
    assert say("a dog and a cat") == "a dog and a cat"
    assert words("a dog a") == [WordSpan("a", (0,)), WordSpan("dog", (1,)), WordSpan("a", (2,))]


def test_no_pieces_are_no_words_and_no_text() -> None:
    assert Vocabulary(("a",)).words([]) == []
    assert Vocabulary(("a",)).text([]) == ""


def test_a_continuation_belongs_to_the_word_before_it() -> None:
    text = "a skate ##board ##er jumps"
    assert say(text, continuation="##") == "a skateboarder jumps"
    assert words(text, continuation="##") == [
        WordSpan("a", (0,)),
        WordSpan("skateboarder", (1, 2, 3)),
        WordSpan("jumps", (4,)),
    ]


def test_a_continuation_of_nothing_begins_a_word() -> None:
    assert words("##board a", continuation="##") == [WordSpan("board", (0,)), WordSpan("a", (1,))]


def test_where_words_have_a_start_what_has_none_continues() -> None:
    text = "▁a ▁skate board er ▁jumps"
    assert say(text, word_start="▁") == "a skateboarder jumps"
    assert words(text, word_start="▁") == [
        WordSpan("a", (0,)),
        WordSpan("skateboarder", (1, 2, 3)),
        WordSpan("jumps", (4,)),
    ]


def test_a_caption_that_begins_in_the_middle_of_a_word_is_still_said() -> None:
    assert words("board ▁a", word_start="▁") == [WordSpan("board", (0,)), WordSpan("a", (1,))]


def test_a_start_of_its_own_begins_the_word_that_follows() -> None:
    assert say("▁a ▁ board", word_start="▁") == "a board"


def test_marks_are_left_alone_where_they_mean_nothing() -> None:
    assert say("c# ##x ▁y") == "c# ##x ▁y"


def test_an_empty_separator_writes_words_together() -> None:
    assert say("一 只 狗", separator="") == "一只狗"
    assert [word.text for word in words("一 只 狗", separator="")] == ["一", "只", "狗"]


def test_no_space_is_written_before_a_comma_or_after_a_bracket() -> None:
    joining = {"no_space_before": (",", ")", "."), "no_space_after": ("(",)}
    assert say("a dog , wet ( very ) .", **joining) == "a dog, wet (very)."


def test_a_caption_that_begins_with_a_comma_begins_with_it() -> None:
    assert say(", a", no_space_before=(",",)) == ", a"


def test_spaces_go_by_words_and_not_by_pieces() -> None:
    assert say("( ##a dog", continuation="##", no_space_after=("(",)) == "(a dog"


def test_beside_a_letter_of_an_unspaced_script_a_piece_is_a_word_and_no_separator_is_written() -> None:
    rules = {"word_start": "▁", "unspaced": "一只狗在"}
    assert say("▁ 一只 狗 在", **rules) == "一只狗在"
    assert [word.text for word in words("▁ 一只 狗 在", **rules)] == ["一只", "狗", "在"]
    assert [word.text for word in words("▁led 狗", **rules)] == ["led", "狗"]
    assert say("一只 led s ▁run ning", **rules) == "一只leds running"
    assert [word.text for word in words("一只 led s ▁run ning", **rules)] == ["一只", "leds", "running"]


def test_a_start_beside_an_unspaced_script_is_a_separator() -> None:
    assert say("一只 ▁ 狗 ▁dog", word_start="▁", unspaced="一只狗") == "一只 狗 dog"


def test_vowel_signs_continue_the_letter_before_them() -> None:
    pieces = words("น ้ ำ ス キ ー", word_start="▁", unspaced="น้ำスキー")
    assert [word.text for word in pieces] == ["น้", "ำ", "ス", "キー"]


def test_where_every_piece_is_a_word_letters_of_an_unspaced_script_touch_their_neighbours() -> None:
    assert say("一 只 dog here", unspaced="一只") == "一只dog here"


def test_a_line_break_and_a_space_as_words_write_nothing() -> None:
    assert Vocabulary(("a", "\n", "dog", " ")).text(range(4)) == "a dog"


def test_a_start_that_nothing_follows_writes_no_space() -> None:
    assert say("▁a ▁", word_start="▁") == "a"


@pytest.mark.parametrize(
    "original",
    [
        Vocabulary(("<pad>", "<start>", "<end>", "<unk>", "a", "é", "狗", '"', "\\", " ")),
        Vocabulary(("▁a", "b"), Joining("", "##", "▁", (",", "."), ("(",), "狗猫")),
    ],
)
def test_a_vocabulary_comes_back_from_json_as_it_was(original: Vocabulary) -> None:
    assert Vocabulary.from_dict(json.loads(json.dumps(original.as_dict()))) == original


def test_its_length_is_the_number_of_pieces() -> None:
    assert len(Vocabulary(("a", "b", "c"))) == 3


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"pieces": ["a", "b", "a"]}, "a piece is repeated"),
        ({}, "'pieces' is missing"),
        ({"pieces": ["a", 1]}, r"pieces\[1\] is 1; it must be text"),
        ({"pieces": "abc"}, "pieces must be a list"),
        ({"pieces": ["a"], "joining": {"seperator": ""}}, "unknown key 'joining.seperator'"),
        ([], "must be a table"),
    ],
)
def test_what_is_no_vocabulary_is_refused_by_its_problem(data: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Vocabulary.from_dict(data)
