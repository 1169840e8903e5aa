"""Detokenizes: ids -> pieces -> words -> text.

The runtime needs only two parts of a tokenizer: the list of printable pieces, and the rules that join pieces into
words and words into text.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from caprun.bundle.plain_data import from_dict, shown
from caprun.errors import UsageError

_ATTACHED = ("Mn", "Mc", "Me", "Lm")  # vowel signs, tone and repetition marks never begin a word
# control characters, and characters that XML or UTF-8 does not allow
_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_MOST_SPELLINGS = 1_000  # per text; a search looks for each of them at every step


@dataclass(frozen=True)
class Joining:
    """Rules that join pieces into words and words into text."""

    separator: str = " "
    """Text between words; empty for languages without spaces."""
    continuation: str = ""
    """Prefix of a piece that continues the word before it (`##` in BERT's vocabularies); empty if no piece does."""
    word_start: str = ""
    """Prefix of a piece that begins a word (`▁`); other pieces continue one. Empty if every piece begins a word."""
    no_space_before: tuple[str, ...] = ()
    """Words written without a separator before them, such as a comma."""
    no_space_after: tuple[str, ...] = ()
    """Words written without a separator after them, such as an opening bracket."""
    unspaced: str = ""
    """Letters of scripts without spaces between words (Chinese, Japanese, Thai). Next to such a letter a piece begins
    a word even without `word_start`, and only `word_start` adds a separator."""


@dataclass(frozen=True)
class Special:
    """Ids of the special pieces; captions never contain `pad`, `start` or `unk`."""

    pad: int
    start: int
    end: int
    unk: int


class WordSpan(NamedTuple):
    """A word of a caption and the positions of its pieces in the caption."""

    text: str
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Vocabulary:
    """The pieces of a model, by id."""

    pieces: tuple[str, ...]
    joining: Joining = field(default_factory=Joining)

    def __len__(self) -> int:
        return len(self.pieces)

    @property
    def texts(self) -> list[str]:
        """The pieces without the prefixes of `joining`."""
        prefixes = (self.joining.continuation, self.joining.word_start)
        return [piece.removeprefix(prefixes[0]).removeprefix(prefixes[1]) for piece in self.pieces]

    def spellings(self, words: Sequence[str], option: str, *, at_end: bool) -> Iterator[tuple[frozenset[int], ...]]:
        """Finds the pieces that spell words.

        Args:
            words: The words, written as in captions; in scripts without spaces, any text.
            option: The search option that names them, for the message.
            at_end: Whether they end a caption, so that nothing follows them in the last piece.

        Yields:
            For each spelling of a word, a set of ids for each of its consecutive pieces. A word outside a vocabulary
            of whole words has no spelling, since the model cannot produce it.

        Raises:
            UsageError: A word is in the vocabulary only in lower case, may consist of several pieces, or has too many
                spellings.
        """
        joining = self.joining
        spells = bool(joining.continuation or joining.word_start or joining.unspaced)
        index, texts = {piece: i for i, piece in enumerate(self.pieces)}, self.texts
        for word in words:
            found = index.get(joining.word_start + word, index.get(word))
            if any(letter in joining.unspaced for letter in word):
                yield from _spelled(word, texts, option, at_end=at_end)
            elif found is not None:
                yield (frozenset([found]),)
            elif (lower := word.lower()) in index or joining.word_start + lower in index:
                raise _miscased(word, option)
            elif spells:
                raise UsageError(
                    f"`{option}` names {word!r}, which is not in the model's vocabulary as one piece; leave it out."
                )

    def marked(self, words: Sequence[str], option: str) -> list[bool]:
        """Marks the pieces that are one of the words, by id; words that are not one piece are ignored.

        Raises:
            UsageError: A word is in the vocabulary only in lower case; `option` is the search option that names it.
        """
        texts, wanted = self.texts, set(words)
        known = set(texts)
        for word in sorted(wanted - known):
            if word.lower() in known:
                raise _miscased(word, option)
        return [text in wanted for text in texts]

    def words(self, ids: Sequence[int]) -> list[WordSpan]:
        """Groups the pieces of a caption, without END, into words."""
        return [word for word, _ in self._words(ids)]

    def text(self, ids: Sequence[int]) -> str:
        """Joins the pieces of a caption, without END, into text."""
        rules = self.joining
        text = ""
        glued = True
        for word, spaced in self._words(ids):
            if not word.text.strip():  # a `word_start` with nothing after it, or a line break as a word
                continue
            separated = spaced and not glued and word.text not in rules.no_space_before
            text += rules.separator + word.text if separated else word.text
            glued = word.text in rules.no_space_after
        return text

    def _words(self, ids: Sequence[int]) -> list[tuple[WordSpan, bool]]:
        """Returns each word, and whether its pieces require a separator before it."""
        words: list[tuple[WordSpan, bool]] = []
        for position, index in enumerate(ids):
            last, last_spaced = words[-1] if words else (WordSpan("", ()), True)
            begins, spaced, text = self._begins_word(self.pieces[index], last.text)
            if begins or not words:
                words.append((WordSpan(text, (position,)), spaced))
            else:
                words[-1] = WordSpan(last.text + text, (*last.positions, position)), last_spaced
        return words

    def _begins_word(self, piece: str, before: str) -> tuple[bool, bool, str]:
        """Returns whether a piece begins a word after `before`, whether a separator precedes it, and its text."""
        rules = self.joining
        if rules.continuation and piece.startswith(rules.continuation):
            return False, False, piece.removeprefix(rules.continuation)
        if rules.word_start and piece.startswith(rules.word_start):
            return True, True, piece.removeprefix(rules.word_start)
        unspaced = self._unspaced_between(before, piece)
        if rules.word_start:
            return unspaced, False, piece
        return True, not unspaced, piece

    def _unspaced_between(self, before: str, piece: str) -> bool:
        letters = self.joining.unspaced
        if not letters or not before or not piece or unicodedata.category(piece[0]) in _ATTACHED:
            return False
        return before[-1] in letters or piece[0] in letters

    def as_dict(self) -> dict[str, Any]:
        """Returns the content of `vocab.json`."""
        return {"pieces": list(self.pieces), "joining": asdict(self.joining)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Vocabulary":
        """Reads the data that `as_dict` returns; raises ValueError if it is not a vocabulary."""
        vocabulary = from_dict(cls, data)
        vocabulary.check()
        return vocabulary

    def check(self) -> None:
        """Refuses a vocabulary whose captions could not be told apart, written to files or shown safely.

        Raises:
            ValueError: A piece is repeated, or a text has a control character, a lone surrogate or U+FFFE or U+FFFF.
        """
        if len(set(self.pieces)) != len(self.pieces):
            raise ValueError("a piece is repeated")
        rules = self.joining
        whole_words = not (rules.continuation or rules.word_start)
        pieces = (piece for piece in self.pieces if not (whole_words and piece.isspace()))  # `text` leaves those out
        for kind, texts in (("piece", pieces), ("separator", (rules.separator,))):
            if (found := next(filter(_UNWRITABLE.search, texts), None)) is not None:
                raise ValueError(
                    f"the {kind} {shown(found)} contains a control character, or one that XML or UTF-8 does not allow"
                )


def _miscased(word: str, option: str) -> UsageError:
    """Returns the error of an option that names a word of which the vocabulary has only the lower case."""
    return UsageError(
        f"`{option}` names {word!r}, which is not in the model's vocabulary; use {word.lower()!r}, which is."
    )


def _spelled(text: str, pieces: Sequence[str], option: str, *, at_end: bool) -> list[tuple[frozenset[int], ...]]:
    """Returns sequences of sets of ids whose texts together contain a text, or end with it."""

    def ids(fits: Callable[[str, str], bool], part: str) -> frozenset[int]:
        return frozenset(index for index, piece in enumerate(pieces) if fits(piece, part))

    exact: dict[str, frozenset[int]] = {}
    for index, piece in enumerate(pieces):
        exact[piece] = exact.get(piece, frozenset()) | {index}
    longest = max(map(len, pieces))
    ways: list[list[tuple[frozenset[int], ...]]] = [[] for _ in text]  # to spell the text from each position on
    for start in reversed(range(len(text))):  # from the end, so that nothing is spelled twice
        rest = text[start:]
        if start:
            last = ids(str.__eq__ if at_end else str.startswith, rest)
        else:
            last = ids(str.endswith if at_end else str.__contains__, rest)
        found: list[tuple[frozenset[int], ...]] = [(last,)] if last else []
        for cut in range(1, min(longest, len(rest) - 1) + 1):
            if first := exact.get(rest[:cut]) if start else ids(str.endswith, rest[:cut]):
                found += [(first, *others) for others in ways[start + cut]]
        ways[start] = found[: _MOST_SPELLINGS + 1]
    if len(ways[0]) > _MOST_SPELLINGS:
        raise UsageError(
            f"`{option}` names {shown(text)}, which the model's pieces spell in more than {_MOST_SPELLINGS:,} ways; "
            "name a shorter text."
        )
    return ways[0]
