"""The word tokenizer: lower-cased words of any script, punctuation left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from caprun.vocabulary import Special, Vocabulary
from captioner.errors import CaptionerError
from captioner.evaluation.metrics import tokenize

SPECIAL = Special(pad=0, start=1, end=2, unk=3)
_SPECIAL_PIECES = ("<pad>", "<start>", "<end>", "<unk>")


def build_vocabulary(captions: Iterable[str], min_count: int) -> Vocabulary:
    """The words seen at least `min_count` times, the most frequent first, behind the special pieces.

    Raises:
        CaptionerError: no word is that frequent.
    """
    counts = Counter(word for caption in captions for word in tokenize(caption))
    words = sorted((word for word, count in counts.items() if count >= min_count), key=lambda w: (-counts[w], w))
    if not words:
        raise CaptionerError(
            f"No word is in the training captions {min_count} times; lower data.min_count, or add captions."
        )
    return Vocabulary((*_SPECIAL_PIECES, *words))


class WordTokenizer:
    """Captions to ids of a vocabulary.

    Args:
        vocabulary: as `build_vocabulary` made it.
        max_length: captions are cut after as many pieces.
    """

    def __init__(self, vocabulary: Vocabulary, max_length: int) -> None:
        self._ids = {piece: index for index, piece in enumerate(vocabulary.pieces)}
        self._max_length = max_length

    def encode(self, caption: str) -> list[int]:
        """START, the caption's pieces, END."""
        pieces = [self._ids.get(word, SPECIAL.unk) for word in tokenize(caption)[: self._max_length]]
        return [SPECIAL.start, *pieces, SPECIAL.end]

    def unknown_share(self, captions: Sequence[str]) -> float:
        """The share of words that the vocabulary does not have."""
        ids = [index for caption in captions for index in self.encode(caption)[1:-1]]
        return ids.count(SPECIAL.unk) / max(1, len(ids))
