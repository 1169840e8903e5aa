"""Scripts of letters and captions, and which scripts are written without spaces between words."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache

HAN_OR_KANA = "Chinese or Japanese"
"""Han characters and kana are one script here, because Japanese mixes them."""
_HAN_OR_KANA = {"Cjk", "Ideographic", "Hiragana", "Katakana", "Katakana-hiragana"}
_UNSPACED = {HAN_OR_KANA, "Thai", "Lao", "Khmer", "Myanmar"}


@lru_cache(maxsize=4096)
def script_of(character: str) -> str:
    """Returns a character's script, such as `Latin`; the standard library has it only in the character's name."""
    name = unicodedata.name(character, "").removeprefix("HALFWIDTH ").removeprefix("FULLWIDTH ")
    script = name.partition(" ")[0].capitalize()
    return HAN_OR_KANA if script in _HAN_OR_KANA else script


@lru_cache(maxsize=4096)
def is_unspaced(character: str) -> bool:
    """Returns whether a character is a letter, digit or combining mark of a script without spaces, such as Thai."""
    return unicodedata.category(character)[0] in "LNM" and script_of(character) in _UNSPACED


@lru_cache(maxsize=4096)
def is_ideograph(character: str) -> bool:
    """Returns whether a character is a Chinese character, which Japanese uses besides kana."""
    return script_of(character) == HAN_OR_KANA and "IDEOGRAPH" in unicodedata.name(character)


def scripts_of(captions: Iterable[str]) -> dict[str, int]:
    """Counts captions by the script of most of their letters, the most frequent script first."""
    found = Counter(map(_script_of_most, captions))
    del found[""]
    return dict(found.most_common())


def _script_of_most(caption: str) -> str:
    """Returns the script of most letters of a caption; empty if it has none."""
    if caption.isascii():  # a shortcut for most captions
        return "Latin" if any(map(str.isalpha, caption)) else ""
    letters = Counter(script_of(character) for character in caption if character.isalpha())
    return letters.most_common(1)[0][0] if letters else ""


def counted(scripts: Mapping[str, int]) -> str:
    """Returns the result of `scripts_of` as text, such as `Latin 9 captions, Thai 1 caption`."""
    return ", ".join(f"{script} {count} caption{'s' * (count != 1)}" for script, count in scripts.items())


def unspaced_share(captions: Iterable[str]) -> float:
    """Returns the share of captions, from 0 to 1, that are in a script without spaces; 0 if none has a letter."""
    scripts = scripts_of(captions)
    return sum(count for script, count in scripts.items() if script in _UNSPACED) / max(1, sum(scripts.values()))
