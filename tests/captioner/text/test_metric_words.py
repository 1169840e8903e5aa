"""Metrics count lower-cased words without punctuation."""

import unicodedata

import numpy as np
import pytest

from captioner.text.metric_words import tokenize


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A man, in a T-shirt, rides a wave.", ["a", "man", "in", "a", "t-shirt", "rides", "a", "wave"]),
        ("", []),
        (" ... - ' ’ _ !", []),
        ("the dog's toy; two dogs' toys", ["the", "dog's", "toy", "two", "dogs", "toys"]),
        ("'quoted' -dash- up--down 3-in-1", ["quoted", "dash", "up", "down", "3-in-1"]),
        ("snake_case 24/7 $5 #1", ["snake", "case", "24", "7", "5", "1"]),
        ("Un garçon près de l’eau, aujourd'hui", ["un", "garçon", "près", "de", "l'eau", "aujourd'hui"]),
        ("« Où ? » Là-bas…", ["où", "là-bas"]),
        ("Một người đàn ông đang lướt sóng.", ["một", "người", "đàn", "ông", "đang", "lướt", "sóng"]),
        ("한 남자가 파도를 타고 있다.", ["한", "남자가", "파도를", "타고", "있다"]),
        ("एक आदमी समुद्र में है।", ["एक", "आदमी", "समुद्र", "में", "है"]),
        ("رجلٌ يركضُ، اليوم؟", ["رجلٌ", "يركضُ", "اليوم"]),
        ("一个男人在冲浪。真好", ["一个男人在冲浪", "真好"]),
        ("dog ❤️ 🐶👍🏽 cat", ["dog", "cat"]),
    ],
)
def test_tokenize_lower_cases_and_removes_punctuation(caption, words):
    assert tokenize(caption) == words


@pytest.mark.parametrize("caption", ["Một người ở bãi biển", "한 남자가", "Un garçon près", "क़लम"])
def test_tokenize_gives_composed_and_decomposed_text_the_same_words(caption):
    composed, decomposed = (tokenize(unicodedata.normalize(form, caption)) for form in ("NFC", "NFD"))
    assert composed == decomposed == unicodedata.normalize("NFC", caption).lower().split()


def test_tokenize_keeps_a_word_whole_around_invisible_characters():
    assert tokenize("sea\N{SOFT HYPHEN}side क्\N{ZERO WIDTH JOINER}ष") == ["seaside", "क्ष"]
    assert tokenize("cafe\N{SOFT HYPHEN}\N{COMBINING ACUTE ACCENT}") == ["café"]
    assert tokenize("one\N{ZERO WIDTH SPACE}two") == ["one", "two"]


def test_tokenize_does_not_tell_typographic_hyphens_and_apostrophes_from_plain_ones():
    assert tokenize("dog’s t\N{HYPHEN}shirt, t\N{NON-BREAKING HYPHEN}shirt") == ["dog's", "t-shirt", "t-shirt"]


def test_tokenize_changes_nothing_in_its_own_words():
    rng = np.random.default_rng(0)
    # letters, marks, joiners, signs and invisible characters of several scripts, in every order
    alphabet = [
        chr(c) for start in (0x20, 0xC0, 0x300, 0x900, 0x1100, 0x2000, 0xAC00) for c in range(start, start + 96)
    ]
    for _ in range(300):
        words = tokenize("".join(rng.choice(alphabet, size=20)))
        assert tokenize(" ".join(words)) == words
