"""Word lists of a language by subject, such as colours, and sentences looked up in them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from captioner.errors import CaptionerError
from captioner.text.metric_words import tokenize

Words = tuple[str, ...]
_LISTS = Path(__file__).with_suffix(".toml")
_LONGEST = 4  # metric words in a listed word


@dataclass(frozen=True)
class Sentence:
    """The words of a caption."""

    words: Words
    """All words, as scores count them: characters in scripts without spaces."""
    said: Mapping[str, frozenset[str]]
    """The listed words by subject."""


@dataclass(frozen=True)
class WordLists:
    """The word lists of a language."""

    by_subject: Mapping[str, frozenset[str]]

    @cached_property
    def _listed(self) -> set[Words]:
        return {tuple(tokenize(word)) for words in self.by_subject.values() for word in words}

    def sentence(self, text: str) -> Sentence:
        """Looks up the words of a text; where several listed words start, the longest one counts."""
        words, found, start = tuple(tokenize(text)), set(), 0
        while start < len(words):
            lengths = range(_LONGEST, 0, -1)
            end = start + next((n for n in lengths if words[start : start + n] in self._listed), 1)
            found.add("".join(words[start:end]))
            start = end
        return Sentence(words, {subject: listed & found for subject, listed in self.by_subject.items()})


def word_lists(language: str) -> WordLists:
    """Returns the lists of a language.

    Args:
        language: language code, such as `en`.

    Raises:
        CaptionerError: the language has no lists.
    """
    lists = tomllib.loads(_LISTS.read_text(encoding="utf-8"))
    if language not in lists:
        raise CaptionerError(f"There are no word lists for captions in {language!r}; add them to {_LISTS}.")
    return WordLists({subject: frozenset(words.split()) for subject, words in lists[language].items()})
