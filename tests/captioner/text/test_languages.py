"""Tokenizer, vocabulary, metrics and search handle captions in every script and return them as written."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest

from caprun.arrays import Float32Array
from caprun.bundle.vocabulary import Vocabulary
from caprun.search.decoding import search
from caprun.search.options import SearchOptions
from captioner.config import DataConfig
from captioner.errors import CaptionerError
from captioner.evaluation.metrics import score
from captioner.text.build import build_tokenizer, language_of, restore_tokenizer
from captioner.text.metric_words import tokenize
from captioner.text.scripts import scripts_of
from captioner.text.tokenizer import SPECIAL, Tokenizer
from tests.caprun.search.support.worlds import FakeSteps, World

# for each language: its script, a suitable tokenizer, the number of metric words in the first caption, and captions,
# each with a word in another script or a number
LANGUAGES = {
    "en": ("Latin", "word", 8, ("A man's T-shirt says “I love 2 dogs”", "A dog runs.")),
    "de": ("Latin", "word", 6, ("Größere Straße mit 3 weißen Häusern", "ein Hund läuft über Äcker")),
    "tr": ("Latin", "word", 6, ("İki çocuk ILIK kumda oynuyor, sağda", "Işıklı bir yol ve 5 kişi")),
    "vi": ("Latin", "word", 9, ("Một người đàn ông đang lướt 2 con sóng", "Đường phố ở Huế")),
    "ru": ("Cyrillic", "word", 6, ("Ёжик бежит по траве с iPhone", "Две собаки, 2 мяча")),
    "el": ("Greek", "word", 5, ("Ένας σκύλος τρέχει στους δρόμους", "ΔΥΟ ΣΚΥΛΟΙ 2")),
    "ar": ("Arabic", "word", 6, ("رجلٌ يركضُ مع 2 كلاب Adidas", "امرأة تلعب")),
    "he": ("Hebrew", "word", 6, ("שני כלבים רצים על הדשא Nike", "ילד משחק")),
    "fa": ("Arabic", "word", 6, ("دو سگ روی چمن بازی کردند", "پسر ۳ ساله")),
    "hi": ("Devanagari", "word", 7, ("एक आदमी समुद्र में 2 लहर पर", "क़लम और कुत्ता")),
    "ko": ("Hangul", "word", 5, ("한 남자가 T-shirt 입고 있다", "개 2마리가 논다")),
    "zh": ("Chinese or Japanese", "bpe", 13, ("两只狗 在草地上玩T恤，2个球", "一个男人在冲浪。")),
    "ja": ("Chinese or Japanese", "bpe", 10, ("スキーヤーが2人滑る", "犬が草の上を走る")),
    "th": ("Thai", "bpe", 13, ("หมา 2 ตัวกำลังเล่นน้ำ", "คนเล่นน้ำ Nike")),
}
every_language = pytest.mark.parametrize("language", LANGUAGES)


def build(language: str, **settings: object) -> Tokenizer:
    config = DataConfig(**{"language": language, "min_count": 1} | settings)  # type: ignore[arg-type]
    return build_tokenizer(config, LANGUAGES[language][3])


def said(tokenizer: Tokenizer, caption: str) -> str:
    return tokenizer.vocabulary.text(tokenizer.encode(caption)[1:-1])


@every_language
def test_the_script_selects_the_tokenizer_and_the_configuration_keeps_it(language: str) -> None:
    script, kind, _, captions = LANGUAGES[language]
    assert next(iter(scripts_of(captions))) == script
    tokenizer = build(language)
    assert (tokenizer.config.tokenizer, language_of(tokenizer.config)) == (kind, language)
    restored = restore_tokenizer(tokenizer.config, tokenizer.vocabulary, tokenizer.state)
    assert [restored.encode(caption) for caption in captions] == [tokenizer.encode(caption) for caption in captions]
    assert tokenizer.unknown_share(captions) == 0


@every_language
def test_captions_decode_with_their_letters_and_spaces(language: str) -> None:
    captions = [caption.replace("两只狗 在", "两只狗在") for caption in LANGUAGES[language][3]]
    whole = build(language, lower_case=False, punctuation=True)
    assert [said(whole, unicodedata.normalize("NFD", caption)) for caption in captions] == [
        unicodedata.normalize("NFC", caption) for caption in captions
    ]
    lower = build(language)
    for caption in LANGUAGES[language][3]:
        text = said(lower, caption)
        assert tokenize(text) == tokenize(caption)
        assert said(lower, text) == text
    if language == "tr":
        assert said(lower, captions[0]) == "iki çocuk ılık kumda oynuyor sağda"
    if language == "zh":
        assert said(lower, LANGUAGES["zh"][3][0]) == "两只狗在草地上玩t恤 2个球"


@every_language
def test_metrics_split_captions_into_words_in_each_language(language: str) -> None:
    _, _, words, (caption, other) = LANGUAGES[language]
    assert len(tokenize(caption)) == words
    found = score([caption, other], [[caption, caption], [other, other]])
    assert found["bleu_1"] == pytest.approx(1)
    assert found["cider"] > 2.4
    assert score([caption, other], [[other], [caption]])["cider"] < 1


class Speaker(World):
    """Generates the same caption for every photo."""

    def __init__(self, tokenizer: Tokenizer, caption: str) -> None:
        super().__init__(0, len(tokenizer.vocabulary) - 4)
        self.ids = tokenizer.encode(caption)[1:]

    def log_probs(self, photo: int, said: tuple[int, ...]) -> Float32Array:
        likely = np.full(self.vocabulary, -9.0, np.float32)
        likely[[SPECIAL.pad, SPECIAL.start, SPECIAL.unk]] = -np.inf
        likely[self.ids[min(len(said), len(self.ids) - 1)]] = -0.1
        return likely


@every_language
def test_search_generates_a_caption_in_each_language(language: str) -> None:
    tokenizer, caption = build(language), LANGUAGES[language][3][0]
    for beams in (1, 3):
        steps = FakeSteps(Speaker(tokenizer, caption), [0])
        (found,) = search(steps, 1, SPECIAL.start, SPECIAL.end, SearchOptions(beams, 60))
        assert found.finished
        assert tokenizer.vocabulary.text(found.ids) == said(tokenizer, caption)


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_spaces_between_chinese_words_are_removed(kind: str) -> None:
    captions = ["两 只 狗 在 草地 上", "一 个 男人 穿 nike 鞋"]
    tokenizer = build_tokenizer(DataConfig(min_count=1, tokenizer=kind), captions)
    assert said(tokenizer, captions[0]) == "两只狗在草地上"
    assert said(tokenizer, captions[1]).replace(" ", "") == "一个男人穿nike鞋"


def test_spaces_between_thai_phrases_are_kept() -> None:
    tokenizer = build_tokenizer(DataConfig(min_count=1), ["หมา แมว วิ่ง", "หมาวิ่ง"])
    assert said(tokenizer, "หมา แมว วิ่ง") == "หมา แมว วิ่ง"


def test_a_few_captions_in_another_script_do_not_change_the_tokenizer() -> None:
    captions = ["a dog runs"] * 20 + ["一只狗"]
    assert build_tokenizer(DataConfig(), captions).config.tokenizer == "word"
    assert build_tokenizer(DataConfig(), ["一只狗"] * 5 + captions[:20]).config.tokenizer == "bpe"
    assert build_tokenizer(DataConfig(tokenizer="word"), ["一只狗"] * 9).config.tokenizer == "word"


@pytest.mark.parametrize("code", ["deutsch!", "e", "en_US"])
def test_an_invalid_language_code_is_refused(code: str) -> None:
    from captioner.config import load_config

    with pytest.raises(CaptionerError, match=r"The language '.*' is not a language code; use one such as en"):
        load_config({"data": {"language": code}})


def test_a_caption_is_in_the_script_of_most_of_its_letters() -> None:
    assert scripts_of(["一只狗 OK", "a 狗 dog", "123", "", "ｱｲｳ", "Ｄｏｇ"]) == {"Chinese or Japanese": 2, "Latin": 2}


def test_word_vocabularies_use_the_default_joining() -> None:
    assert build("en").vocabulary.joining == Vocabulary(("a",)).joining
