"""Describes a dataset and its problems: counts, words, and whether its photos can be opened."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from caprun.batch.progress import Progress
from caprun.errors import ImageError
from caprun.photos.reading import open_photo
from captioner.config import DataConfig
from captioner.datasets.example import SPLITS, Example
from captioner.datasets.files import name_in
from captioner.datasets.formats import read_dataset
from captioner.datasets.splitting import split_examples
from captioner.errors import CaptionerError
from captioner.text.build import build_tokenizer
from captioner.text.metric_words import segmentation, tokenize
from captioner.text.scripts import counted, scripts_of
from captioner.text.tokenizer import Tokenizer

FREQUENT = DataConfig().min_count
"""Number of occurrences that a word needs to be learnt by default."""

_UNLISTED = "unlisted"
_WORDS = 30  # most frequent words in a report
_SHOWN = 10  # problems of each kind in a text report
_CHUNK = 256  # photos opened before an interruption is noticed


@dataclass(frozen=True)
class Spread:
    """Distribution of values; all zero if there are no values."""

    minimum: int
    median: float
    mean: float
    p95: int
    """95th percentile."""
    maximum: int


@dataclass(frozen=True)
class Report:
    """Description of a dataset; photos are named by paths relative to its folder."""

    directory: str
    format: str
    """Format and files of the captions."""
    columns: tuple[str, ...]
    """Descriptions of the table columns that were read."""
    photos: int
    captions: int
    captions_per_photo: Spread
    splits_from: str
    splits: dict[str, dict[str, int]]
    """Number of photos and captions in each split."""
    unlisted: int
    """Number of photos outside the dataset's own splits."""
    scripts: dict[str, int]
    """Number of captions by the script of most of their letters."""
    segmentation: str
    """The unit of the metrics: `words`, `characters`, or `words and characters` for mixed scripts."""
    words_per_caption: Spread
    vocabulary: int
    """Number of distinct words, as the metrics count words."""
    frequent: int
    """Number of words that occur at least `FREQUENT` times."""
    words: tuple[tuple[str, int], ...]
    """The most frequent words, with their counts."""
    opened: int
    """Number of photos opened; 0 if `inspect` was told not to open them."""
    problems: dict[str, list[str]]
    """Every occurrence of each kind of problem; only kinds that occur."""

    def lines(self) -> list[str]:
        """Returns the report as text, with the first few problems of each kind."""
        per_photo, lengths = self.captions_per_photo, self.words_per_caption
        splits = "; ".join(f"{name} {c['photos']} photos, {c['captions']} captions" for name, c in self.splits.items())
        words = (
            f"{self.segmentation} per caption: {lengths.minimum} to {lengths.maximum}, median {lengths.median:g}, "
            f"mean {lengths.mean:.1f}, 95% have at most {lengths.p95}"
        )
        lines = [
            f"dataset: {self.directory}",
            f"format: {self.format}",
            *(f"columns: {columns}" for columns in self.columns),
            f"photos: {self.photos}",
            f"captions: {self.captions}, {per_photo.minimum} to {per_photo.maximum} a photo, mean {per_photo.mean:.2f}",
            f"splits ({self.splits_from}): {splits or 'none'}",
            *([f"photos in no split, not used: {self.unlisted}"] * bool(self.unlisted)),
            f"scripts: {counted(self.scripts) or 'none'}",
            words,
            f"vocabulary: {self.vocabulary} {self.segmentation}, {self.frequent} occur at least {FREQUENT} times",
            *([f"most frequent: {', '.join(f'{word} {count}' for word, count in self.words)}"] * bool(self.words)),
            f"photos opened: {self.opened or 'none'}",
            "problems:" if self.problems else "problems: none found",
        ]
        for kind, found in self.problems.items():
            lines.append(f"  {len(found)} {kind}:")
            lines += [f"    {one if one.isprintable() else repr(one)}" for one in found[:_SHOWN]]
            lines += [f"    ... and {len(found) - _SHOWN} more"] * (len(found) > _SHOWN)
        return lines


