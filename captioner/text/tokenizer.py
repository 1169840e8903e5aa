"""The interface of tokenizers, which `captioner.text.build` creates from a configuration.

A bundle holds only the vocabulary: printable pieces and the rules that join them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from caprun.bundle.vocabulary import Special, Vocabulary
from captioner.config import DataConfig
from captioner.errors import CaptionerError

SPECIAL = Special(pad=0, start=1, end=2, unk=3)
SPECIAL_PIECES = ("<pad>", "<start>", "<end>", "<unk>")
"""The first pieces of every vocabulary, by id; no caption can contain one."""


class Tokenizer(ABC):
    """Turns captions into ids of a vocabulary.

    Args:
        vocabulary: all pieces, the special ones first.
        config: how captions are written (lower_case, punctuation) and cut (max_length).
    """

    def __init__(self, vocabulary: Vocabulary, config: DataConfig) -> None:
        self.vocabulary = vocabulary
        self._config = config

    @abstractmethod
    def ids(self, caption: str) -> list[int]:
        """Returns the ids of all pieces of a caption; SPECIAL.unk for a piece outside the vocabulary."""

    def encode(self, caption: str) -> list[int]:
        """Returns the ids of START, the caption's pieces up to max_length, and END."""
        return [SPECIAL.start, *self.ids(caption)[: self._config.max_length], SPECIAL.end]

    def unknown_share(self, captions: Iterable[str]) -> float:
        """Returns the share of pieces outside the vocabulary, from 0 to 1; 0 if there are no pieces."""
        ids = [index for caption in captions for index in self.encode(caption)[1:-1]]
        return ids.count(SPECIAL.unk) / max(1, len(ids))

    def state(self) -> dict[str, Any]:
        """Returns what `restore_tokenizer` needs besides configuration and vocabulary, as plain data."""
        return {}


def import_error(package: str, extra: str, tokenizer: str) -> CaptionerError:
    """Returns the error for a tokenizer whose package is not installed."""
    return CaptionerError(
        f"data.tokenizer {tokenizer} needs the package {package}, which is not installed; run "
        f'`pip install "captioner[{extra}]"`.'
    )
