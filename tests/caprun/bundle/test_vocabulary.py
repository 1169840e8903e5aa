"""A vocabulary turns pieces into words and words into text."""

import json
import re
from typing import Any

import pytest

from caprun.bundle.vocabulary import Joining, Vocabulary, WordSpan


def vocabulary(text: str, **joining: Any) -> Vocabulary:
    """Returns a vocabulary of the pieces in `text`, in order of appearance."""
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


def test_without_pieces_there_are_no_words_and_no_text() -> None:
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


def test_a_continuation_at_the_beginning_begins_a_word() -> None:
    assert words("##board a", continuation="##") == [WordSpan("board", (0,)), WordSpan("a", (1,))]


def test_with_a_word_start_pieces_without_it_continue_the_word() -> None:
    text = "▁a ▁skate board er ▁jumps"
    assert say(text, word_start="▁") == "a skateboarder jumps"
    assert words(text, word_start="▁") == [
        WordSpan("a", (0,)),
        WordSpan("skateboarder", (1, 2, 3)),
        WordSpan("jumps", (4,)),
    ]


def test_a_caption_can_begin_in_the_middle_of_a_word() -> None:
    assert words("board ▁a", word_start="▁") == [WordSpan("board", (0,)), WordSpan("a", (1,))]


def test_a_word_start_without_text_begins_the_next_word() -> None:
    assert say("▁a ▁ board", word_start="▁") == "a board"


def test_marks_that_have_no_rule_are_kept() -> None:
    assert say("c# ##x ▁y") == "c# ##x ▁y"


def test_an_empty_separator_joins_words_without_spaces() -> None:
    assert say("一 只 狗", separator="") == "一只狗"
    assert [word.text for word in words("一 只 狗", separator="")] == ["一", "只", "狗"]


def test_no_space_is_written_before_a_comma_or_after_a_bracket() -> None:
    joining = {"no_space_before": (",", ")", "."), "no_space_after": ("(",)}
    assert say("a dog , wet ( very ) .", **joining) == "a dog, wet (very)."


def test_a_caption_can_begin_with_a_comma() -> None:
    assert say(", a", no_space_before=(",",)) == ", a"


def test_spaces_depend_on_words_and_not_on_pieces() -> None:
    assert say("( ##a dog", continuation="##", no_space_after=("(",)) == "(a dog"


def test_next_to_an_unspaced_letter_a_piece_is_a_word_without_a_separator() -> None:
    rules = {"word_start": "▁", "unspaced": "一只狗在"}
    assert say("▁ 一只 狗 在", **rules) == "一只狗在"
    assert [word.text for word in words("▁ 一只 狗 在", **rules)] == ["一只", "狗", "在"]
    assert [word.text for word in words("▁led 狗", **rules)] == ["led", "狗"]
    assert say("一只 led s ▁run ning", **rules) == "一只leds running"
    assert [word.text for word in words("一只 led s ▁run ning", **rules)] == ["一只", "leds", "running"]


def test_a_word_start_next_to_an_unspaced_letter_adds_a_separator() -> None:
    assert say("一只 ▁ 狗 ▁dog", word_start="▁", unspaced="一只狗") == "一只 狗 dog"


def test_combining_marks_and_length_marks_continue_the_letter_before_them() -> None:
    pieces = words("น ้ ำ ス キ ー", word_start="▁", unspaced="น้ำスキー")
    assert [word.text for word in pieces] == ["น้", "ำ", "ス", "キー"]


def test_words_next_to_an_unspaced_letter_have_no_separator() -> None:
    assert say("一 只 dog here", unspaced="一只") == "一只dog here"


def test_pieces_of_whitespace_add_nothing_to_the_text() -> None:
    assert Vocabulary(("a", "\n", "dog", " ")).text(range(4)) == "a dog"


def test_a_word_start_at_the_end_adds_no_space() -> None:
    assert say("▁a ▁", word_start="▁") == "a"


@pytest.mark.parametrize(
    "original",
    [
        Vocabulary(("<pad>", "<start>", "<end>", "<unk>", "a", "é", "狗", '"', "\\", " ")),
        Vocabulary(("▁a", "b"), Joining("", "##", "▁", (",", "."), ("(",), "狗猫")),
        Vocabulary(("a", "\n", " \t")),  # spaCy has such words, and captions leave them out
    ],
)
def test_a_vocabulary_is_read_back_unchanged_from_json(original: Vocabulary) -> None:
    assert Vocabulary.from_dict(json.loads(json.dumps(original.as_dict()))) == original


def test_the_length_of_a_vocabulary_is_its_number_of_pieces() -> None:
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
        *(
            ({"pieces": ["a", text]}, re.escape(f"the piece {text!r} contains a control character"))
            for text in ("\x0b.", "\x1b[31m", "\x9b", "\ud800", "\uffff", "a\nb")
        ),
        ({"pieces": ["a", "\n"], "joining": {"word_start": "▁"}}, "the piece '.n' contains a control character"),
        ({"pieces": ["a"], "joining": {"separator": "\n"}}, "the separator '.n' contains a control character"),
    ],
)
def test_the_error_for_an_invalid_vocabulary_names_the_problem(data: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Vocabulary.from_dict(data)
