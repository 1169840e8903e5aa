"""ids -> pieces -> text: the one definition of detokenizing.

A tokenizer, whichever it was, leaves a list of printable pieces and the rules by which pieces join into words and
words into text; the runtime needs nothing else of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from caprun.schema import from_dict


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


@dataclass(frozen=True)
class Special:
    """Ids of the pieces that are not words; the runtime never says the first two nor the last."""

    pad: int
    start: int
    end: int
    unk: int


class Word(NamedTuple):
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

    def words(self, ids: Sequence[int]) -> list[Word]:
        """Group the pieces of a caption (END not among them) into words."""
        words: list[Word] = []
        for position, index in enumerate(ids):
            piece = self.pieces[index]
            begins, text = self._begins_word(piece)
            if begins or not words:
                words.append(Word(text, (position,)))
            else:
                words[-1] = Word(words[-1].text + text, (*words[-1].positions, position))
        return words

    def _begins_word(self, piece: str) -> tuple[bool, str]:
        rules = self.joining
        if rules.continuation and piece.startswith(rules.continuation):
            return False, piece.removeprefix(rules.continuation)
        if rules.word_start:
            return piece.startswith(rules.word_start), piece.removeprefix(rules.word_start)
        return True, piece

    def text(self, ids: Sequence[int]) -> str:
        """Write the pieces of a caption (END not among them) as a person would read them."""
        rules = self.joining
        text = ""
        glued = True
        for word in self.words(ids):
            text += word.text if glued or word.text in rules.no_space_before else rules.separator + word.text
            glued = word.text in rules.no_space_after
        return text

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
