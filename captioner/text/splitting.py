"""Splits captions of any script into words and marks, and returns the rules that join them again."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

import regex

from caprun.bundle.vocabulary import Joining
from captioner.text.scripts import is_unspaced


class Token(NamedTuple):
    """A word or a punctuation mark of a caption."""

    text: str
    spaced: bool
    """True for the first token, and if a space separates it from the previous one."""
    mark: bool
    """True for a punctuation mark or a run of symbols."""


# A word does not start with a combining mark, or the invisible variation selector after an emoji would be a word.
_WORD = r"(?P<word>[\p{L}\p{N}][\p{L}\p{N}\p{M}]*(?:(?:[-']|(?<=[lL])·(?=[lL])%s)[\p{L}\p{N}][\p{L}\p{N}\p{M}]*)*)"
_WORDS = regex.compile(_WORD % "")
_WORDS_AND_MARKS = regex.compile(_WORD % r"|(?<=\p{Nd})[.,:/](?=\p{Nd})" + r"|\p{S}[\p{S}\p{M}]*|\p{P}")
_LEFT_OUT = regex.compile(r"[\p{P}\p{S}]")
_SPACE = regex.compile(r"[^\p{L}\p{M}\p{N}\p{P}\p{S}\u200b]")
# Joiners and soft hyphens occur inside words. The zero-width space has the same category, but ends a word.
_INVISIBLE = regex.compile(r"(?!\u200b)\p{Cf}")

# Typographic variants of apostrophe and hyphen become the plain one.
_PLAIN_JOINERS = str.maketrans({"’": "'", "\N{HYPHEN}": "-", "\N{NON-BREAKING HYPHEN}": "-"})

_TURKISH = set("ıİğĞ")  # letters only in languages with the Turkish rule for `I`

# Flickr8k's captions are already tokenized: `a man 's hat`
_DETACHED_ENDING = re.compile(r"(?<=\w) (?=(?:'(?:s|m|d|ll|re|ve)|n't)(?!\w))", re.IGNORECASE)

_QUOTES = {"“”": '"“”„‟', "«»": "«»"}

# A full-width mark includes its space, so there is none on either side.
_FULL_WIDTH_CLOSING = "、。，．；：！？％）］｝」』】〉》〕"
_FULL_WIDTH_OPENING = "（［｛「『【〈《〔"
_CLOSING = ".,;:!?…%)]}”’»›°،؛؟۔।॥" + _FULL_WIDTH_CLOSING
_OPENING = "([{“‘«‹¿¡$£#" + _FULL_WIDTH_OPENING
_BOTH = "/／～〜・"


def split(caption: str, *, lower_case: bool = True, punctuation: bool = False) -> list[Token]:
    """Splits a caption into words and, with `punctuation`, marks, in Unicode's composed form (NFC).

    A word is a run of letters, digits and combining marks of any script. It keeps a hyphen, an apostrophe or the dot of
    Catalan inside it (`t-shirt`, `l'eau`, `pel·lícula`) and, with `punctuation`, a mark between digits (`3.5`). All
    other characters separate words. Invisible characters (joiners, soft hyphens) are removed.

    Variants of a mark become one: double quotes open or close according to the adjacent space, or alternately
    (`"a"` and `„a“` become `“a”`, `»a«` becomes `«a»`), a single quote opens after a space and closes elsewhere, a
    hyphen between words becomes a dash (`–`), and detached English endings (`man 's`) are attached. `joining` describes
    the spaces around marks.
    """
    # before composing, because a combining mark after a joiner could not be composed with its letter
    text = unicodedata.normalize("NFC", _INVISIBLE.sub("", caption)).translate(_PLAIN_JOINERS)
    if lower_case:
        text = unicodedata.normalize("NFC", lowered(text))
    if punctuation:
        text = _DETACHED_ENDING.sub("", text)
    tokens: list[Token] = []
    open_quotes: set[str] = set()
    end = 0
    for match in (_WORDS_AND_MARKS if punctuation else _WORDS).finditer(text):
        token = match[0]
        spaced = not tokens or _is_apart(text[end : match.start()], text[end - 1], token[0])
        end = match.end()
        mark = match["word"] is None
        if mark:
            token = _canonical_mark(token, spaced, end == len(text) or bool(_SPACE.match(text, end)), open_quotes)
        tokens.append(Token(token, spaced, mark))
    return tokens


def lowered(text: str) -> str:
    """Converts to lower case; in Turkish and related languages, `I` becomes `ı` and `İ` becomes `i`."""
    if _TURKISH.intersection(text):
        text = text.replace("I", "ı").replace("İ", "i")
    return text.lower()


def _is_apart(gap: str, before: str, after: str) -> bool:
    """Returns whether a space separates two tokens; `gap` has the characters removed between them."""
    if _SPACE.search(gap):
        return True
    # a removed mark leaves a space, as in `and/or`, but not in scripts without spaces
    marked = _LEFT_OUT.search(gap) is not None
    return marked and not (is_unspaced(before) and is_unspaced(after))


def _canonical_mark(mark: str, space_before: bool, space_after: bool, open_quotes: set[str]) -> str:
    if mark in "-'":
        return {"-": "–", "'": "‘" if space_before else "’"}[mark]
    pair = next((pair for pair, variants in _QUOTES.items() if mark in variants), None)
    if pair is None:
        return mark
    opens = pair not in open_quotes if space_before == space_after else space_before
    (open_quotes.add if opens else open_quotes.discard)(pair)
    return pair[0] if opens else pair[1]


def joining(
    pieces: Iterable[str],
    *,
    continuation: str = "",
    word_start: str = "",
    before: Iterable[str] = (),
    after: Iterable[str] = (),
) -> Joining:
    """Returns the rules that join pieces, with marks spaced as in print: `a dog, wet (very)!`, `¿qué?`, `狗，猫`.

    French spaces before `! ? : ;` and inside `« »` are left out, because captions are typed with and without them.

    Args:
        pieces: all pieces of the vocabulary.
        continuation: prefix of pieces that continue a word; see `caprun.bundle.vocabulary.Joining`.
        word_start: prefix of pieces that begin a word.
        before: other words without a space before them.
        after: other words without a space after them.
    """
    pieces = list(pieces)
    words = {piece.removeprefix(word_start) for piece in pieces}
    return Joining(
        continuation=continuation,
        word_start=word_start,
        no_space_before=(*(m for m in _CLOSING + _BOTH + _FULL_WIDTH_OPENING if m in words), *before),
        no_space_after=(*(m for m in _OPENING + _BOTH + _FULL_WIDTH_CLOSING if m in words), *after),
        unspaced="".join(sorted({c for piece in pieces for c in piece if is_unspaced(c)})),
    )
