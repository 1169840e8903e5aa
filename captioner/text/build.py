"""Builds the tokenizer of a configuration from captions, or restores it from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from caprun.bundle.vocabulary import Vocabulary
from captioner.config import AUTO, DataConfig
from captioner.errors import CaptionerError
from captioner.text.bpe import build_bpe, restore_bpe
from captioner.text.scripts import unspaced_share
from captioner.text.spacy_words import build_spacy, restore_spacy
from captioner.text.tokenizer import SPECIAL_PIECES, Tokenizer
from captioner.text.wordpiece import build_wordpiece, restore_wordpiece
from captioner.text.words import build_words, restore_words

_FEW = 0.1
"""Share of captions in scripts without spaces, up to which `word` is the automatic choice."""


def build_tokenizer(config: DataConfig, captions: Sequence[str]) -> Tokenizer:
    """Builds a tokenizer with the vocabulary of the training captions.

    The automatic choice is `bpe` for captions in scripts without spaces, and `word` for all others.

    Raises:
        CaptionerError: the tokenizer is unknown, its package is not installed, its file cannot be read, or the captions
            have no frequent piece.
    """
    room = config.vocabulary_size - len(SPECIAL_PIECES)
    if config.vocabulary_size and room < 1:
        raise CaptionerError(
            f"data.vocabulary_size ({config.vocabulary_size}) must exceed the {len(SPECIAL_PIECES)} special pieces."
        )
    if config.tokenizer == AUTO:
        config = replace(config, tokenizer="bpe" if unspaced_share(captions) > _FEW else "word")
    kind, argument = _parse(config.tokenizer)
    if kind == "wordpiece":
        return build_wordpiece(config, argument, captions)
    if kind == "bpe":
        return build_bpe(config, captions)
    if kind == "spacy":
        return build_spacy(config, argument, captions)
    return build_words(config, captions)


def restore_tokenizer(config: DataConfig, vocabulary: Vocabulary, state: Mapping[str, Any]) -> Tokenizer:
    """Restores a tokenizer from its configuration, vocabulary and `state`; needs no captions or files.

    Raises:
        CaptionerError: the tokenizer is unknown, its package is not installed, or the state is from another tokenizer.
    """
    kind, argument = _parse(config.tokenizer)
    if kind == "wordpiece":
        return restore_wordpiece(config, vocabulary)
    if kind == "bpe":
        return restore_bpe(config, vocabulary, state)
    if kind == "spacy":
        return restore_spacy(config, argument, vocabulary)
    return restore_words(config, vocabulary)


def language_of(config: DataConfig) -> str | None:
    """Returns the captions' language code, such as `en`, from the setting or the tokenizer; None if it is unknown."""
    kind, argument = _parse(config.tokenizer)
    return config.language or (argument if kind == "spacy" else None)


def _parse(tokenizer: str) -> tuple[str, str]:
    """Returns the kind of tokenizer and its argument, which follows the colon."""
    kind, colon, argument = tokenizer.partition(":")
    if kind == "spacy" and not colon:
        argument = "en"
    is_known = argument != "" if kind in ("wordpiece", "spacy") else kind in (AUTO, "word", "bpe") and not colon
    if not is_known:
        raise CaptionerError(
            f"data.tokenizer is {tokenizer!r}; it must be auto, word, bpe, wordpiece:FILE (BERT's vocab.txt), spacy, "
            "or spacy:LANGUAGE such as spacy:fr."
        )
    return kind, argument
