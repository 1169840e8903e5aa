"""The gender-neutral words of a bundle: what is said in a gendered word's place, and how phrases then read."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from caprun.bundle.plain_data import shown
from caprun.bundle.vocabulary import Vocabulary
from caprun.search.neutral import Neutralizer

_LANGUAGE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")


@dataclass(frozen=True)
class NeutralWords:
    """What `--neutral` says, in pieces of the bundle's vocabulary."""

    language: str
    """Its code, such as `en`."""
    words: Mapping[str, str]
    """A gendered piece to the neutral one that is said in its place: `woman` to `person`."""
    phrases: Mapping[str, str] = field(default_factory=dict)
    """A phrase that neutral words make clumsy to what is written in its place: `a person and a person` to `two people`.
    Both are pieces separated by blanks, and the second has no more of them than the first."""

    def neutralizer(self, vocabulary: Vocabulary) -> Neutralizer:
        """Returns what searches say them with.

        Args:
            vocabulary: of the same bundle; there are no `problems` with it.
        """
        index = {piece: i for i, piece in enumerate(vocabulary.pieces)}
        groups: dict[int, list[int]] = {}
        for gendered, neutral in self.words.items():
            groups.setdefault(index[neutral], []).append(index[gendered])
        phrases = {
            tuple(index[piece] for piece in phrase.split()): tuple(index[piece] for piece in written.split())
            for phrase, written in self.phrases.items()
        }

        def word_starts(ids: Sequence[int]) -> set[int]:
            return {word.positions[0] for word in vocabulary.words(ids)}

        return Neutralizer(groups, phrases, len(vocabulary), word_starts)

    def problems(self, vocabulary: Vocabulary, special: frozenset[int]) -> Iterator[str]:
        """Say what is wrong with them, in a few words each; nothing where a search can use them.

        Args:
            vocabulary: of the bundle.
            special: ids of the pieces that are no words.
        """
        if not _LANGUAGE.fullmatch(self.language):
            yield f"its neutral words are of the language {shown(self.language)}, which is no language code"
        if not self.words:
            yield "its neutral words have no word"
        words = {piece for index, piece in enumerate(vocabulary.pieces) if index not in special}
        phrases = {piece for pair in self.phrases.items() for phrase in pair for piece in phrase.split()}
        for unknown in sorted({*self.words, *self.words.values(), *phrases} - words):
            yield f"its neutral words name {shown(unknown)}, which is no word of its vocabulary"
        for both in sorted(set(self.words) & set(self.words.values())):
            yield f"its neutral words say {shown(both)} in another word's place, and another in its place"
        for phrase, written in self.phrases.items():
            if not 1 <= len(written.split()) <= len(phrase.split()):
                yield f"its neutral words write {shown(written)} for {shown(phrase)}, which is longer or empty"
