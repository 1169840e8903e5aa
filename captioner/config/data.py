"""The `data` section: how photos and captions are prepared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from caprun.bundle.language import is_language_code
from caprun.errors import UsageError
from captioner.config.ranges import Count, Range, Seed, check_ranges

AUTO = "auto"
"""Chooses the tokenizer by the script of the captions."""


@dataclass(frozen=True)
class DataConfig:
    """Settings for preparing photos and captions."""

    image_size: Annotated[int, Range(1, 4096)] = 224
    """Height and width in pixels of the encoder's input."""
    fit: Literal["squash", "crop"] = "squash"
    """Way to make a photo square: `squash` ignores its aspect ratio, `crop` cuts off the ends of its long side."""
    resample: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"
    """Filter used for resizing."""
    jpeg_decoding: Literal["scaled", "full"] = "scaled"
    """`scaled` decodes a JPEG at the smallest of 1/8, 1/4 and 1/2 of its size that leaves both sides at least 1.5
    times `image_size`, `full` at its full size. The runtime does the same."""
    min_count: Count = 5
    """Minimum number of occurrences in the training captions. Rarer words become the unknown word; bpe does not merge
    rarer pairs, and wordpiece splits rarer pieces into smaller ones."""
    views: Annotated[int, Range(1, 100)] = 2
    """Views of each training photo: the photo, its mirror image, then crops. The output of the encoder's frozen part is
    cached for each view if it is no larger than the photo; otherwise photos are read again every epoch."""
    sided_words: tuple[str, ...] = ("left", "right")
    """A photo is never mirrored if one of its captions contains one of these words."""
    max_length: Annotated[int, Range(1, 1000)] = 30
    """Maximum number of pieces in a training caption; longer captions are cut."""
    augment: bool = False
    """Applies new random crops, mirroring and colour changes every epoch; features are then not cached."""
    language: str = ""
    """Language of the captions as a BCP 47 code, such as `zh` or `pt-BR`; empty: unknown."""
    tokenizer: str = AUTO
    """Tokenizer for captions: `word`, `wordpiece:vocab.txt` (BERT's), `bpe`, `spacy`, `spacy:LANG`, or `auto`, which is
    `bpe` for captions in scripts without spaces and `word` for others; a checkpoint records the choice."""
    vocabulary_size: Annotated[int, Range(0, 10**6)] = 0
    """Maximum number of pieces in the vocabulary, including the special ones; 0: no limit (bpe: 8,000)."""
    lower_case: bool = True
    """Converts captions to lower case."""
    punctuation: bool = False
    """Keeps punctuation marks as pieces; otherwise they are removed."""
    splits: tuple[float, float, float] = (80, 10, 10)
    """Relative sizes of train, dev and test, drawn by photo if a dataset has no splits."""
    split_seed: Seed = 0
    """Seed for drawing the splits."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_splits(self.splits)
        check_language(self.language)


def check_splits(splits: Sequence[float]) -> None:
    """Checks the relative sizes of train, dev and test.

    Raises:
        UsageError: a size is negative or not finite, or train or dev is 0.
    """
    if len(splits) != 3 or not math.isfinite(sum(splits)) or min(splits) < 0 or min(splits[:2]) == 0:
        given = " ".join(f"{size:g}" for size in splits)
        raise UsageError(f"The splits {given} are invalid: train and dev must be above 0, and test 0 or more.")


def check_language(code: str) -> None:
    """Checks a language code; an empty string is allowed.

    Raises:
        UsageError: it is not a language code.
    """
    if code and not is_language_code(code):
        raise UsageError(f"The language {code!r} is not a language code; use one such as en, zh or pt-BR.")
