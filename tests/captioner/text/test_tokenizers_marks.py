"""Captions are split into words and punctuation, and joined with the right spaces."""

from __future__ import annotations

import random

import pytest

from caprun.bundle.vocabulary import Vocabulary
from captioner.text.metric_words import tokenize
from captioner.text.splitting import joining, split


def said(caption: str) -> str:
    tokens = [token.text for token in split(caption, punctuation=True)]
    pieces = tuple(dict.fromkeys(tokens))
    return Vocabulary(pieces, joining(pieces)).text([pieces.index(token) for token in tokens])


def test_words_of_scripts_with_spaces_equal_the_words_of_the_metrics() -> None:
    ranges = (*range(0x20, 0x250), *range(0x300, 0x320), 0x200B, 0x200C, 0x200D, 0xAD, 0x3000, 0xAC00, 0x1161)
    ranges += (
        0x11A8,
        0x94D,
        0x915,
        0x1F600,
        0xFE0F,
        0xD800,
        0x130,
        0x2019,
        0x2010,
        0x2011,
        0x660,
        0x2028,
    )
    rng = random.Random(0)
    for _ in range(3000):
        caption = "".join(map(chr, rng.choices(ranges, k=rng.randrange(12))))
        assert [token.text for token in split(caption)] == tokenize(caption), ascii(caption)


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        ("A dog , wet ( very ) runs .", "a dog, wet (very) runs."),
        ("a dog,wet(very)!", "a dog, wet (very)!"),
        ("wait ... what ?!", "wait... what?!"),
        ("red/blue and 50% of $5.50", "red/blue and 50% of $5.50"),
        ("10:30, 1,000 and 3.5.", "10:30, 1,000 and 3.5."),
        ("the t-shirt - it's red", "the t-shirt – it's red"),
        ("a man 's hat is n't", "a man's hat isn't"),
        ("the dogs' tails, 'wagging'", "the dogs’ tails, ‘wagging’"),
        ('a "red" hat , " blue " too', "a “red” hat, “blue” too"),
        ("Qu’est-ce que « c’est »\u00a0? Oui\u202f!", "qu'est-ce que «c'est»? oui!"),
        ("„Ja“, sagt er: »Nein«", "“ja”, sagt er: «nein»"),
        ("he said «a “b” c»", "he said «a “b” c»"),
        ('a 5" pipe', "a 5” pipe"),
        ("¿Qué? ¡Sí!", "¿qué? ¡sí!"),
        ("他说：“你好”，走了（快）。", "他说：“你好”，走了（快）。"),
        ("كلب يجري ، نعم ؟", "كلب يجري، نعم؟"),
        ("कुत्ता दौड़ता है ।", "कुत्ता दौड़ता है।"),
        ("Собака бежит — быстро!", "собака бежит — быстро!"),
        ("a \u200d👨\u200d👩\u200d👧 and ❤\ufe0f🇫🇷 .", "a 👨👩👧 and ❤\ufe0f🇫🇷."),
        ("\u0301\ufe0fa <b>", "a < b >"),
    ],
)
def test_punctuation_is_spaced_as_in_print_however_it_was_typed(caption: str, text: str) -> None:
    assert said(caption) == text


@pytest.mark.parametrize("caption", ["a dog, wet (very) – “so”!", "l'œil «bleu»", "¿qué? ¡sí!", "他说：“你好”，走了。"])
def test_splitting_and_joining_a_decoded_caption_changes_nothing(caption: str) -> None:
    assert said(said(caption)) == said(caption) == caption


def test_tokens_record_whether_a_space_separates_them_from_the_previous() -> None:
    assert [token.spaced for token in split("a dog-b, c,d")] == [True, True, True, True]
    assert [token.spaced for token in split("a, b(c)", punctuation=True)] == [True, False, True, False, False, False]
    assert [token.spaced for token in split("狗，猫 狗\u200b猫")] == [True, False, True, False]


def test_only_marks_in_the_vocabulary_have_spacing_rules() -> None:
    assert joining(["a", ",", "("]) == joining(["(", ",", "b"])
    assert joining(["a", ",", "("]).no_space_before == (",",)
    assert joining(["a", ",", "("]).no_space_after == ("(",)
