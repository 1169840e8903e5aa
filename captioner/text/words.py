"""The word tokenizer: words of any script and, optionally, punctuation marks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from caprun.bundle.vocabulary import Joining, Vocabulary
from captioner.config import DataConfig
from captioner.errors import CaptionerError
from captioner.text.splitting import joining, split
from captioner.text.tokenizer import SPECIAL, SPECIAL_PIECES, Tokenizer


def frequent(captions: Iterable[Iterable[str]], min_count: int, size: int = 0) -> list[str]:
    """Returns the words that occur at least `min_count` times, the most frequent first; at most `size` if it is not 0.

    Raises:
        CaptionerError: no word is that frequent.
    """
    counts = Counter(word for words in captions for word in words)
    found = sorted((word for word, count in counts.items() if count >= min_count), key=lambda w: (-counts[w], w))
    if not found:
        raise CaptionerError(
            f"No word occurs {min_count} times in the training captions; lower data.min_count, or add captions."
        )
    return found[: size or None]


def build_words(config: DataConfig, captions: Iterable[str]) -> WordTokenizer:
    """Builds a tokenizer of the words in the captions.

    Raises:
        CaptionerError: no word is frequent enough.
    """
    size = config.vocabulary_size - len(SPECIAL_PIECES) if config.vocabulary_size else 0
    words = frequent((_words(caption, config) for caption in captions), config.min_count, size)
    vocabulary = Vocabulary((*SPECIAL_PIECES, *words), joining(words) if config.punctuation else Joining())
    return WordTokenizer(vocabulary, config)


class WordTokenizer(Tokenizer):
    """Turns captions into ids of their words.

    Args:
        vocabulary: from `build_words`.
        config: see `Tokenizer`.
    """

    def __init__(self, vocabulary: Vocabulary, config: DataConfig) -> None:
        super().__init__(vocabulary, config)
        self._ids = {word: index for index, word in enumerate(vocabulary.pieces) if word not in SPECIAL_PIECES}

    def ids(self, caption: str) -> list[int]:
        """Returns the ids of a caption's words; see `Tokenizer.ids`."""
        return [self._ids.get(word, SPECIAL.unk) for word in _words(caption, self._config)]


def _words(caption: str, config: DataConfig) -> list[str]:
    return [token.text for token in split(caption, lower_case=config.lower_case, punctuation=config.punctuation)]