def inspect(
    source: Path, config: DataConfig | None = None, *, photos: bool = True, cache: Path | None = None
) -> Report:
    """Describes a dataset, including problems that make training fail.

    Args:
        source: the dataset, see `read_dataset`.
        config: training settings; None for the defaults.
        photos: whether to open every photo, at about ten milliseconds each.
        cache: the cache folder, by default the user's.

    Raises:
        CaptionerError: the dataset does not exist or is not in a known format, its captions cannot be read, or the
            tokenizer is unknown.
    """
    config = config or DataConfig()
    reading = read_dataset(source, cache)
    directory = reading.directory
    examples, splits_from = split_examples(reading.examples, config)
    lengths, words = _words(examples)
    unreadable, same = _open_all(directory, examples) if photos else ([], [])
    split_of = {example.image: example.split or _UNLISTED for example in examples}
    captions: defaultdict[str, list[int]] = defaultdict(list)
    for example in examples:
        captions[example.split or _UNLISTED].append(len(example.references))
    across = [group for group in same if len({split_of[photo] for photo in group} - {_UNLISTED}) > 1]
    problems = {
        "photos cannot be read": unreadable,
        "photos are listed in two splits": _names(directory, [e.image for e in reading.in_two_splits()]),
        "photos are in two splits under different names": [
            " = ".join(f"{split_of[photo]} {name_in(directory, photo)}" for photo in group) for group in across
        ],
        **reading.problems.kinds(),
        **_cut(examples, config),
        "photos are in a split under different names": [
            " = ".join(_names(directory, group)) for group in same if group not in across
        ],
    }
    texts = [caption for example in examples for caption in example.references]
    return Report(
        directory=str(source),
        format=reading.source,
        columns=tuple(reading.problems.columns),
        photos=len(split_of),
        captions=len(lengths),
        captions_per_photo=_spread([len(example.references) for example in examples]),
        splits_from=splits_from,
        splits={s: {"photos": len(captions[s]), "captions": sum(captions[s])} for s in SPLITS if s in captions},
        unlisted=len(captions[_UNLISTED]),
        scripts=scripts_of(texts),
        segmentation=segmentation(texts),
        words_per_caption=_spread(lengths),
        vocabulary=len(words),
        frequent=sum(count >= FREQUENT for count in words.values()),
        words=tuple(sorted(words.items(), key=lambda item: (-item[1], item[0]))[:_WORDS]),
        opened=len(split_of) if photos else 0,
        problems={kind: found for kind, found in problems.items() if found},
    )


def cut_captions(examples: Sequence[Example], tokenizer: Tokenizer) -> dict[str, list[str]]:
    """Returns the photo and length of each training caption that is cut, in the form of `Problems.kinds`."""
    most = tokenizer.config.max_length
    lengths = (
        (example.image.name, len(tokenizer.ids(caption)))
        for example in examples
        if example.split == "train"
        for caption in example.references
    )
    cut = [f"{name} ({length} pieces)" for name, length in lengths if length > most]
    return {f"training captions are longer than data.max_length ({most}) and cut": cut} if cut else {}


def _names(directory: Path, photos: Sequence[Path]) -> list[str]:
    return [name_in(directory, photo) for photo in photos]


def _spread(values: Sequence[int]) -> Spread:
    if not values:
        return Spread(0, 0.0, 0.0, 0, 0)
    array = np.asarray(values)
    p95 = int(np.percentile(array, 95, method="inverted_cdf"))
    return Spread(int(array.min()), float(np.median(array)), float(array.mean()), p95, int(array.max()))


def _words(examples: Sequence[Example]) -> tuple[list[int], Counter[str]]:
    """Returns the lengths of all captions in words, and the count of each word."""
    lengths: list[int] = []
    words: Counter[str] = Counter()
    with Progress("captions", len(examples), "photos") as progress:
        for example in examples:
            for caption in example.references:
                found = tokenize(caption)
                lengths.append(len(found))
                words.update(found)
            progress.advance(1)
    return lengths, words


def _open_all(directory: Path, examples: Sequence[Example]) -> tuple[list[str], list[list[Path]]]:
    """Returns an error message for each unreadable photo, and the groups of photos that have the same pixels."""
    photos = list(dict.fromkeys(example.image for example in examples))
    unreadable: list[str] = []
    by_pixels: defaultdict[bytes, list[Path]] = defaultdict(list)
    workers = min(os.cpu_count() or 1, 8)  # Pillow releases the GIL while it decodes
    with ThreadPoolExecutor(workers) as pool, Progress("opening photos", len(photos), "photos") as progress:
        for first in range(0, len(photos), _CHUNK):
            chunk = photos[first : first + _CHUNK]
            for photo, found in zip(chunk, pool.map(lambda p: _open(directory, p), chunk), strict=True):
                if isinstance(found, str):
                    unreadable.append(found)
                else:
                    by_pixels[found].append(photo)
                progress.advance(1)
    return unreadable, [group for group in by_pixels.values() if len(group) > 1]


def _open(directory: Path, photo: Path) -> bytes | str:
    """Returns a digest of the pixels, which is the same for files that differ in metadata, or an error message."""
    try:
        image = open_photo(photo, name=name_in(directory, photo))
    except ImageError as error:
        return str(error)
    return hashlib.blake2b(image.tobytes(), digest_size=16, person=b"%dx%d" % image.size).digest()


def _cut(examples: Sequence[Example], config: DataConfig) -> dict[str, list[str]]:
    """Returns the training captions that are too long and would be cut."""
    captions = [caption for example in examples if example.split == "train" for caption in example.references]
    if not captions:
        return {}
    try:
        tokenizer = build_tokenizer(config, captions)
    except CaptionerError:
        if config.min_count == 1:
            raise
        return _cut(examples, replace(config, min_count=1))  # too few captions to train on
    return cut_captions(examples, tokenizer)
