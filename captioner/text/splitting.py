"""Splits captions of any script into words and marks, and returns the rules that join them again."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from caprun.bundle.vocabulary import Joining
from captioner.text.scripts import is_unspaced


class Token(NamedTuple):
    """A word or a punctuation mark of a caption."""

    text: str
    spaced: bool
    """True for the first token, and if a space separates it from the previous one."""
    mark: bool
    """True for a punctuation mark or a run of symbols."""


# The patterns match kinds of characters, one letter each, because `re` has no class for combining marks and would split
# Hindi and decomposed accents. A word does not start with a combining mark; otherwise the invisible variation selector
# after an emoji would be a word.
_LETTER, _DIGIT, _MARK, _JOINER, _INNER, _POINT, _SYMBOL, _NO_WIDTH, _SPACE = "LDMJIPSZ "
_START = f"[{_LETTER}{_DIGIT}]"
_WORD = (
    f"{_START}[{_LETTER}{_DIGIT}{_MARK}]*"
    f"(?:(?:{_JOINER}|(?<={_DIGIT}){_INNER}(?={_DIGIT})){_START}[{_LETTER}{_DIGIT}{_MARK}]*)*"
)
_WORDS = re.compile(f"(?P<word>{_WORD})")
_WORDS_AND_MARKS = re.compile(f"(?P<word>{_WORD})|{_SYMBOL}[{_SYMBOL}{_MARK}]*|[{_JOINER}{_INNER}{_POINT}]")
_LEFT_OUT = re.compile(f"[{_JOINER}{_INNER}{_POINT}{_SYMBOL}]")

# Typographic variants of apostrophe and hyphen become the plain one.
_PLAIN_JOINERS = str.maketrans({"’": "'", "\N{HYPHEN}": "-", "\N{NON-BREAKING HYPHEN}": "-"})
_ZERO_WIDTH_SPACE = "\N{ZERO WIDTH SPACE}"

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

    A word is a run of letters, digits and combining marks of any script. It keeps a hyphen or an apostrophe inside it
    (`t-shirt`, `l'eau`) and, with `punctuation`, a mark between digits (`3.5`). All other characters separate words.
    Invisible characters (joiners, soft hyphens) are removed.

    Variants of a mark become one: double quotes open or close according to the adjacent space, or alternately
    (`"a"` and `„a“` become `“a”`, `»a«` becomes `«a»`), a single quote opens after a space and closes elsewhere, a
    hyphen between words becomes a dash (`–`), and detached English endings (`man 's`) are attached. `joining` describes
    the spaces around marks.
    """
    # Joiners and soft hyphens occur inside words. They are removed first, because a combining mark after one could not
    # be composed with its letter. The zero-width space has the same category, but ends a word.
    visible = (c for c in caption if c == _ZERO_WIDTH_SPACE or unicodedata.category(c) != "Cf")
    text = unicodedata.normalize("NFC", "".join(visible)).translate(_PLAIN_JOINERS)
    if lower_case:
        text = unicodedata.normalize("NFC", _lower(text))
    if punctuation:
        text = _DETACHED_ENDING.sub("", text)
    kinds = "".join(map(_kind if punctuation else _kind_without_marks, text))
    pattern = _WORDS_AND_MARKS if punctuation else _WORDS
    tokens: list[Token] = []
    open_quotes: set[str] = set()
    end = 0
    for match in pattern.finditer(kinds):
        token = text[match.start() : match.end()]
        spaced = not tokens or _is_apart(kinds[end : match.start()], text[end - 1], token[0])
        end = match.end()
        mark = match["word"] is None
        if mark:
            token = _canonical_mark(token, spaced, kinds[end : end + 1] in ("", _SPACE), open_quotes)
        tokens.append(Token(token, spaced, mark))
    return tokens


def _lower(text: str) -> str:
    """Converts to lower case; in Turkish and related languages, `I` becomes `ı` and `İ` becomes `i`."""
    if _TURKISH.intersection(text):
        text = text.replace("I", "ı").replace("İ", "i")
    return text.lower()


def _is_apart(gap: str, before: str, after: str) -> bool:
    """Returns whether a space separates two tokens; `gap` has the kinds of the characters removed between them."""
    if _SPACE in gap:
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


@lru_cache(maxsize=4096)
def _kind(character: str) -> str:
    if character in "-'":
        return _JOINER
    if character in ".,:/":
        return _INNER
    category = unicodedata.category(character)
    if category == "Nd":
        return _DIGIT
    if character == _ZERO_WIDTH_SPACE:
        return _NO_WIDTH
    return {"L": _LETTER, "N": _LETTER, "M": _MARK, "P": _POINT, "S": _SYMBOL}.get(category[0], _SPACE)


def _kind_without_marks(character: str) -> str:
    kind = _kind(character)
    return _POINT if kind == _INNER else kind


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
