"""Counts the n-grams of captions and references once, for all metrics."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

MAX_ORDER = 4  # n-grams of 1 to 4 words

Ngram = tuple[str, ...]


class Sentence(NamedTuple):
    """A caption and its n-gram counts."""

    words: Sequence[str]
    ngrams: Counter[Ngram]  # of 1 to MAX_ORDER words


class CountedPhoto(NamedTuple):
    """The candidate caption of a photo and its references; every metric takes a sequence of these."""

    candidate: Sentence
    references: list[Sentence]  # at least one


def count(candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> list[CountedPhoto]:
    """Counts the n-grams of captions and references.

    Args:
        candidates: the words of one caption per photo.
        references: for each photo, the words of each of its reference captions, at least one.
    """
    return [
        CountedPhoto(sentence(candidate), [sentence(reference) for reference in of_photo])
        for candidate, of_photo in zip(candidates, references, strict=True)
    ]


def sentence(words: Sequence[str]) -> Sentence:
    """Counts the n-grams of a caption's words."""
    ngrams: Counter[Ngram] = Counter()
    for order in range(1, MAX_ORDER + 1):
        # the columns of n copies of the sentence, each shifted by one word, are its n-grams
        ngrams.update(zip(*(words[start:] for start in range(order)), strict=False))
    return Sentence(words, ngrams)
