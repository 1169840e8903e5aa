"""The tokenizer that a configuration asks for: built from captions, or restored from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from caprun.bundle.vocabulary import Vocabulary
from captioner.config import DataConfig
from captioner.errors import CaptionerError
from captioner.text.tokenizer import SPECIAL_PIECES, Tokenizer


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


def language_of(config: DataConfig) -> str | None:
    """Returns the code of the captions' language where the tokenizer is of one, such as `en`; else None."""
    kind, argument = _parse(config.tokenizer)
    return argument if kind == "spacy" else None


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
