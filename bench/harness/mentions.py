"""Subjects that captions mention, and the shares of captions that mention them, for `bench/biases.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.word_lists import Sentence


@dataclass(frozen=True)
class Photo:
    """A photo's caption and references."""

    caption: Sentence
    person: Sentence
    """The first reference."""
    others: tuple[Sentence, ...]
    """The other references."""


def which(sentence: Sentence, one: str, other: str) -> str:
    """Returns which of two subjects a sentence mentions: one of their names, `both` or `none`."""
    found = [subject for subject in (one, other) if sentence.said[subject]]
    return "both" if len(found) == 2 else "".join(found) or "none"


def gender(sentence: Sentence) -> str:
    """Returns the gender that a sentence mentions: `men`, `women`, `both` or `none`."""
    return which(sentence, "men", "women")


def agreed_gender(references: Sequence[Sentence]) -> str:
    """Returns the references' gender: `men`, `women`, `both`, `disagree`, `unsaid` (only people) or `nobody`."""
    found = {gender(reference) for reference in references} - {"none"}
    if not found:
        people = any(one.said[subject] for one in references for subject in ("people", "children", "adults"))
        return "unsaid" if people else "nobody"
    if len(found) == 1:
        return found.pop()
    return "both" if "both" in found else "disagree"


def has(subject: str) -> Callable[[Sentence], bool]:
    """Returns a function that tells whether a sentence has a word of a list."""
    return lambda sentence: bool(sentence.said[subject])


def share(count: float, of: float) -> str:
    """Formats a percentage; a dash where `of` is 0."""
    return f"{100 * count / of:.0f}%" if of else "-"


def both_shares(photos: Sequence[Photo], holds: Callable[[Sentence], bool]) -> str:
    """Formats the share of captions for which a condition holds, with that of people in brackets."""
    return "{} ({})".format(*(share(sum(map(holds, said)), len(photos)) for said in columns(photos)))


def columns(photos: Sequence[Photo]) -> tuple[list[Sentence], list[Sentence]]:
    """Returns the model's captions and the first references."""
    return [photo.caption for photo in photos], [photo.person for photo in photos]
