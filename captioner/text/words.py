"""The word tokenizer: words of any script and, optionally, punctuation marks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from caprun.bundle.vocabulary import Vocabulary
from captioner.config import DataConfig
from captioner.errors import CaptionerError
from captioner.text.splitting import joining, split
from captioner.text.tokenizer import SPECIAL_PIECES, Tokenizer, word_tokenizer


def build_words(config: DataConfig, captions: Iterable[str]) -> Tokenizer:
    """Builds a tokenizer of the words in the captions.

    Raises:
        CaptionerError: no word is frequent enough.
    """
    words = frequent((_words(caption, config) for caption in captions), config)
    return restore_words(config, Vocabulary((*SPECIAL_PIECES, *words), joining(words)))


def restore_words(config: DataConfig, vocabulary: Vocabulary) -> Tokenizer:
    """Restores a tokenizer from the vocabulary of `build_words`."""
    return word_tokenizer(vocabulary, config, lambda caption: _words(caption, config))


def frequent(captions: Iterable[Iterable[str]], config: DataConfig) -> list[str]:
    """Returns the words that occur at least `min_count` times, the most frequent first, up to `vocabulary_size`.

    Raises:
        CaptionerError: no word is that frequent.
    """
    counts = Counter(word for words in captions for word in words)
    found = [word for word, count in counts.items() if count >= config.min_count]
    if not found:
        raise CaptionerError(
            f"No word occurs {config.min_count} times in the training captions; lower data.min_count, or add captions."
        )
    size = config.vocabulary_size - len(SPECIAL_PIECES) if config.vocabulary_size else None
    return sorted(found, key=lambda word: (-counts[word], word))[:size]


def _words(caption: str, config: DataConfig) -> list[str]:
    return [token.text for token in split(caption, lower_case=config.lower_case, punctuation=config.punctuation)]
