"""A tokenizer: a vocabulary, and a function that turns captions into its ids.

A bundle holds only the vocabulary: printable pieces and the rules that join them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from caprun.bundle.vocabulary import Special, Vocabulary
from captioner.config import DataConfig

SPECIAL = Special(pad=0, start=1, end=2, unk=3)
SPECIAL_PIECES = ("<pad>", "<start>", "<end>", "<unk>")
"""The first pieces of every vocabulary, by id; no caption can contain one."""


@dataclass(frozen=True)
class Tokenizer:
    """Turns captions into ids of a vocabulary."""

    vocabulary: Vocabulary
    """All pieces, the special ones first."""
    config: DataConfig
    """Settings of this tokenizer, which normalise captions (lower_case, punctuation) and cut them (max_length)."""
    ids: Callable[[str], list[int]]
    """Returns the ids of all pieces of a caption; SPECIAL.unk for a piece outside the vocabulary."""
    state: Mapping[str, Any] = field(default_factory=dict)
    """Plain data that `captioner.text.build.restore_tokenizer` needs besides configuration and vocabulary."""
    words: Callable[[str], list[str]] | None = None
    """Returns the words of a caption, if every piece is a word; None if pieces can be parts of words."""

    def encode(self, caption: str) -> list[int]:
        """Returns the ids of START, the caption's pieces up to max_length, and END."""
        return [SPECIAL.start, *self.ids(caption)[: self.config.max_length], SPECIAL.end]

    def unknown_share(self, captions: Iterable[str]) -> float:
        """Returns the share of pieces outside the vocabulary, from 0 to 1; 0 if there are no pieces."""
        ids = [index for caption in captions for index in self.encode(caption)[1:-1]]
        return ids.count(SPECIAL.unk) / max(1, len(ids))


def word_tokenizer(vocabulary: Vocabulary, config: DataConfig, words: Callable[[str], list[str]]) -> Tokenizer:
    """Returns a tokenizer whose pieces are the words that `words` finds in a caption."""
    ids = {word: index for index, word in enumerate(vocabulary.pieces) if word not in SPECIAL_PIECES}
    return Tokenizer(
        vocabulary, config, lambda caption: [ids.get(word, SPECIAL.unk) for word in words(caption)], words=words
    )
