"""Metrics count lower-cased words without punctuation."""

import sys
import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest

from captioner.errors import CaptionerError
from captioner.text.metric_words import ends_with, mention, segmentation, segmenter, tokenize


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
        ("一个男人，在冲浪。", ["一", "个", "男", "人", "在", "冲", "浪"]),
        ("两只狗 穿着T-shirt 和3条Nike裤", ["两", "只", "狗", "穿", "着", "t-shirt", "和", "3", "条", "nike", "裤"]),
        ("卡拉-OK，T-恤", ["卡", "拉", "ok", "t", "恤"]),
        ("パンダがｶﾞｱﾙ々", ["パ", "ン", "ダ", "が", "ｶﾞ", "ｱ", "ﾙ", "々"]),
        ("น้ำกำลังดี 2 ตัว", ["น้ำ", "กำ", "ลั", "ง", "ดี", "2", "ตั", "ว"]),
        ("ໝາ ກຳລັງ", ["ໝ", "າ", "ກຳ", "ລັ", "ງ"]),
        ("ក្មេង", ["ក្មេ", "ង"]),
        ("ကလေး", ["က", "လေး"]),
        ("dog ❤️ 🐶👍🏽 cat", ["dog", "cat"]),
    ],
)
def test_tokenize_lower_cases_and_removes_punctuation(caption, words):
    assert tokenize(caption) == words


@pytest.mark.parametrize(
    ("caption", "lower"),
    [
        ("ISLAK bir sokağın İKİ yanı", "ıslak bir sokağın iki yanı"),
        ("In der STRASSE: Straße, Äpfel", "in der strasse straße äpfel"),
        ("MỘT NGƯỜI", "một người"),
        ("ΟΔΟΣ", "οδο\N{GREEK SMALL LETTER FINAL SIGMA}"),
        ("W\N{COMBINING RING ABOVE}", "\N{LATIN SMALL LETTER W WITH RING ABOVE}"),
    ],
)
def test_lower_casing_follows_the_rules_of_each_language(caption, lower):
    assert tokenize(caption) == tokenize(lower) == lower.split()


@pytest.mark.parametrize("caption", ["Một người ở bãi biển", "한 남자가", "Un garçon près", "क़लम"])
def test_tokenize_returns_the_same_words_for_composed_and_decomposed_text(caption):
    composed, decomposed = (tokenize(unicodedata.normalize(form, caption)) for form in ("NFC", "NFD"))
    assert composed == decomposed == unicodedata.normalize("NFC", caption).lower().split()


def test_tokenize_keeps_words_with_invisible_characters_whole():
    assert tokenize("sea\N{SOFT HYPHEN}side क्\N{ZERO WIDTH JOINER}ष") == ["seaside", "क्ष"]
    assert tokenize("cafe\N{SOFT HYPHEN}\N{COMBINING ACUTE ACCENT}") == ["café"]
    assert tokenize("one\N{ZERO WIDTH SPACE}two") == ["one", "two"]


def test_tokenize_treats_typographic_hyphens_and_apostrophes_as_plain():
    assert tokenize("dog’s t\N{HYPHEN}shirt, t\N{NON-BREAKING HYPHEN}shirt") == ["dog's", "t-shirt", "t-shirt"]


def test_tokenize_is_idempotent():
    rng = np.random.default_rng(0)
    # letters, marks, joiners, signs and invisible characters of several scripts, in random order
    alphabet = [
        chr(c)
        for start in (0x20, 0xC0, 0x300, 0x900, 0xE00, 0x1000, 0x1100, 0x1780, 0x2000, 0x4E00, 0xAC00)
        for c in range(start, start + 96)
    ]
    for _ in range(300):
        words = tokenize("".join(rng.choice(alphabet, size=20)))
        assert tokenize(" ".join(words)) == words


def test_segmentation_depends_on_the_script_of_most_letters_in_each_caption():
    english, chinese = "a dog on grass", "一只狗在T恤上"
    assert segmentation([english, "chien"]) == segmentation(["123"]) == "words"
    assert segmentation([chinese, "หมา"]) == "characters"
    assert segmentation([chinese, english]) == "words and characters"


def test_mentions_and_endings_are_matched_by_whole_words():
    assert mention(["狗在左边跑"], ["左边"])
    assert not mention(["左上边"], ["左边"])
    assert mention(["A dog, left"], ["right", "left"])
    assert not mention(["a leftover"], ["left"])
    endings = [tokenize(text) for text in ("the", "一个", "")]
    assert ends_with(tokenize("狗和一个"), endings)
    assert ends_with(tokenize("on the"), endings)
    assert not ends_with(tokenize("一个狗"), endings)
    assert not ends_with([], endings)


def test_a_segmenter_splits_only_scripts_without_spaces(monkeypatch):
    pairs = SimpleNamespace(setLogLevel=lambda _: None, lcut=lambda text: [text[i : i + 2] for i in range(0, 9, 2)][:2])
    monkeypatch.setitem(sys.modules, "jieba", pairs)
    assert segmenter("jieba")("一只狗狗 穿T-shirt, man's")[:2] == ["一只", "狗狗"]
    assert segmenter("jieba")("A man's T-shirt") == tokenize("A man's T-shirt")


def test_a_missing_segmenter_is_named_with_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "jieba", None)
    with pytest.raises(CaptionerError, match=r"--segmenter jieba requires jieba; run `pip install jieba`\."):
        segmenter("jieba")
