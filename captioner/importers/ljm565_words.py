"""Rebuilds the vocabulary of ljm565's captioner, which it does not save, from its training captions."""

from __future__ import annotations

import csv
import io
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from captioner.datasets import load_dataset
from captioner.datasets.files import read_text
from captioner.errors import CaptionerError

_SPECIAL = ("[PAD]", "[BOS]", "[EOS]", "[UNK]")
_REMOVED = re.compile(r"""[#$%&()*+\-/:;<=>@\[\]^_`{|}~'".,?!]""")
_SEED, _VALIDATION = 999, 1000  # from its configuration; number of validation rows that it draws


def words_of_training(folder: Path, size: int) -> list[str]:
    """Returns the special words and the most frequent words of the training captions, most frequent first.

    The captioner draws its training rows from `captions.txt`, and records neither rows nor words. Candidates are its
    own draw, the split `train`, and all captions: the first with as many words as the weights is used, else the first
    with more, because the vocabulary size can be limited.

    Args:
        folder: the dataset that the model was trained on.
        size: number of words in the weights, including the special ones.

    Raises:
        CaptionerError: the folder is not a dataset, or its captions have fewer words.
    """
    counted = [Counter(_words(captions)) for captions in _trainings(folder)]
    fitting = [words for words in counted if len(words) + len(_SPECIAL) >= size]
    if not fitting or size <= len(_SPECIAL):
        most = max(map(len, counted)) + len(_SPECIAL)
        raise CaptionerError(
            f"The training captions of {folder} have {most} words, but the weights have {size}; use --data to name "
            "the dataset that the model was trained on."
        )
    exact = [words for words in fitting if len(words) + len(_SPECIAL) == size]
    return [*_SPECIAL, *(word for word, _ in [*exact, *fitting][0].most_common(size - len(_SPECIAL)))]


def _words(captions: Iterable[str]) -> Iterator[str]:
    for caption in captions:
        yield from _REMOVED.sub("", caption.lower()).lower().split()


def _trainings(folder: Path) -> Iterator[list[str]]:
    """Yields candidates for the training captions, most likely first."""
    rows = _rows(folder / "captions.txt")
    if len(rows) > _VALIDATION:
        drawn = random.Random(_SEED).sample(range(len(rows)), len(rows) - _VALIDATION)
        yield [rows[row] for row in drawn]
    examples = load_dataset(folder, allow_missing=True).examples
    yield [caption for example in examples if example.split == "train" for caption in example.references]
    yield rows or [caption for example in examples for caption in example.references]


def _rows(file: Path) -> list[str]:
    """Returns the captions of a file in the captioner's own format, row by row; empty if the file does not exist."""
    if not file.is_file():
        return []
    return [row["caption"] for row in csv.DictReader(io.StringIO(read_text(file))) if row.get("caption")]
