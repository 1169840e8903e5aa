"""All tokenizers follow the same contract, and the configuration selects one of them."""

from __future__ import annotations

import json
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from caprun.bundle.vocabulary import Vocabulary
from captioner.config import DataConfig
from captioner.errors import CaptionerError
from captioner.text.build import build_tokenizer, restore_tokenizer
from captioner.text.spacy_words import load_rules
from captioner.text.tokenizer import SPECIAL, SPECIAL_PIECES, Tokenizer

CAPTIONS = (
    "A dog runs on the snow, and a dog jumps.",
    "Two dogs (one brown) run!",
    "The snowboarder's jacket is red; the t-shirt isn't.",
    'A sign says "stop".',
)
_BERT = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] a dog run ##s on the snow ##board ##er and jump two one brown jacket is red shirt "
    "##n t sign says stop , . ! ( ) ; ' “ ” – - s"
)
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
KINDS = ("word", "wordpiece", "bpe", "spacy")


@pytest.fixture(scope="session")
def vocab_txt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pieces = dict.fromkeys([*_BERT.split(), *_LETTERS, *(f"##{letter}" for letter in _LETTERS)])
    file = tmp_path_factory.mktemp("bert") / "vocab.txt"
    file.write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return file


@pytest.fixture(params=KINDS)
def tokenizer_name(request: pytest.FixtureRequest, vocab_txt: Path) -> str:
    if request.param == "spacy":
        pytest.importorskip("spacy")
    return f"wordpiece:{vocab_txt}" if request.param == "wordpiece" else str(request.param)


def build(tokenizer: str, captions: Any = CAPTIONS, **settings: Any) -> Tokenizer:
    return build_tokenizer(DataConfig(**{"tokenizer": tokenizer, "min_count": 1} | settings), captions)


def said(tokenizer: Tokenizer, caption: str) -> str:
    return tokenizer.vocabulary.text(tokenizer.encode(caption)[1:-1])


def test_ids_decode_to_the_caption_without_punctuation(tokenizer_name: str) -> None:
    tokenizer = build(tokenizer_name)
    assert tokenizer.unknown_share(CAPTIONS) == 0
    assert [said(tokenizer, caption) for caption in CAPTIONS] == [
        "a dog runs on the snow and a dog jumps",
        "two dogs one brown run",
        "the snowboarder's jacket is red the t-shirt isn't",
        "a sign says stop",
    ]


def test_ids_decode_to_the_caption_with_punctuation_if_it_is_kept(tokenizer_name: str) -> None:
    tokenizer = build(tokenizer_name, punctuation=True)
    assert tokenizer.unknown_share(CAPTIONS) == 0
    assert [said(tokenizer, caption) for caption in CAPTIONS] == [
        "a dog runs on the snow, and a dog jumps.",
        "two dogs (one brown) run!",
        "the snowboarder's jacket is red; the t-shirt isn't.",
        "a sign says “stop”.",
    ]


@pytest.mark.parametrize("tokenizer", ["word", "bpe", "spacy"])
def test_capitals_are_kept_if_lower_case_is_false(tokenizer: str) -> None:
    pytest.importorskip("spacy" if tokenizer == "spacy" else "tokenizers")
    captions = ["A Dog in Paris."]
    assert said(build(tokenizer, captions, lower_case=False), captions[0]) == "A Dog in Paris"
    assert said(build(tokenizer, captions), captions[0]) == "a dog in paris"


def test_special_pieces_come_first_and_pieces_are_unique(tokenizer_name: str) -> None:
    vocabulary = build(tokenizer_name, punctuation=True).vocabulary
    assert vocabulary.pieces[:4] == SPECIAL_PIECES == ("<pad>", "<start>", "<end>", "<unk>")
    assert Vocabulary.from_dict(json.loads(json.dumps(vocabulary.as_dict()))) == vocabulary


@pytest.mark.parametrize("punctuation", [False, True])
def test_no_piece_has_a_control_character_or_a_lone_surrogate(tokenizer_name: str, punctuation: bool) -> None:
    captions = [*CAPTIONS, "a\x0bdog\x1b[31m runs\x9b on\ud800the \uffffsnow\x00\tand\na \x7fdog"]
    build(tokenizer_name, captions, punctuation=punctuation).vocabulary.check()


@pytest.mark.parametrize("punctuation", [False, True])
def test_a_restored_tokenizer_encodes_the_same_without_captions_or_files(
    tokenizer_name: str, punctuation: bool, tmp_path: Path
) -> None:
    config = DataConfig(tokenizer=tokenizer_name, min_count=1, punctuation=punctuation)
    built = build_tokenizer(config, CAPTIONS)
    if tokenizer_name.startswith("wordpiece"):
        config = DataConfig(tokenizer=f"wordpiece:{tmp_path / 'gone.txt'}", min_count=1, punctuation=punctuation)
    restored = restore_tokenizer(
        config,
        Vocabulary.from_dict(json.loads(json.dumps(built.vocabulary.as_dict()))),
        json.loads(json.dumps(built.state)),
    )
    others = [*CAPTIONS, "An unseen zebra’s (café) 3.5 \u4e00"]
    assert [restored.encode(caption) for caption in others] == [built.encode(caption) for caption in others]
    assert restored.state == built.state


def test_the_order_of_the_captions_does_not_matter(tokenizer_name: str) -> None:
    found, reversed_ = (build(tokenizer_name, captions) for captions in (CAPTIONS, CAPTIONS[::-1]))
    assert (found.vocabulary, found.state) == (reversed_.vocabulary, reversed_.state)


def test_captions_can_come_from_a_generator(tokenizer_name: str) -> None:
    assert build(tokenizer_name, (c for c in CAPTIONS)).vocabulary == build(tokenizer_name).vocabulary


