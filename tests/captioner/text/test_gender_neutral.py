"""Neutral words are chosen from the words of the vocabulary."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from caprun.bundle.vocabulary import Joining, Vocabulary
from captioner.text.gender_neutral import PHRASES, WORDS, neutral_words
from captioner.text.tokenizer import SPECIAL_PIECES

sys.path.insert(0, str(Path(__file__).parents[3] / "bench"))

from harness.word_lists import word_lists

NEUTRAL = (neutral for choices in WORDS.values() for neutral in choices)
GENDERED = word_lists("en").by_subject["men"] | word_lists("en").by_subject["women"]
EVERY = dict.fromkeys(
    word for text in ("a", "the", *WORDS, *NEUTRAL, *PHRASES, *PHRASES.values()) for word in text.split()
)


def vocabulary(words: str, joining: Joining | None = None) -> Vocabulary:
    return Vocabulary((*SPECIAL_PIECES, *words.split()), joining or Joining())


def test_only_words_with_a_neutral_word_in_the_vocabulary_are_replaced() -> None:
    found = neutral_words(vocabulary("a the man woman person boy brother dog people"))
    assert found is not None
    assert found.language == "en"
    assert found.words == {"man": "person", "woman": "person", "brother": "person"}
    assert found.phrases == {"person person": "person"}


def test_the_first_neutral_word_in_the_vocabulary_is_used() -> None:
    for words, expected in (("sibling child person", "sibling"), ("person child", "child"), ("person", "person")):
        found = neutral_words(vocabulary(f"a the brother {words}"))
        assert found is not None
        assert found.words == {"brother": expected}


def test_only_phrases_that_the_vocabulary_can_express_are_used() -> None:
    found = neutral_words(vocabulary("a the and man person people two young"))
    assert found is not None
    assert found.phrases["a person and a person"] == "two people"
    assert found.phrases["a young person and a young person"] == "two young people"
    assert "an person" not in found.phrases
    assert not any("child" in phrase for phrase in found.phrases)


@pytest.mark.parametrize(
    ("words", "language"),
    [
        ("a the dog cat person", None),
        ("ein die man frau person", None),
        ("en och man person", None),
        ("a the man person", "de"),
    ],
    ids=["nothing gendered", "German", "Swedish", "known to be German"],
)
def test_no_neutral_words_for_other_languages_or_without_gendered_words(words: str, language: str | None) -> None:
    assert neutral_words(vocabulary(words), language) is None


def test_pieces_that_start_words_are_replaced_and_inner_pieces_are_not() -> None:
    found = neutral_words(vocabulary("▁a ▁the ▁man man ▁person person", Joining(word_start="▁")))
    assert found is not None
    assert found.words == {"▁man": "▁person"}
    found = neutral_words(vocabulary("a the man ##man person ##person", Joining(continuation="##")))
    assert found is not None
    assert found.words == {"man": "person"}


def test_capitals_are_kept() -> None:
    found = neutral_words(vocabulary("a the A The Man man Person person and Two two people"))
    assert found is not None
    assert found.words == {"man": "person", "Man": "Person"}
    assert found.phrases["A person and a person"] == "Two people"


@pytest.mark.parametrize("joining", [Joining(), Joining(word_start="▁")])
def test_every_word_of_the_table_is_usable_with_a_full_vocabulary(joining: Joining) -> None:
    pieces = vocabulary(" ".join(joining.word_start + word for word in EVERY), joining)
    found = neutral_words(pieces)
    assert found is not None
    assert list(found.problems(pieces, frozenset(range(len(SPECIAL_PIECES))))) == []
    assert set(found.words) == {joining.word_start + word for word in WORDS}
    found.neutralizer(pieces)


def test_the_table_includes_every_word_that_cards_count_as_gendered() -> None:
    """`cowboy` is exempt because it mostly describes a hat."""
    assert GENDERED - {"cowboy", "cowboys"} <= set(WORDS)


def test_no_neutral_word_is_counted_as_gendered_by_cards() -> None:
    neutral = {word for words in WORDS.values() for word in words}
    neutral |= {word for phrase in PHRASES.values() for word in phrase.split()}
    assert neutral.isdisjoint(GENDERED | set(WORDS))
