"""Rebuilds the vocabulary of ljm565's captioner, which it saves nowhere, from the captions that it was trained on."""

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
_SEED, _VALIDATION = 999, 1000  # of its configuration; rows that it draws for validation


def words_of_training(folder: Path, size: int) -> list[str]:
    """Returns the special words and the most frequent words of the training captions, in order of their count.

    It draws the rows of `captions.txt` that it is trained on, and records neither them nor the words. So these are the
    rows of its own draw, or the split `train`, or all captions: the first with as many words as the weights, or else
    the first with more, as it may have been told to keep so many.

    Args:
        folder: the dataset that it was trained on.
        size: number of words in the weights, the special ones included.

    Raises:
        CaptionerError: the folder is no dataset, or its captions have fewer words.
    """
    counted = [Counter(_words(captions)) for captions in _trainings(folder)]
    fitting = [words for words in counted if len(words) + len(_SPECIAL) >= size]
    if not fitting or size <= len(_SPECIAL):
        most = max(map(len, counted)) + len(_SPECIAL)
        raise CaptionerError(
            f"The training captions of {folder} have {most} words and the weights {size}; name the dataset that the "
            "model was trained on with --data."
        )
    exact = [words for words in fitting if len(words) + len(_SPECIAL) == size]
    return [*_SPECIAL, *(word for word, _ in [*exact, *fitting][0].most_common(size - len(_SPECIAL)))]


def _words(captions: Iterable[str]) -> Iterator[str]:
    for caption in captions:
        yield from _REMOVED.sub("", caption.lower()).lower().split()


def _trainings(folder: Path) -> Iterator[list[str]]:
    """Yields the captions that it may have been trained on, the likeliest first."""
    rows = _rows(folder / "captions.txt")
    if len(rows) > _VALIDATION:
        drawn = random.Random(_SEED).sample(range(len(rows)), len(rows) - _VALIDATION)
        yield [rows[row] for row in drawn]
    examples = load_dataset(folder, allow_missing=True).examples
    yield [caption for example in examples if example.split == "train" for caption in example.references]
    yield rows or [caption for example in examples for caption in example.references]


def _rows(file: Path) -> list[str]:
    """Returns the captions of its own format, row by row; none if there is no such file."""
    if not file.is_file():
        return []
    return [row["caption"] for row in csv.DictReader(io.StringIO(read_text(file))) if row.get("caption")]
