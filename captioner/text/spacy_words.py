"""Words from spaCy's blank, rule-based tokenizers, which know a language's contractions and abbreviations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

from caprun.bundle.vocabulary import Vocabulary
from captioner.config import DataConfig
from captioner.errors import CaptionerError
from captioner.text.splitting import joining, lowered, split
from captioner.text.tokenizer import SPECIAL_PIECES, Tokenizer, word_tokenizer
from captioner.text.words import frequent

# spaCy turns hyphens inside words into separate tokens; `split` leaves no other hyphens
_INSIDE_WORDS = ("-",)


class _Part(NamedTuple):
    text: str
    glued: bool  # to the part before it


def build_spacy(config: DataConfig, language: str, captions: Iterable[str]) -> Tokenizer:
    """Builds a tokenizer of the words that spaCy finds in the captions.

    Words that are mostly written without a space before them (`n't`, `'s`) or after them (French `l'`) are joined in
    the same way.

    Args:
        config: see `captioner.text.tokenizer.Tokenizer`.
        language: spaCy's language code, such as `en`.
        captions: the training captions.

    Raises:
        CaptionerError: spaCy is not installed or cannot tokenize the language, or no word is frequent enough.
    """
    model = load_rules(language)
    parts = [_parts(model, caption, config) for caption in captions]
    words = frequent(([part.text for part in caption] for caption in parts), config)
    before, after = _glued(parts)
    rules = joining(
        words,
        before=[*_INSIDE_WORDS, *(word for word in words if word in before)],
        after=[*_INSIDE_WORDS, *(word for word in words if word in after)],
    )
    return restore_spacy(config, language, Vocabulary((*SPECIAL_PIECES, *words), rules))


def restore_spacy(config: DataConfig, language: str, vocabulary: Vocabulary) -> Tokenizer:
    """Restores a tokenizer from the vocabulary of `build_spacy`.

    Raises:
        CaptionerError: spaCy is not installed or cannot tokenize the language.
    """
    model = load_rules(language)
    return word_tokenizer(vocabulary, config, lambda caption: [part.text for part in _parts(model, caption, config)])


def _parts(model: Any, caption: str, config: DataConfig) -> list[_Part]:
    parts = []
    glued = False
    text = _text(caption)
    shown = lowered(text) if config.lower_case else text  # as long as `text`, whose letters are composed
    for token in model(text):
        kept = config.punctuation or token.text in _INSIDE_WORDS or _is_word(token.text)
        if kept and not token.is_space:
            parts.append(_Part(shown[token.idx : token.idx + len(token)], glued))
        glued = kept and not token.whitespace_
    return parts


def _text(caption: str) -> str:
    """Prepares a caption for spaCy: keeps upper case, which its rules use, and puts spaces around marks except periods.

    spaCy knows which periods belong to words (`Mr.`, `a.m.`), but leaves some other marks inside words.
    """
    text, apart = "", True
    for token in split(caption, lower_case=False, punctuation=True):
        is_apart = token.mark and token.text != "."
        text += f" {token.text}" if token.spaced or apart or is_apart else token.text
        apart = is_apart
    return text.strip()


def _is_word(text: str) -> bool:
    return any(character.isalnum() for character in text)


def _glued(captions: Iterable[Sequence[_Part]]) -> tuple[set[str], set[str]]:
    """Returns the words mostly written without a space before them, and the words mostly without one after them."""
    counts, before, after = Counter[str](), Counter[str](), Counter[str]()
    for caption in captions:
        counts.update(part.text for part in caption)
        for left, right in pairwise(caption):
            if right.glued and _is_word(left.text) and _is_word(right.text):
                if left.text.endswith("'"):
                    after[left.text] += 1
                else:
                    before[right.text] += 1
    return (
        {word for word in before if 2 * before[word] > counts[word]},
        {word for word in after if 2 * after[word] > counts[word]},
    )


@lru_cache(maxsize=4)
def load_rules(language: str) -> Any:
    """Returns a language's blank tokenizer, a spacy.tokenizer.Tokenizer.

    Raises:
        CaptionerError: spaCy is not installed or does not have the language.
    """
    try:
        import spacy
    except ImportError:
        raise CaptionerError(
            "data.tokenizer spacy needs the package spacy, which is not installed; run "
            '`pip install "captioner[spacy]"`.'
        ) from None
    try:
        return spacy.blank(language).tokenizer
    except (ImportError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise CaptionerError(
            f"data.tokenizer is spacy:{language}, but spaCy cannot tokenize that language: {reason}."
        ) from None
