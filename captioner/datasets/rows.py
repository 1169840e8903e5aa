"""Captions in rows, each of a photo's name and a caption: what the formats of Flickr8k and Flickr30k share."""

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
"""Flickr8k's official splits, a photo's name a line."""

TEXT_FOLDERS = ("", "Flickr8k_text")
"""Where Flickr8k's texts are: in the dataset, or in the folder they were unpacked to."""

_STRAY_NUMBER = re.compile(r"(.*\.(?:jpe?g|png))\.\d+", re.IGNORECASE)  # 2258277193_586949ec62.jpg.1 in Flickr8k

Row = tuple[str, str]
"""A photo's name and a caption."""


def read_rows(file: Path, header: str, parse: Callable[[str], Row | None], problems: Problems) -> dict[str, list[str]]:
    """Captions by photo's name, in the order of each photo's first; rows that are none go to `problems`.

    Args:
        file: of UTF-8 text.
        header: the first line, if there is one, without spaces, quotes and capitals.
        parse: a row, or None if it is malformed.
        problems: is added to.
    """
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if not line.strip() or (number == 1 and plain(line) == header):
            continue
        row = parse(line)
        if row is None or not all(row):
            problems.malformed.append(described(file, number, line))
        else:
            captions.setdefault(row[0], []).append(row[1])
    return captions


def plain(line: str) -> str:
    """A header as it is compared: without spaces, quotes and capitals."""
    return re.sub(r'[\s"]', "", line).lower()


def described(file: Path, number: int, line: str) -> str:
    """A row, for a person who looks for it."""
    return f"{file.name}:{number} {line[:60]!r}"


def fields(line: str, count: int) -> list[str] | None:
    """The fields of a row with commas between them, white space around them removed.

    A last field that holds commas is quoted in some copies and not in others.
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
    """Find the photos that are captioned; those that are not there go to `problems`."""
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
    """`photo.jpg.1` is no photo's name: its captions are photo.jpg's if that is there, and nobody's if not."""
    mended: dict[str, list[str]] = {}
    for name, references in captions.items():
        stray = _STRAY_NUMBER.fullmatch(name)
        own = name
        if stray and photos.find(name) is None:
            own = stray[1]
            if photos.find(own) is None:
                problems.malformed += [f"{name} is no photo's name"] * len(references)
                continue
            problems.mended += [f"{name} for {own}"] * len(references)
        mended.setdefault(own, []).extend(references)
    return mended


def listed_splits(directory: Path) -> dict[str, Split]:
    """Splits by photo's name, as far as there are Flickr8k's lists."""
    splits: dict[str, Split] = {}
    for folder in TEXT_FOLDERS:
        for name, split in LISTS.items():
            file = directory / folder / name
            if file.is_file():
                splits |= dict.fromkeys(read_text(file).split(), split)
    return splits
