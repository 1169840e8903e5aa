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
    """Checks the input of a metric and counts its n-grams.

    Args:
        candidates: the words of one caption per photo.
        references: for each photo, the words of each of its reference captions.

    Raises:
        ValueError: there is no photo, the lengths differ, or a photo has no reference.
        TypeError: a caption is a string instead of a list of words.
    """
    if len(candidates) != len(references):
        raise ValueError(f"there are {len(candidates)} captions but references for {len(references)} photos")
    if not candidates:
        raise ValueError("there is no caption to score")
    photos = []
    for i, (candidate, of_photo) in enumerate(zip(candidates, references, strict=True)):
        if not of_photo:
            raise ValueError(f"the photo at index {i} has no reference caption: give it one or leave it out")
        photos.append(CountedPhoto(sentence(candidate), [sentence(reference) for reference in of_photo]))
    return photos


def sentence(words: Sequence[str]) -> Sentence:
    """Counts the n-grams of a caption's words.

    Raises:
        TypeError: `words` is a string.
    """
    if isinstance(words, str):  # a string is a sequence of strings too and would be scored letter by letter
        raise TypeError(f"a list of words is needed, not the string {words!r}: tokenize it first")
    ngrams: Counter[Ngram] = Counter()
    for order in range(1, MAX_ORDER + 1):
        # the columns of n copies of the sentence, each shifted by one word, are its n-grams
        ngrams.update(zip(*(words[start:] for start in range(order)), strict=False))
    return Sentence(words, ngrams)
