"""Caption tables: `captions.csv`, Flickr8k's `captions.txt`, Hugging Face's `metadata.jsonl`, and any other name.

A table covers the whole dataset, or one split if it is in the split's folder. A row has `file_name`, a path relative to
the table, and captions: `text`, `caption` or a similar key with a caption or a list, or `caption_0`, `caption_1` and so
on. A row's split comes from the table's folder or name, else from `split` or the first folder in `file_name`, else from
Flickr8k's lists of photos.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any

from captioner.datasets.example import Example, Problems, split_in, split_named, such_as
from captioner.datasets.files import PhotoFinder, first_line, list_files, photos_in, read_text, unique_keys
from captioner.datasets.flickr import listed_splits
from captioner.datasets.references import captions_in, is_caption_column
from captioner.datasets.table import NAME_COLUMNS, TABLES, columns_of, find_tables, rows

NAME = "caption table"
FILES = (
    "captions.csv or captions.txt, Hugging Face's metadata.jsonl or metadata.csv, or another table with a file name "
    "column and a caption column"
)

_NAMES = (TABLES, ("metadata.jsonl", "metadata.csv"))  # in order of preference; the tables of splits are of one kind
_LINES = ".jsonl"
_KEY = re.compile(r'"(\w+)"\s*:')


def find(directory: Path) -> list[list[Path]]:
    """Returns the tables of the dataset and of its splits, which are read together."""
    return [together for names in _NAMES for together in _together(find_tables(directory, names))]


def read(directory: Path, files: Sequence[Path], problems: Problems) -> Iterator[Example]:
    """Yields the photos in the order of the files; adds faulty rows and missing photos to `problems`."""
    seen: dict[str, None] = {}
    taken: dict[str, None] = {}
    for file in files:
        of_folder = split_named(file.parent.name) if file.parent != directory else None
        of_file = of_folder or split_in(file.stem)
        photos = PhotoFinder(file.parent, whole=file.parent if of_folder else directory, problems=problems)
        listed, find_photo = listed_splits(directory, photos), cache(photos.find)  # a photo can have several rows
        for number, row in _rows(file, problems):
            name = next((row[one] for one in NAME_COLUMNS if one in row), None)
            columns, references = captions_in(row)
            seen |= dict.fromkeys(row)
            taken |= dict.fromkeys(columns)
            if isinstance(name, int | float) and not isinstance(name, bool) and name == name:
                name = str(name)  # JSON can have it as a number
            if not isinstance(name, str) or not name or not references:
                problems.malformed.append(f"{file.relative_to(directory)}:{number}")
                continue
            photo = find_photo(name)
            if photo is None:
                problems.missing.append(str(file.parent.relative_to(directory) / name))
                continue
            folder = name.replace("\\", "/").removeprefix("./").split("/")[0]
            split = of_file or split_named(row.get("split")) or split_named(folder) or listed.get(photo)
            yield Example(photo, references, split)
    unused = [column for column in seen if column and column not in (*taken, *NAME_COLUMNS, "split")]
    used = f"captions from {such_as(list(taken)) or 'none'}"
    problems.columns.append(f"{used}; not used: {such_as(unused)}" if unused else used)


def find_others(directory: Path) -> list[Path]:
    """Returns the tables with other names whose header names the columns."""
    photos = {photo.stem for photo in photos_in([directory])}
    files = (directory / name for name in list_files(directory))
    return [file for file in files if file.stem not in photos and _has_columns(file)]


def _together(files: Iterable[Path]) -> list[list[Path]]:
    """Groups tables: the first of each folder, then the second, and so on."""
    of_folders = groupby(filter(_is_known, files), lambda file: file.parent)
    together = zip_longest(*(list(there) for _, there in of_folders))
    return [[file for file in one if file is not None] for one in together]


def _is_known(file: Path) -> bool:
    return file.suffix.lower() == _LINES or columns_of(file) is not None


def _has_columns(file: Path) -> bool:
    if file.suffix.lower() == _LINES:
        keys = [key.lower() for key in _KEY.findall(first_line(file))]
        return any(map(is_caption_column, keys)) and not set(keys).isdisjoint(NAME_COLUMNS)
    return file.suffix.lower() in (".csv", ".tsv", ".txt") and bool(columns_of(file))


def _rows(file: Path, problems: Problems) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yields each row with its line number; a malformed row is empty."""
    if file.suffix.lower() != _LINES:
        for row in rows(read_text(file)) or ():
            if row.mended:
                problems.mended.append(f"{file.name}:{row.line}")
            yield row.line, row.values
        return
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line, object_pairs_hook=unique_keys)
            cells = unique_keys([(key.lower(), one) for key, one in value.items()]) if isinstance(value, dict) else {}
        except (ValueError, LookupError, RecursionError):
            cells = {}
        yield number, cells
