"""BERT's WordPiece vocabulary is reduced to the pieces that captions use."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from tokenizers import BertWordPieceTokenizer

from captioner.config import DataConfig
from captioner.errors import CaptionerError
from captioner.text.build import build_tokenizer
from captioner.text.tokenizer import SPECIAL, Tokenizer

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_PIECES = (
    *("[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"!$%(),-./0123456789:;?'"),
    *_LETTERS,
    *(f"##{letter}" for letter in _LETTERS),
    *(
        "dog",
        "dogs",
        "run",
        "##ning",
        "##s",
        "snow",
        "##board",
        "##er",
        "##boarder",
        "the",
        "cafe",
        "zebra",
        "elephant",
    ),
    *("狗", "一", "只", "ス", "##キ"),
)
CAPTIONS = ("The snowboarder runs.", "A dog, running!", "zebra", "the dogs", "It's a t-shirt: 3.5 cafés")


def write(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    file = folder / "vocab.txt"
    file.write_bytes(text.encode(encoding))
    return file


@pytest.fixture
def vocab_txt(tmp_path: Path) -> Path:
    return write(tmp_path, "\n".join(_PIECES) + "\n")


def build(file: Path, captions: Any = CAPTIONS, **settings: Any) -> Tokenizer:
    return build_tokenizer(DataConfig(**{"tokenizer": f"wordpiece:{file}", "min_count": 1} | settings), captions)


def pieces(tokenizer: Tokenizer, caption: str) -> list[str]:
    return [tokenizer.vocabulary.pieces[index] for index in tokenizer.encode(caption)[1:-1]]


@pytest.mark.parametrize("lower_case", [True, False])
def test_captions_are_split_as_bert_splits_them(vocab_txt: Path, lower_case: bool) -> None:
    bert = BertWordPieceTokenizer(str(vocab_txt), lowercase=lower_case)
    captions = [caption if lower_case else caption.lower() for caption in CAPTIONS]
    tokenizer = build(vocab_txt, captions, punctuation=True, lower_case=lower_case)
    for caption in captions:
        expected = bert.encode(caption, add_special_tokens=False).tokens
        assert pieces(tokenizer, caption) == [{"[UNK]": "<unk>"}.get(piece, piece) for piece in expected]


def test_only_needed_pieces_are_kept_most_frequent_first(vocab_txt: Path) -> None:
    assert build(vocab_txt, ["the dog", "the snowboarder", "the dog runs"]).vocabulary.pieces[4:] == (
        *("the", "dog", "##boarder", "##s", "run", "snow"),
    )


def test_lower_casing_strips_accents_as_uncased_bert_does(vocab_txt: Path) -> None:
    tokenizer = build(vocab_txt)
    assert pieces(tokenizer, "CAFÉS") == pieces(tokenizer, "cafes") == ["cafe", "##s"]
    assert tokenizer.vocabulary.text(tokenizer.encode("Café")[1:-1]) == "cafe"


def test_a_rare_piece_is_spelled_with_smaller_pieces_and_never_unknown(vocab_txt: Path) -> None:
    captions = ["the dog runs"] * 3 + ["the zebra runs"]
    tokenizer = build(vocab_txt, captions, min_count=3)
    assert "zebra" not in tokenizer.vocabulary.pieces
    assert pieces(tokenizer, "the zebra") == ["the", "z", "##e", "##b", "##r", "##a"]
    assert tokenizer.unknown_share(captions) == 0
    assert tokenizer.vocabulary.text(tokenizer.encode("the zebra")[1:-1]) == "the zebra"


def test_a_word_that_cannot_be_spelled_is_unknown(vocab_txt: Path) -> None:
    tokenizer = build(vocab_txt, [*CAPTIONS, "жук"])
    assert pieces(tokenizer, "the жук runs") == ["the", "<unk>", "run", "##s"]
    assert 0 < tokenizer.unknown_share(["the жук"]) < 1


def test_the_vocabulary_keeps_to_vocabulary_size_and_still_spells_words(tmp_path: Path) -> None:
    words = ["".join(letters) for length in (2, 3) for letters in product("ab", repeat=length)]
    file = write(tmp_path, "\n".join(["a", "b", "##a", "##b", *words]))
    captions = [" ".join(words), *words[:3]]
    assert len(build(file, captions).vocabulary) == 4 + len(words)
    tokenizer = build(file, captions, vocabulary_size=11)
    assert len(tokenizer.vocabulary) <= 11
    assert {"##a", "##b", "b", "aa", "ab"} <= set(tokenizer.vocabulary.pieces)
    assert tokenizer.unknown_share(captions) == 0


def test_pieces_are_grouped_into_words(vocab_txt: Path) -> None:
    tokenizer = build(vocab_txt, min_count=1)
    words = tokenizer.vocabulary.words(tokenizer.encode("the dogs running")[1:-1])
    assert [(word.text, len(word.positions)) for word in words] == [("the", 1), ("dogs", 1), ("running", 2)]


def test_chinese_is_written_without_spaces(vocab_txt: Path) -> None:
    captions = ["一只狗", "一只 dog"]
    tokenizer = build(vocab_txt, captions)
    assert pieces(tokenizer, captions[0]) == ["一", "只", "狗"]
    assert tokenizer.vocabulary.text(tokenizer.encode(captions[0])[1:-1]) == "一只狗"


@pytest.mark.parametrize(
    "text",
    [
        "\r\n".join(_PIECES) + "\r\n",
        "\n".join((*_PIECES, *_PIECES)),
        "\ufeffdog\n\n" + "\n\n".join(p for p in _PIECES if p != "dog"),
        "\n".join(_PIECES[::-1]),
    ],
    ids=["CRLF", "duplicates", "byte order mark and blank lines", "any order"],
)
def test_edited_vocabulary_files_yield_the_same_vocabulary(text: str, vocab_txt: Path, tmp_path: Path) -> None:
    expected = build(vocab_txt).vocabulary
    assert build(write(tmp_path, text)).vocabulary == expected


def test_special_names_in_the_file_are_not_pieces(tmp_path: Path) -> None:
    file = write(tmp_path, "<unk>\n<end>\n[UNK]\na\ndog\n<\n>\n[\n]\nunk\nend\n")
    tokenizer = build(file, ["a <unk> dog", "a <end> dog", "a [UNK] dog"], punctuation=True)
    assert pieces(tokenizer, "a <end> <unk>") == ["a", "<", "end", ">", "<", "unk", ">"]
    assert not {SPECIAL.unk, SPECIAL.end} & set(tokenizer.encode("a <end> <unk> [UNK]")[1:-1])


def test_an_unreadable_file_is_refused_in_one_sentence(tmp_path: Path) -> None:
    for file in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(CaptionerError, match=rf"^The WordPiece vocabulary {file} cannot be read: .*; name BERT's"):
            build(file)
    with pytest.raises(CaptionerError, match=r"is not UTF-8 text; name BERT's vocab\.txt\.$"):
        build(write(tmp_path, "dög\n", "latin-1"))


@pytest.mark.parametrize("text", ["", "\n\n", '{"dog": 1}', "катер\n"])
def test_a_file_without_pieces_of_the_captions_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(CaptionerError, match=r"^No piece of .*vocab\.txt is in the training captions; name a BERT"):
        build(write(tmp_path, text))
