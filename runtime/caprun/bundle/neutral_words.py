"""The gender-neutral words of a bundle: replacements for gendered words and for phrases that become clumsy."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from caprun.bundle.language import is_language_code
from caprun.bundle.plain_data import shown
from caprun.bundle.vocabulary import Vocabulary
from caprun.search.neutral import Neutralizer


@dataclass(frozen=True)
class NeutralWords:
    """Words and phrases of `--neutral`, in pieces of the bundle's vocabulary."""

    language: str
    """Language code, such as `en`."""
    words: Mapping[str, str]
    """Gendered pieces, each with the neutral piece that replaces it: `woman` with `person`."""
    phrases: Mapping[str, str] = field(default_factory=dict)
    """Phrases that neutral words make clumsy, each with its replacement: `a person and a person` with `two people`.
    Both are pieces separated by spaces, and the replacement has no more pieces."""

    def neutralizer(self, vocabulary: Vocabulary) -> Neutralizer:
        """Converts the words to ids of the bundle's vocabulary, for searches; `problems` must be empty."""
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
        """Finds words that a search cannot use, and describes each in a few words; `special` are the special ids."""
        if not is_language_code(self.language):
            yield f"its neutral words have the language {shown(self.language)}, which is not a language code"
        if not self.words:
            yield "its neutral words are empty"
        words = {piece for index, piece in enumerate(vocabulary.pieces) if index not in special}
        phrases = {piece for pair in self.phrases.items() for phrase in pair for piece in phrase.split()}
        for unknown in sorted({*self.words, *self.words.values(), *phrases} - words):
            yield f"its neutral words name {shown(unknown)}, which is not a word in its vocabulary"
        for both in sorted(set(self.words) & set(self.words.values())):
            yield f"its neutral words replace {shown(both)} and replace another word with it"
        for phrase, written in self.phrases.items():
            if not 1 <= len(written.split()) <= len(phrase.split()):
                yield f"its neutral words replace {shown(phrase)} with {shown(written)}, which is longer or empty"
