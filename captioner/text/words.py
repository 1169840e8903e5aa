"""The word tokenizer: words of any script and, if they are wanted, punctuation marks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from caprun.bundle.vocabulary import Joining, Vocabulary
from captioner.config import DataConfig
from captioner.errors import CaptionerError
from captioner.text.splitting import joining, split
from captioner.text.tokenizer import SPECIAL, SPECIAL_PIECES, Tokenizer

__all__ = ["SPECIAL", "WordTokenizer", "build_vocabulary", "build_words", "frequent"]


def frequent(captions: Iterable[Iterable[str]], min_count: int, size: int = 0) -> list[str]:
    """The words seen at least `min_count` times, the most frequent first, and at most `size` of them unless that is 0.

    Raises:
        CaptionerError: no word is that frequent.
    """
    counts = Counter(word for words in captions for word in words)
    found = sorted((word for word, count in counts.items() if count >= min_count), key=lambda w: (-counts[w], w))
    if not found:
        raise CaptionerError(
            f"No word is in the training captions {min_count} times; lower data.min_count, or add captions."
        )
    return found[: size or None]


def build_vocabulary(captions: Iterable[str], min_count: int) -> Vocabulary:
    """The words seen at least `min_count` times, the most frequent first, behind the special pieces.

    Raises:
        CaptionerError: no word is that frequent.
    """
    return build_words(DataConfig(min_count=min_count), captions).vocabulary


def build_words(config: DataConfig, captions: Iterable[str]) -> WordTokenizer:
    """The tokenizer of the words in these captions.

    Raises:
        CaptionerError: no word is frequent enough.
    """
    size = config.vocabulary_size - len(SPECIAL_PIECES) if config.vocabulary_size else 0
    words = frequent((_words(c, config.lower_case, config.punctuation) for c in captions), config.min_count, size)
    vocabulary = Vocabulary((*SPECIAL_PIECES, *words), joining(words) if config.punctuation else Joining())
    return WordTokenizer(vocabulary, config.max_length, config.lower_case, config.punctuation)


class WordTokenizer(Tokenizer):
    """Captions to ids of their words.

    Args:
        vocabulary: as `build_words` made it.
        max_length: captions are cut after as many words and marks.
        lower_case: as it was for the vocabulary.
        punctuation: likewise.
    """

    def __init__(
        self, vocabulary: Vocabulary, max_length: int, lower_case: bool = True, punctuation: bool = False
    ) -> None:
        super().__init__(vocabulary, max_length)
        self._ids = {word: index for index, word in enumerate(vocabulary.pieces) if word not in SPECIAL_PIECES}
        self._lower_case, self._punctuation = lower_case, punctuation

    def ids(self, caption: str) -> list[int]:
        """Of its words; see `Tokenizer.ids`."""
        return [self._ids.get(word, SPECIAL.unk) for word in _words(caption, self._lower_case, self._punctuation)]


def _words(caption: str, lower_case: bool, punctuation: bool) -> list[str]:
    return [token.text for token in split(caption, lower_case=lower_case, punctuation=punctuation)]