def test_a_caption_is_cut_to_max_length_pieces_and_an_end_piece(tokenizer_name: str) -> None:
    whole, cut = build(tokenizer_name).encode(CAPTIONS[0]), build(tokenizer_name, max_length=3).encode(CAPTIONS[0])
    assert cut == [*whole[:4], SPECIAL.end]


@pytest.mark.parametrize("caption", ["", " ", "\t\n", "...", "\u200b\u200d\ufe0f", "\u0301", "\ud800", "😀", "\x00"])
def test_a_caption_without_words_is_encoded_as_start_and_end(tokenizer_name: str, caption: str) -> None:
    assert build(tokenizer_name).encode(caption) == [SPECIAL.start, SPECIAL.end]


@pytest.mark.parametrize("punctuation", [False, True])
@pytest.mark.parametrize("typed", [*SPECIAL_PIECES, "a<end>b", "[SEP]", "[UNK]", "[PAD]", "##s", "▁dog", "▁ ▁"])
def test_caption_text_is_never_encoded_as_a_special_piece_or_mark(
    tokenizer_name: str, typed: str, punctuation: bool
) -> None:
    tokenizer = build(tokenizer_name, [*CAPTIONS, f"a dog {typed} runs"] * 2, punctuation=punctuation)
    assert not {SPECIAL.pad, SPECIAL.start, SPECIAL.end} & set(tokenizer.encode(f"a dog {typed} runs")[1:-1])
    text = said(tokenizer, f"a dog {typed} runs")
    assert text.startswith("a dog ")
    assert text.endswith(" runs")
    assert "[SEP]" not in tokenizer.vocabulary.pieces
    assert "▁" not in text or tokenizer_name != "bpe"


@pytest.mark.parametrize("caption", ["d" * 100_000, "dog " * 10_000, "1234567890" * 50, "e" + "\u0301" * 5_000])
def test_long_words_and_captions_are_cut_to_max_length(tokenizer_name: str, caption: str) -> None:
    assert len(build(tokenizer_name).encode(caption)) <= 32


def test_composed_and_decomposed_captions_have_the_same_ids(tokenizer_name: str) -> None:
    captions = ["Một con chó chạy", "개가 달린다", "L'œil d'une fée"]
    tokenizer = build(tokenizer_name, [*CAPTIONS, *captions])
    for caption in captions:
        decomposed = unicodedata.normalize("NFD", caption)
        assert decomposed != caption
        assert tokenizer.encode(decomposed) == tokenizer.encode(caption)
    assert build(tokenizer_name, [unicodedata.normalize("NFD", c) for c in (*CAPTIONS, *captions)]).vocabulary == (
        tokenizer.vocabulary
    )


def test_tabs_and_line_breaks_are_spaces(tokenizer_name: str) -> None:
    tokenizer = build(tokenizer_name)
    assert tokenizer.encode("a\tdog\r\nruns\u3000on") == tokenizer.encode("a dog runs on")


@pytest.mark.parametrize(("tokenizer", "size"), [("word", 12), ("bpe", 34), ("spacy", 12)])
def test_the_vocabulary_is_no_larger_than_vocabulary_size(tokenizer: str, size: int) -> None:
    pytest.importorskip("spacy" if tokenizer == "spacy" else "tokenizers")
    whole, cut = build(tokenizer, CAPTIONS * 3), build(tokenizer, CAPTIONS * 3, vocabulary_size=size)
    assert len(whole.vocabulary) > size == len(cut.vocabulary)


@pytest.mark.parametrize("size", [1, 4])
def test_a_vocabulary_size_too_small_for_special_pieces_is_refused(tokenizer_name: str, size: int) -> None:
    with pytest.raises(CaptionerError, match=rf"^data\.vocabulary_size \({size}\) must exceed the 4 special pieces\.$"):
        build(tokenizer_name, vocabulary_size=size)


@pytest.mark.parametrize("tokenizer", ["wordpiece", "bpe"])
def test_a_vocabulary_size_too_small_for_the_characters_is_refused(tokenizer: str, vocab_txt: Path) -> None:
    name = f"wordpiece:{vocab_txt}" if tokenizer == "wordpiece" else tokenizer
    with pytest.raises(
        CaptionerError, match=r"^data\.vocabulary_size is 12, but there are \d+ characters and special pieces; raise"
    ):
        build(name, vocabulary_size=12)


@pytest.mark.parametrize("captions", [(), ("", "..."), ("\u0301",)])
def test_training_captions_without_words_are_refused(tokenizer_name: str, captions: tuple[str, ...]) -> None:
    with pytest.raises(CaptionerError, match=r"^(No word|No piece|The training captions have no words)"):
        build(tokenizer_name, captions)


@pytest.mark.parametrize(
    "name", ["", "words", "word:", "word:x", "bpe:100", "wordpiece", "wordpiece:", "spacy:", "BPE"]
)
def test_an_unknown_tokenizer_name_is_refused(name: str) -> None:
    with pytest.raises(CaptionerError, match=r"^data\.tokenizer is '.*'; it must be auto, word, bpe, wordpiece:FILE"):
        build(name)
    with pytest.raises(CaptionerError, match=r"^data\.tokenizer is"):
        restore_tokenizer(DataConfig(tokenizer=name), Vocabulary(SPECIAL_PIECES), {})


def test_missing_spacy_is_named_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    load_rules.cache_clear()
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(CaptionerError) as error:
        build("spacy")
    assert str(error.value) == (
        'data.tokenizer spacy needs the package spacy, which is not installed; run `pip install "captioner[spacy]"`.'
    )
