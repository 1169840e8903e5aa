"""What a tokenizer is; `captioner.text.build` makes the one that a configuration asks for.

Each ends as one vocabulary of printable pieces with the rules that join them, which is all that a bundle holds of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from caprun.bundle.vocabulary import Special, Vocabulary
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


def import_error(package: str, extra: str, tokenizer: str) -> CaptionerError:
    """What to say where a tokenizer's package is not installed."""
    return CaptionerError(
        f"data.tokenizer {tokenizer} needs the package {package}, which is not installed: "
        f'pip install "captioner[{extra}]"'
    )
