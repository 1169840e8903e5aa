"""spaCy's blank tokenizers split captions into words."""

from __future__ import annotations

from typing import Any

import pytest

from captioner.config import DataConfig
from captioner.errors import CaptionerError
from captioner.text.build import build_tokenizer
from captioner.text.tokenizer import SPECIAL, Tokenizer

pytest.importorskip("spacy")


def build(captions: Any, tokenizer: str = "spacy", **settings: Any) -> Tokenizer:
    return build_tokenizer(DataConfig(**{"tokenizer": tokenizer, "min_count": 1} | settings), captions)


def words(tokenizer: Tokenizer, caption: str) -> list[str]:
    return [tokenizer.vocabulary.pieces[index] for index in tokenizer.encode(caption)[1:-1]]


def said(tokenizer: Tokenizer, caption: str) -> str:
    return tokenizer.vocabulary.text(tokenizer.encode(caption)[1:-1])


def test_contractions_are_split_into_two_words_and_decoded_as_one() -> None:
    caption = "The dog's bowl isn't full, he'll bark; they're gonna run"
    tokenizer = build([caption])
    assert words(tokenizer, "the dog's isn't") == ["the", "dog", "'s", "is", "n't"]
    assert said(tokenizer, caption) == "the dog's bowl isn't full he'll bark they're gonna run"


def test_words_that_are_mostly_written_separately_stay_separate() -> None:
    assert said(build(["he cannot", "not a dog", "is not"]), "he cannot") == "he can not"


def test_endings_typed_with_a_space_are_joined_to_their_word() -> None:
    assert said(build(["A man 's hat is n't red ."]), "A man 's hat is n't red .") == "a man's hat isn't red"


def test_abbreviations_and_numbers_stay_whole() -> None:
    tokenizer = build(["Mr. Bean at 3.5 km, 10:30 a.m."], punctuation=True)
    assert words(tokenizer, "Mr. Bean at 3.5 km") == ["mr.", "bean", "at", "3.5", "km"]


def test_hyphens_inside_words_stay_and_dashes_are_punctuation() -> None:
    captions = ["a t-shirt - red"]
    assert said(build(captions), captions[0]) == "a t-shirt red"
    assert said(build(captions, punctuation=True), captions[0]) == "a t-shirt – red"


def test_punctuation_that_spacy_leaves_inside_words_is_split_off() -> None:
    tokenizer = build(["wet(very) <dog>,cat:red and/or 猫！猫"])
    assert " ".join(words(tokenizer, "wet(very) <dog>,cat:red and/or 猫！猫")) == "wet very dog cat red and or 猫 猫"


def test_turkish_is_lowered_by_its_rules() -> None:
    caption = "İki köpek Irmakta"
    assert words(build([caption], "spacy:tr"), caption) == ["iki", "köpek", "ırmakta"]


def test_another_language_uses_its_own_rules() -> None:
    captions = ["L'homme à l'œil bleu, « peut-être » !", "Qu’est-ce qu'il fait ?"]
    tokenizer = build(captions, "spacy:fr", punctuation=True)
    assert words(tokenizer, "L'homme")[0] == "l'"
    assert [said(tokenizer, caption) for caption in captions] == [
        "l'homme à l'œil bleu, «peut-être»!",
        "qu'est-ce qu'il fait?",
    ]


def test_chinese_is_written_without_spaces() -> None:
    tokenizer = build(["一只狗，在跑。", "只有狗", "狗，狗"], "spacy:zh", punctuation=True)
    assert words(tokenizer, "一只") == ["一", "只"]
    assert said(tokenizer, "一只狗，在跑。") == "一只狗，在跑。"


def test_words_seen_fewer_times_than_min_count_are_unknown() -> None:
    tokenizer = build(["a dog", "a dog", "a cat"], min_count=2)
    assert tokenizer.encode("a cat") == [SPECIAL.start, 4, SPECIAL.unk, SPECIAL.end]


@pytest.mark.parametrize("language", ["zz", "../en", "EN ", "english"])
def test_a_language_unknown_to_spacy_is_refused_in_one_sentence(language: str) -> None:
    with pytest.raises(
        CaptionerError, match=rf"^data\.tokenizer is spacy:{language}, but spaCy cannot tokenize that language: .*\.$"
    ):
        build(["a dog"], f"spacy:{language}")
