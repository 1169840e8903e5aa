"""A vocabulary grows by the new words in captions, and keeps its existing pieces unchanged."""

from __future__ import annotations

import pytest

from captioner.config import DataConfig
from captioner.text.build import build_tokenizer, restore_tokenizer
from captioner.training.growth import grown_vocabulary

OLD = ["a dog runs", "a dog sits"]


def pieces_after(captions: list[str], **settings: object) -> tuple[str, ...]:
    config = DataConfig(**{"min_count": 2, **settings})
    tokenizer = build_tokenizer(config, OLD)
    pieces = grown_vocabulary(tokenizer, captions).pieces
    assert pieces[: len(tokenizer.vocabulary)] == tokenizer.vocabulary.pieces
    return pieces[len(tokenizer.vocabulary) :]


def test_frequent_new_words_follow_the_old_ones_most_frequent_first():
    assert pieces_after(["a zebra grazes", "a dog and a zebra graze", "a zebra and a dog", "and"]) == ("and", "zebra")


def test_known_and_rare_words_are_not_added():
    assert pieces_after([*OLD, "a rare zebra"]) == ()


def test_new_words_follow_the_checkpoints_lower_case_setting():
    captions = ["A Zebra", "a zebra", "A Zebra"]
    assert pieces_after(captions) == ("zebra",)
    assert pieces_after(captions, lower_case=False) == ("A", "Zebra")


def test_a_grown_vocabulary_stays_within_vocabulary_size():
    captions = ["and zebra", "and zebra", "and"]
    assert pieces_after(captions, vocabulary_size=7) == ("and",)
    assert pieces_after(captions, vocabulary_size=6) == ()
    assert pieces_after(captions, vocabulary_size=6 - 1) == ()


def test_new_punctuation_is_joined_as_punctuation():
    config = DataConfig(min_count=1, punctuation=True)
    first = build_tokenizer(config, OLD)
    tokenizer = restore_tokenizer(config, grown_vocabulary(first, ["a dog, (wet)."]), first.state)
    assert tokenizer.vocabulary.text(tokenizer.encode("a dog, (wet).")[1:-1]) == "a dog, (wet)."


@pytest.mark.parametrize("tokenizer", ["bpe", "wordpiece:{file}"])
def test_a_subword_vocabulary_does_not_grow(tokenizer, tmp_path):
    file = tmp_path / "vocab.txt"
    file.write_text("[UNK]\na\ndog\nrun\nsit\n##s\nzebra")
    assert pieces_after(["a zebra", "a zebra"], tokenizer=tokenizer.format(file=file)) == ()


def test_a_spacy_vocabulary_grows():
    pytest.importorskip("spacy")
    config = DataConfig(min_count=1, tokenizer="spacy")
    first = build_tokenizer(config, OLD)
    tokenizer = restore_tokenizer(config, grown_vocabulary(first, ["a zebra doesn't"]), first.state)
    assert tokenizer.vocabulary.pieces[-3:] == ("does", "n't", "zebra")
    assert tokenizer.vocabulary.text(tokenizer.encode("a dog doesn't")[1:-1]) == "a dog doesn't"
