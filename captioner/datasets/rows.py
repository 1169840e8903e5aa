"""Rows of a photo's name and a caption, as the formats of Flickr8k and Flickr30k have them."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from captioner.datasets.example import Example, Problems, Split
from captioner.datasets.files import PhotoFinder, read_text

LISTS: dict[str, Split] = {
    "Flickr_8k.trainImages.txt": "train",
    "Flickr_8k.devImages.txt": "dev",
    "Flickr_8k.testImages.txt": "test",
}
"""Files with Flickr8k's official splits, a photo's name in each line."""

TEXT_FOLDERS = ("", "Flickr8k_text")
"""Folders of Flickr8k's texts: the dataset itself, or the folder in their archive."""

_STRAY_NUMBER = re.compile(r"(.*\.(?:jpe?g|png))\.\d+", re.IGNORECASE)  # 2258277193_586949ec62.jpg.1 in Flickr8k

Row = tuple[str, str]
"""A photo's name and a caption."""


def read_rows(file: Path, header: str, parse: Callable[[str], Row | None], problems: Problems) -> dict[str, list[str]]:
    """Returns the captions of each photo by its name, in the order of the photos' first captions.

    Args:
        file: UTF-8 text.
        header: the header as `plain` returns it; empty if there is none.
        parse: returns the row of a line, or None if it is malformed.
        problems: receives malformed rows.
    """
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if not line.strip() or (number == 1 and plain(line) == header):
            continue
        row = parse(line)
        if row is None or not all(row):
            problems.malformed.append(f"{file.name}:{number} {line[:60]!r}")
        else:
            captions.setdefault(row[0], []).append(row[1])
    return captions


def plain(line: str) -> str:
    """Returns a line in lower case, without spaces and quotes, to compare headers."""
    return re.sub(r'[\s"]', "", line).lower()


def fields(line: str, count: int) -> list[str] | None:
    """Splits a row at its commas, and strips its fields; returns None if it is malformed.

    A last field that contains commas is quoted in some copies of a dataset and not in others.
    """
    plain_fields = line.split(",", count - 1)
    if plain_fields[-1].lstrip().startswith('"'):
        try:
            plain_fields = next(csv.reader([line.rstrip()], strict=True, skipinitialspace=True))
        except csv.Error:
            return None
    return [field.strip() for field in plain_fields] if len(plain_fields) == count else None


def examples(
    directory: Path, captions: dict[str, list[str]], splits: Mapping[str, Split], problems: Problems
) -> Iterator[Example]:
    """Yields the photos that have captions; adds missing ones to `problems`."""
    photos = PhotoFinder(directory)
    captions = _without_stray_numbers(captions, photos, problems)
    for name, references in captions.items():
        photo = photos.find(name)
        if photo is None:
            problems.missing.append(name)
        else:
            yield Example(photo, tuple(references), splits.get(name))


def _without_stray_numbers(
    captions: dict[str, list[str]], photos: PhotoFinder, problems: Problems
) -> dict[str, list[str]]:
    """Moves captions of `photo.jpg.1`, which is not a photo, to photo.jpg if that exists; else they are malformed."""
    mended: dict[str, list[str]] = {}
    for name, references in captions.items():
        stray = _STRAY_NUMBER.fullmatch(name)
        own = name
        if stray and photos.find(name) is None:
            own = stray[1]
            if photos.find(own) is None:
                problems.malformed += [f"{name} is not the name of a photo"] * len(references)
                continue
            problems.mended += [f"{name} for {own}"] * len(references)
        mended.setdefault(own, []).extend(references)
    return mended


def listed_splits(directory: Path) -> dict[str, Split]:
    """Returns the splits of photos by their names, from Flickr8k's lists that exist."""
    splits: dict[str, Split] = {}
    for folder in TEXT_FOLDERS:
        for name, split in LISTS.items():
            file = directory / folder / name
            if file.is_file():
                splits |= dict.fromkeys(read_text(file).split(), split)
    return splits
