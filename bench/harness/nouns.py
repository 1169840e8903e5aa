"""Finds nouns in English captions by their position, without a tagger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from harness.word_lists import Words

AGREED = 2
"""Number of references that must agree on a word."""
_IRREGULAR = {"men": "man", "women": "woman", "children": "child"}


def singular(word: str) -> str:
    """Maps the singular and plural of a noun to the same form, which is not necessarily a word."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def nouns(references: Iterable[Words], lists: Mapping[str, frozenset[str]]) -> dict[str, str]:
    """Finds nouns by position, after an article and before a verb or preposition; maps `singular` to spelling."""
    seen, like, written = Counter[str](), Counter[str](), dict[str, Counter[str]]()
    articles = lists["determiners"] | lists["colours"]
    for words in references:
        for before, word, after in zip(("", *words), words, (*words[1:], ""), strict=False):
            one = singular(word)
            seen[one] += 1
            written.setdefault(one, Counter())[word] += 1
            ends = not after or after in lists["function"]
            like[one] += ends and (before in articles or word != one)
    others = lists["function"] | articles | lists["numbers"]
    return {
        word: written[word].most_common(1)[0][0]
        for word, count in seen.items()
        if like[word] >= 0.25 * count and word not in others and not _is_verb(word, seen)
    }


def _is_verb(word: str, seen: Counter[str]) -> bool:
    """Returns whether a word ends with -ing, or its progressive forms occur at least half as often as the word."""
    progressive = (word + "ing", word + word[-1:] + "ing", word.removesuffix("e") + "ing")
    return word.endswith("ing") or 2 * sum(seen[form] for form in progressive) >= seen[word]


def named(
    captions: Sequence[Words], references: Sequence[Sequence[Words]], lists: Mapping[str, frozenset[str]]
) -> list[tuple[str, int, int]]:
    """Returns nouns that references agree on, most frequent first, with their numbers of photos and captions.

    Args:
        captions: a caption of each photo.
        references: the references of each photo.
        lists: words by subject, with `determiners`, `function`, `colours` and `numbers`.
    """
    known = nouns((words for said in references for words in said), lists)
    there, found = Counter[str](), Counter[str]()
    for caption, said in zip(captions, references, strict=True):
        counts = Counter(word for words in said for word in dict.fromkeys(map(singular, words)))
        agreed = [word for word, count in counts.items() if count >= AGREED and word in known]
        there.update(agreed)
        found.update(set(map(singular, caption)) & set(agreed))
    return [(known[word], count, found[word]) for word, count in there.most_common()]
