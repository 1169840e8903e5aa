"""Byte-pair encoding is learnt from captions."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from caprun.bundle.vocabulary import Vocabulary
from captioner.config import DataConfig
from captioner.errors import CaptionerError
from captioner.text.build import build_tokenizer, restore_tokenizer
from captioner.text.tokenizer import SPECIAL, Tokenizer

ENGLISH = ("A dog runs.", "A dog jumps over a log.", "Two dogs run and jump.", "a frog on a log")
CHINESE = ("一只狗在草地上跑。", "一只猫，在草地上睡觉", "两只狗 在雪地上", "一个穿T恤的人")
JAPANESE = ("犬が草の上を走る。", "スキーヤーが「滑る」", "人々が歩く")
THAI = ("สุนัขวิ่งบนหญ้า", "สุนัข แมว วิ่ง", "น้ำ")


def build(captions: Any, **settings: Any) -> Tokenizer:
    return build_tokenizer(DataConfig(**{"tokenizer": "bpe", "min_count": 1} | settings), captions)


def said(tokenizer: Tokenizer, caption: str) -> str:
    return tokenizer.vocabulary.text(tokenizer.encode(caption)[1:-1])


def pieces(tokenizer: Tokenizer, caption: str) -> list[str]:
    return [tokenizer.vocabulary.pieces[index] for index in tokenizer.encode(caption)[1:-1]]


def test_a_word_of_seen_characters_is_never_unknown() -> None:
    tokenizer = build(ENGLISH)
    assert SPECIAL.unk not in tokenizer.encode("a frumpod")
    assert said(tokenizer, "a frumpod") == "a frumpod"


def test_an_unseen_character_is_unknown_but_the_rest_of_its_word_is_not() -> None:
    assert pieces(build(ENGLISH), "a dogz")[-2:] == ["▁dog", "<unk>"]


def test_frequent_words_are_single_pieces_with_a_word_start_mark() -> None:
    assert pieces(build(ENGLISH), "a dog") == ["▁a", "▁dog"]


def test_every_piece_is_printable() -> None:
    vocabulary = build((*ENGLISH, *CHINESE, *JAPANESE, *THAI, "😀 café")).vocabulary
    assert all(piece.isprintable() and not piece.isspace() for piece in vocabulary.pieces)


def test_pieces_are_grouped_into_words() -> None:
    tokenizer = build(ENGLISH, vocabulary_size=24)
    ids = tokenizer.encode("a frog jumps")[1:-1]
    words = tokenizer.vocabulary.words(ids)
    assert [word.text for word in words] == ["a", "frog", "jumps"]
    assert [position for word in words for position in word.positions] == list(range(len(ids)))
    assert len(ids) > 3


@pytest.mark.parametrize("size", [60, 100, 8000])
@pytest.mark.parametrize("captions", [CHINESE, JAPANESE, THAI], ids=["Chinese", "Japanese", "Thai"])
def test_captions_in_scripts_without_spaces_decode_to_the_same_text(captions: tuple[str, ...], size: int) -> None:
    tokenizer = build(captions, vocabulary_size=size, punctuation=True)
    expected = [caption.lower().replace("两只狗 在", "两只狗在") for caption in captions]
    assert [said(tokenizer, caption) for caption in captions] == expected


def test_removed_punctuation_leaves_no_space_in_scripts_without_spaces() -> None:
    tokenizer = build((*CHINESE, *JAPANESE))
    assert said(tokenizer, CHINESE[1]) == "一只猫在草地上睡觉"
    assert said(tokenizer, JAPANESE[1]) == "スキーヤーが滑る"
    assert said(tokenizer, "一只狗\u200b在跑") == "一只狗在跑"


def test_punctuation_marks_are_separate_words() -> None:
    tokenizer = build(["a dog, a frog"] * 9, punctuation=True)
    words = tokenizer.vocabulary.words(tokenizer.encode("a dog, a frog")[1:-1])
    assert [word.text for word in words] == ["a", "dog", ",", "a", "frog"]


def test_heat_maps_in_scripts_without_spaces_are_per_piece() -> None:
    tokenizer = build((*THAI, "น้ำ", "แมว"))
    words = tokenizer.vocabulary.words(tokenizer.encode("น้ำแมว")[1:-1])
    assert [word.text for word in words] == ["น้ำ", "แมว"]


def test_each_chinese_character_is_a_piece_and_kana_are_merged() -> None:
    captions = ("一只狗在草地上跑", "人々が走っている", "犬が走っている") * 3
    tokenizer = build(captions)
    assert pieces(tokenizer, captions[0]) == list(captions[0])
    assert pieces(tokenizer, "犬が走っている") == ["犬", "が", "走", "っている"]


def test_scripts_without_spaces_need_no_extra_pieces_for_caption_starts() -> None:
    tokenizer = build((*CHINESE, "LED 灯"))
    assert [piece for piece in tokenizer.vocabulary.pieces if piece.startswith("▁")] == ["▁", "▁led"]
    assert "▁" not in pieces(tokenizer, "一只狗")


def test_a_caption_can_mix_scripts() -> None:
    captions = ("一只 dog 在 LED灯下 run 跑", "I love 猫 and dogs", "3只狗，5个人")
    tokenizer = build(captions, punctuation=True)
    assert [said(tokenizer, caption) for caption in captions] == [caption.lower() for caption in captions]


def test_pairs_seen_fewer_times_than_min_count_are_not_merged() -> None:
    pieces = build(["a dog"] * 3 + ["a cat"] * 2, min_count=3).vocabulary.pieces
    assert "▁dog" in pieces
    assert not [piece for piece in pieces if "at" in piece]


def test_the_vocabulary_has_at_most_8000_pieces_by_default() -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    captions = [f"{a}{b}{c}{d}" for a in letters for b in letters for c in letters[:12] for d in "xy"]
    assert len(build(captions).vocabulary) == 8000


def test_learning_does_not_depend_on_the_hash_seed() -> None:
    code = (
        "from captioner.config import DataConfig; from captioner.text.build import build_tokenizer;"
        f"t = build_tokenizer(DataConfig(tokenizer='bpe', min_count=1, vocabulary_size=90), {ENGLISH + CHINESE!r});"
        "print(ascii((t.vocabulary, t.state)))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1")
    }
    assert len(outputs) == 1


@pytest.mark.parametrize(
    "state", [{}, {"merges": 1}, {"merges": [["a"]]}, {"merges": [["▁", "ж"]]}, {"merges": [[1, 2]]}]
)
def test_missing_or_mismatched_merges_are_refused(state: dict[str, Any]) -> None:
    vocabulary = Vocabulary(("<pad>", "<start>", "<end>", "<unk>", "▁", "a", "▁a"))
    with pytest.raises(CaptionerError, match=r"^The checkpoint's merges are missing or do not match its vocabulary"):
        restore_tokenizer(DataConfig(tokenizer="bpe"), vocabulary, state)
