"""What a tokenizer is, and which one a configuration asks for.

Each ends as one vocabulary of printable pieces with the rules that join them, which is all that a bundle holds of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from caprun.vocabulary import Special, Vocabulary
from captioner.config import DataConfig
from captioner.errors import CaptionerError

SPECIAL = Special(pad=0, start=1, end=2, unk=3)
SPECIAL_PIECES = ("<pad>", "<start>", "<end>", "<unk>")
"""The first pieces of every vocabulary, by id; no caption can write one."""


class Tokenizer(ABC):
    """Captions to ids of a vocabulary.

    Args:
        vocabulary: every piece, the special ones first.
        max_length: captions are cut after as many pieces.
    """

    def __init__(self, vocabulary: Vocabulary, max_length: int) -> None:
        self.vocabulary = vocabulary
        self._max_length = max_length

    @abstractmethod
    def ids(self, caption: str) -> list[int]:
        """All pieces of a caption, however many; SPECIAL.unk where the vocabulary has none."""

    def encode(self, caption: str) -> list[int]:
        """START, the caption's pieces up to max_length, END."""
        return [SPECIAL.start, *self.ids(caption)[: self._max_length], SPECIAL.end]

    def unknown_share(self, captions: Iterable[str]) -> float:
        """The share of pieces, in 0..1, that the vocabulary does not have; 0 where there is no piece."""
        ids = [index for caption in captions for index in self.encode(caption)[1:-1]]
        return ids.count(SPECIAL.unk) / max(1, len(ids))

    def state(self) -> dict[str, Any]:
        """What `restore_tokenizer` needs besides configuration and vocabulary: plain lists, numbers and text."""
        return {}


def build_tokenizer(config: DataConfig, captions: Iterable[str]) -> Tokenizer:
    """Make the vocabulary of the training captions.

    Raises:
        CaptionerError: no such tokenizer, its package or file cannot be had, or the captions leave no piece.
    """
    room = config.vocabulary_size - len(SPECIAL_PIECES)
    if config.vocabulary_size and room < 1:
        raise CaptionerError(
            f"data.vocabulary_size is {config.vocabulary_size}, and {len(SPECIAL_PIECES)} pieces are special; raise it."
        )
    kind, argument = _parse(config.tokenizer)
    if kind == "wordpiece":
        from captioner.text.wordpiece import build_wordpiece

        return build_wordpiece(config, argument, captions)
    if kind == "bpe":
        from captioner.text.bpe import build_bpe

        return build_bpe(config, captions)
    if kind == "spacy":
        from captioner.text.spacy_words import build_spacy

        return build_spacy(config, argument, captions)
    from captioner.text.words import build_words

    return build_words(config, captions)


def restore_tokenizer(config: DataConfig, vocabulary: Vocabulary, state: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer whose configuration, vocabulary and `state()` these are; it needs no captions and no file.

    Raises:
        CaptionerError: no such tokenizer, its package cannot be had, or the state is not this tokenizer's.
    """
    kind, argument = _parse(config.tokenizer)
    if kind == "wordpiece":
        from captioner.text.wordpiece import WordPieceTokenizer

        return WordPieceTokenizer(vocabulary, config)
    if kind == "bpe":
        from captioner.text.bpe import restore_bpe

        return restore_bpe(config, vocabulary, state)
    if kind == "spacy":
        from captioner.text.spacy_words import SpacyTokenizer

        return SpacyTokenizer(vocabulary, config, argument)
    from captioner.text.words import WordTokenizer

    return WordTokenizer(vocabulary, config.max_length, config.lower_case, config.punctuation)


def _parse(tokenizer: str) -> tuple[str, str]:
    """The kind of tokenizer and what follows its colon."""
    kind, colon, argument = tokenizer.partition(":")
    if kind == "spacy" and not colon:
        argument = "en"
    is_one = argument != "" if kind in ("wordpiece", "spacy") else kind in ("word", "bpe") and not colon
    if not is_one:
        raise CaptionerError(
            f"data.tokenizer is {tokenizer!r}; it must be word, bpe, wordpiece:FILE (BERT's vocab.txt), spacy, or "
            "spacy:LANGUAGE such as spacy:fr."
        )
    return kind, argument


def import_error(package: str, extra: str, tokenizer: str) -> CaptionerError:
    """What to say where a tokenizer's package is not installed."""
    return CaptionerError(
        f"data.tokenizer {tokenizer} needs the package {package}, which is not installed: "
        f'pip install "captioner[{extra}]"'
    )
