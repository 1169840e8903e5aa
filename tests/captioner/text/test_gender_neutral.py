"""A vocabulary gets the neutral words that it can write."""

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


def test_only_words_are_written_whose_neutral_word_the_vocabulary_has() -> None:
    found = neutral_words(vocabulary("a the man woman person boy brother dog people"))
    assert found is not None
    assert found.language == "en"
    assert found.words == {"man": "person", "woman": "person", "brother": "person"}
    assert found.phrases == {"person person": "person"}


def test_the_first_neutral_word_that_the_vocabulary_has_is_said() -> None:
    for words, expected in (("sibling child person", "sibling"), ("person child", "child"), ("person", "person")):
        found = neutral_words(vocabulary(f"a the brother {words}"))
        assert found is not None
        assert found.words == {"brother": expected}


def test_only_phrases_are_written_that_the_vocabulary_can_say() -> None:
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
def test_there_are_none_for_another_language_or_where_nothing_is_gendered(words: str, language: str | None) -> None:
    assert neutral_words(vocabulary(words), language) is None


def test_words_are_found_with_the_mark_that_begins_them_and_pieces_within_a_word_are_left_alone() -> None:
    found = neutral_words(vocabulary("▁a ▁the ▁man man ▁person person", Joining(word_start="▁")))
    assert found is not None
    assert found.words == {"▁man": "▁person"}
    found = neutral_words(vocabulary("a the man ##man person ##person", Joining(continuation="##")))
    assert found is not None
    assert found.words == {"man": "person"}


def test_capitals_stay_capitals() -> None:
    found = neutral_words(vocabulary("a the A The Man man Person person and Two two people"))
    assert found is not None
    assert found.words == {"man": "person", "Man": "Person"}
    assert found.phrases["A person and a person"] == "Two people"


@pytest.mark.parametrize("joining", [Joining(), Joining(word_start="▁")])
def test_the_whole_table_can_be_used(joining: Joining) -> None:
    pieces = vocabulary(" ".join(joining.word_start + word for word in EVERY), joining)
    found = neutral_words(pieces)
    assert found is not None
    assert list(found.problems(pieces, frozenset(range(len(SPECIAL_PIECES))))) == []
    assert set(found.words) == {joining.word_start + word for word in WORDS}
    found.neutralizer(pieces)


def test_every_word_that_the_card_counts_as_gendered_is_in_it() -> None:
    """Cowboys are left alone: they are mostly hats."""
    assert GENDERED - {"cowboy", "cowboys"} <= set(WORDS)


def test_no_neutral_word_is_one_that_the_card_counts_as_gendered() -> None:
    neutral = {word for words in WORDS.values() for word in words}
    neutral |= {word for phrase in PHRASES.values() for word in phrase.split()}
    assert neutral.isdisjoint(GENDERED | set(WORDS))
