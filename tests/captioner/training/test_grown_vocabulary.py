"""A vocabulary grows by the new words of captions, and keeps its own as they are."""

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


def test_frequent_new_words_stand_behind_the_old_ones_the_most_frequent_first():
    assert pieces_after(["a zebra grazes", "a dog and a zebra graze", "a zebra and a dog", "and"]) == ("and", "zebra")


def test_captions_of_known_words_add_none():
    assert pieces_after([*OLD, "a rare zebra"]) == ()


def test_case_is_that_of_the_checkpoint():
    captions = ["A Zebra", "a zebra", "A Zebra"]
    assert pieces_after(captions) == ("zebra",)
    assert pieces_after(captions, lower_case=False) == ("A", "Zebra")


def test_the_size_of_a_vocabulary_stays_its_limit():
    captions = ["and zebra", "and zebra", "and"]
    assert pieces_after(captions, vocabulary_size=7) == ("and",)
    assert pieces_after(captions, vocabulary_size=6) == ()
    assert pieces_after(captions, vocabulary_size=6 - 1) == ()


def test_new_marks_are_joined_as_marks():
    config = DataConfig(min_count=1, punctuation=True)
    first = build_tokenizer(config, OLD)
    tokenizer = restore_tokenizer(config, grown_vocabulary(first, ["a dog, (wet)."]), first.state)
    assert tokenizer.vocabulary.text(tokenizer.encode("a dog, (wet).")[1:-1]) == "a dog, (wet)."


@pytest.mark.parametrize("tokenizer", ["bpe", "wordpiece:{file}"])
def test_pieces_that_spell_words_are_kept_as_they_are(tokenizer, tmp_path):
    file = tmp_path / "vocab.txt"
    file.write_text("[UNK]\na\ndog\nrun\nsit\n##s\nzebra")
    assert pieces_after(["a zebra", "a zebra"], tokenizer=tokenizer.format(file=file)) == ()


def test_words_of_spacy_grow_too():
    pytest.importorskip("spacy")
    config = DataConfig(min_count=1, tokenizer="spacy")
    first = build_tokenizer(config, OLD)
    tokenizer = restore_tokenizer(config, grown_vocabulary(first, ["a zebra doesn't"]), first.state)
    assert tokenizer.vocabulary.pieces[-3:] == ("does", "n't", "zebra")
    assert tokenizer.vocabulary.text(tokenizer.encode("a dog doesn't")[1:-1]) == "a dog doesn't"
