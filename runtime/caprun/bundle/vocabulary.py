"""ids -> pieces -> text: the one definition of detokenizing.

A tokenizer, whichever it was, leaves a list of printable pieces and the rules by which pieces join into words and
words into text; the runtime needs nothing else of it.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from caprun.bundle.plain_data import from_dict
from caprun.errors import UsageError

_ATTACHED = ("Mn", "Mc", "Me", "Lm")  # vowel signs, tone marks and repetition marks: none begins a word


@dataclass(frozen=True)
class Joining:
    """How pieces become words and words become text."""

    separator: str = " "
    """Between words; empty for languages that write none."""
    continuation: str = ""
    """Prefix of a piece that continues the word before it (`##` in BERT's vocabularies); empty: none does."""
    word_start: str = ""
    """Prefix of a piece that begins a word (`▁`), all others continuing one; empty: every piece begins one."""
    no_space_before: tuple[str, ...] = ()
    """Words written without a separator before them, such as a comma."""
    no_space_after: tuple[str, ...] = ()
    """Words written without a separator after them, such as an opening bracket."""
    unspaced: str = ""
    """Letters of scripts that write no spaces between words (Chinese, Japanese, Thai): beside one of them a piece
    begins a word even without `word_start`, and words are written without a separator unless it is there."""


@dataclass(frozen=True)
class Special:
    """Ids of the pieces that are not words; the runtime never says the first two nor the last."""

    pad: int
    start: int
    end: int
    unk: int


class WordSpan(NamedTuple):
    """One word of a caption and where its pieces stand in it."""

    text: str
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Vocabulary:
    """All pieces a model can say, by id."""

    pieces: tuple[str, ...]
    joining: Joining = field(default_factory=Joining)

    def __len__(self) -> int:
        return len(self.pieces)

    def ids_of(self, words: Sequence[str], option: str) -> tuple[int, ...]:
        """Finds the pieces that are whole words.

        Args:
            words: The words, written as in captions.
            option: The search option that names them, for the message.

        Returns:
            Their ids. A word that is not in a vocabulary of whole words has none: the model never says it.

        Raises:
            UsageError: A word is in the vocabulary in lower case only, or may be spelled in several pieces.
        """
        joining = self.joining
        spells = bool(joining.continuation or joining.word_start or joining.unspaced)
        index = {piece: i for i, piece in enumerate(self.pieces)}
        ids = []
        for word in words:
            found = index.get(word, index.get(joining.word_start + word))
            if found is not None:
                ids.append(found)
            elif (lower := word.lower()) in index or joining.word_start + lower in index:
                raise UsageError(
                    f"`{option}` names {word!r}, which is not in the model's vocabulary, but {lower!r} is; name that."
                )
            elif spells:
                raise UsageError(
                    f"`{option}` names {word!r}, which is not in the model's vocabulary as one piece; leave it out."
                )
        return tuple(ids)

    def words(self, ids: Sequence[int]) -> list[WordSpan]:
        """Group the pieces of a caption (END not among them) into words."""
        return [word for word, _ in self._words(ids)]

    def text(self, ids: Sequence[int]) -> str:
        """Write the pieces of a caption (END not among them) as a person would read them."""
        rules = self.joining
        text = ""
        glued = True
        for word, spaced in self._words(ids):
            if not word.text:  # a `word_start` that nothing followed
                continue
            separated = spaced and not glued and word.text not in rules.no_space_before
            text += rules.separator + word.text if separated else word.text
            glued = word.text in rules.no_space_after
        return text

    def _words(self, ids: Sequence[int]) -> list[tuple[WordSpan, bool]]:
        """The words, and whether each is written with a separator before it, as far as its pieces know."""
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
        """Whether it begins a word behind the word `before`, with a separator, and its text."""
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
        """The content of `vocab.json`."""
        return {"pieces": list(self.pieces), "joining": asdict(self.joining)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Vocabulary":
        """Read what `as_dict` wrote; ValueError says what is wrong with it."""
        vocabulary = from_dict(cls, data)
        if len(set(vocabulary.pieces)) != len(vocabulary.pieces):
            raise ValueError("the vocabulary holds a piece twice")
        return vocabulary
