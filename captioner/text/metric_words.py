"""Splits captions into words for scoring: lower-cased, without punctuation; characters in scripts without spaces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Literal

import regex

from captioner.errors import CaptionerError
from captioner.text.scripts import is_unspaced, unspaced_share
from captioner.text.splitting import split

Words = Callable[[str], list[str]]
"""Splits a caption into its words."""
Segmenter = Literal["jieba"]
"""Packages that find words in scripts without spaces."""


def tokenize(caption: str) -> list[str]:
    """Splits a caption into its words: lower-cased, punctuation removed.

    A word is a run of letters, digits and combining marks of any script, in Unicode's composed form (NFC). A hyphen or
    an apostrophe inside a word stays (`t-shirt`, `l'eau`); everything else separates words. In scripts without spaces
    (Chinese, Japanese, Thai, Lao, Khmer, Burmese) every character is a word: an extended grapheme cluster (UAX #29)
    with all its combining marks.

    This is the protocol of papers that "lower-case and remove punctuation". The Penn Treebank tokenizer of
    `pycocoevalcap` differs in English contractions and possessives (it splits `man's` into `man` and `'s`) and in
    numbers (it keeps `3.5` as one word).
    """
    return [word for token in split(caption) for word in _cut(token.text, _characters)]


def segmentation(captions: Iterable[str]) -> str:
    """Returns the units that `tokenize` splits captions into: `words`, `characters`, or `words and characters`."""
    share = unspaced_share(captions)
    return "words" if share == 0 else "characters" if share == 1 else "words and characters"


def segmenter(package: Segmenter) -> Words:
    """Returns a `tokenize` that uses a package to find words, not characters, in scripts without spaces.

    Raises:
        CaptionerError: the package is not installed.
    """
    try:
        import jieba
    except ImportError:
        raise CaptionerError(f"--segmenter {package} requires {package}; run `pip install {package}`.") from None
    jieba.setLogLevel("WARNING")  # it logs its start to standard error
    return lambda caption: [word for token in split(caption) for word in _cut(token.text, jieba.lcut)]


def ends_with(words: Sequence[object], endings: Iterable[Sequence[object]]) -> bool:
    """Returns whether a list of words or ids ends with one of several endings; empty endings never match."""
    return any(ending and list(words[-len(ending) :]) == list(ending) for ending in endings)


def mention(captions: Iterable[str], texts: Iterable[str]) -> bool:
    """Returns whether any caption contains the words of any text in sequence."""
    wanted = [f" {' '.join(tokenize(text))} " for text in texts]
    return any(text in f" {' '.join(tokenize(caption))} " for caption in captions for text in wanted)


def _cut(word: str, segment: Callable[[str], list[str]]) -> Iterator[str]:
    """Yields the words in a run of letters, with runs of scripts without spaces split by `segment`."""
    if word.isascii() or not any(map(is_unspaced, word)):
        yield word
        return
    for unspaced, clusters in groupby(_characters(word), lambda cluster: is_unspaced(cluster[0])):
        run = "".join(clusters)
        # a hyphen or an apostrophe joins letters of one script only
        yield from segment(run) if unspaced else filter(None, [run.strip("-'")])


def _characters(text: str) -> list[str]:
    found: list[str] = regex.findall(r"\X\p{M}*", text)
    return found
