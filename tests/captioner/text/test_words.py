"""A word vocabulary maps captions to ids."""

from __future__ import annotations

import pytest

from caprun.bundle.vocabulary import Vocabulary
from captioner.config import DataConfig
from captioner.errors import CaptionerError
from captioner.text.build import build_tokenizer
from captioner.text.tokenizer import SPECIAL
from captioner.text.words import build_words, restore_words

SPECIAL_PIECES = ("<pad>", "<start>", "<end>", "<unk>")


def build_vocabulary(captions: list[str], min_count: int) -> Vocabulary:
    return build_words(DataConfig(min_count=min_count), captions).vocabulary


def test_words_follow_the_special_pieces_most_frequent_first():
    vocabulary = build_vocabulary(["A dog sees a Cat.", "a cat, a bird"], 1)
    assert vocabulary.pieces == (*SPECIAL_PIECES, "a", "cat", "bird", "dog", "sees")
    assert [vocabulary.pieces[i] for i in (SPECIAL.pad, SPECIAL.start, SPECIAL.end, SPECIAL.unk)] == [*SPECIAL_PIECES]


def test_the_order_of_the_captions_does_not_matter():
    captions = ["a dog", "the cat", "a bird in the tree", "dog and cat"]
    assert build_vocabulary(captions, 1) == build_vocabulary(captions[::-1], 1)


@pytest.mark.parametrize(("min_count", "words"), [(1, ("a", "dog", "cat")), (2, ("a", "dog")), (3, ("a",))])
def test_words_seen_fewer_times_than_min_count_are_left_out(min_count, words):
    assert build_vocabulary(["a dog", "a dog", "a cat"], min_count).pieces[4:] == words


@pytest.mark.parametrize("captions", [["a dog", "a cat"], ["...", ""], []])
def test_a_vocabulary_without_any_word_is_refused(captions):
    with pytest.raises(
        CaptionerError, match=r"^No word occurs 3 times in the training captions; lower data\.min_count"
    ):
        build_vocabulary(captions, 3)


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary((*SPECIAL_PIECES, "a", "dog", "runs"))


def test_a_caption_is_encoded_as_start_words_and_end(vocabulary):
    assert restore_words(DataConfig(max_length=20), vocabulary).encode("A dog, runs!") == [
        SPECIAL.start,
        4,
        5,
        6,
        SPECIAL.end,
    ]


def test_a_word_outside_the_vocabulary_is_unknown(vocabulary):
    tokenizer = restore_words(DataConfig(max_length=20), vocabulary)
    assert tokenizer.encode("a zebra runs") == [SPECIAL.start, 4, SPECIAL.unk, 6, SPECIAL.end]
    assert tokenizer.unknown_share(["a zebra runs", "a zebra"]) == 2 / 5
    assert tokenizer.unknown_share([]) == 0


def test_a_caption_is_cut_to_max_length_words_and_an_end_piece(vocabulary):
    tokenizer = restore_words(DataConfig(max_length=2), vocabulary)
    assert tokenizer.encode("a dog runs a dog") == [SPECIAL.start, 4, 5, SPECIAL.end]
    assert tokenizer.encode("a dog") == [SPECIAL.start, 4, 5, SPECIAL.end]


def test_a_caption_without_words_is_encoded_as_start_and_end(vocabulary):
    assert restore_words(DataConfig(max_length=20), vocabulary).encode(" ... ") == [SPECIAL.start, SPECIAL.end]


@pytest.mark.parametrize("text", ["<pad>", "<start>", "<end>", "<unk>", "a <end> dog"])
def test_caption_text_is_never_encoded_as_a_special_piece(vocabulary, text):
    inside = restore_words(DataConfig(max_length=20), vocabulary).encode(text)[1:-1]
    assert not {SPECIAL.pad, SPECIAL.start, SPECIAL.end} & set(inside)


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        ("Một con chó chạy trên bãi biển.", "một con chó chạy trên bãi biển"),
        ("개가 해변을 달린다.", "개가 해변을 달린다"),
        ("L'homme à l'œil bleu, peut-être, court.", "l'homme à l'œil bleu peut-être court"),
        ("Tie\u0302\u0301ng Vie\u0323\u0302t", "tiếng việt"),  # decomposed, as macOS writes it
    ],
    ids=["Vietnamese", "Korean", "French", "decomposed Vietnamese"],
)
def test_captions_in_other_languages_decode_to_the_same_words(caption, text):
    vocabulary = build_vocabulary([caption], 1)
    ids = restore_words(DataConfig(max_length=20), vocabulary).encode(caption)
    assert SPECIAL.unk not in ids
    assert vocabulary.text(ids[1:-1]) == text


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        ("Một con chó, chạy trên bãi biển .", "một con chó, chạy trên bãi biển."),
        ("개가 해변을 달린다 !", "개가 해변을 달린다!"),
        ("L’homme à l’œil bleu, « peut-être » , court !", "l'homme à l'œil bleu, «peut-être», court!"),
        ("Собака (бурая) бежит.", "собака (бурая) бежит."),
        ("Ein „großer“ Hund: er läuft.", "ein “großer” hund: er läuft."),
        ("كلب يجري، على الشاطئ.", "كلب يجري، على الشاطئ."),
        ("एक कुत्ता दौड़ता है।", "एक कुत्ता दौड़ता है।"),
    ],
    ids=["Vietnamese", "Korean", "French", "Russian", "German", "Arabic", "Hindi"],
)
def test_captions_decode_with_punctuation_if_it_is_kept(caption, text):
    tokenizer = build_tokenizer(DataConfig(min_count=1, punctuation=True), [caption])
    ids = tokenizer.encode(caption)
    assert SPECIAL.unk not in ids
    assert tokenizer.vocabulary.text(ids[1:-1]) == text


def test_the_dot_of_catalan_is_inside_a_word_and_no_other_dot():
    tokenizer = build_tokenizer(DataConfig(min_count=1), ["Una pel·lícula, un COL·LEGI. 安·娜 a·b"])
    assert {"pel·lícula", "col·legi", "a", "b"} <= set(tokenizer.vocabulary.pieces)


def test_the_default_tokenizer_matches_earlier_checkpoints():
    tokenizer = build_tokenizer(DataConfig(min_count=1), ["A dog, a Cat's t-shirt. 3.5"])
    assert tokenizer.vocabulary == Vocabulary((*SPECIAL_PIECES, "a", "3", "5", "cat's", "dog", "t-shirt"))
    assert tokenizer.state == {}


def test_vocabulary_size_leaves_out_the_rarest_words():
    tokenizer = build_tokenizer(DataConfig(min_count=1, vocabulary_size=6), ["a dog", "a dog", "a cat"])
    assert tokenizer.vocabulary.pieces[4:] == ("a", "dog")
