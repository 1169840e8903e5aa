"""Hugging Face's image folder: `metadata.jsonl` or `metadata.csv`, for the whole dataset or in the folder of a split.

A row has `file_name`, a path relative to the metadata, and captions: `text`, `caption` or a similar key with a caption
or a list of them, or `caption_0`, `caption_1` and so on. In metadata for the whole dataset, the split is the value of
`split`, or the first folder of `file_name`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from captioner.datasets.example import SPLIT_FOLDERS, Example, Problems, split_named
from captioner.datasets.files import PhotoFinder, read_text, unique_keys
from captioner.datasets.references import References
from captioner.datasets.table import NAME_COLUMNS, rows

NAME = "Hugging Face image folder"
FILES = "Hugging Face's metadata.jsonl or metadata.csv"


def find(directory: Path) -> list[list[Path]]:
    """Returns the metadata of the dataset and of its splits; where a folder has both kinds, the jsonl first."""
    found = zip_longest(*(_metadata(directory / folder) for folder in ("", *SPLIT_FOLDERS)))
    return [[file for file in files if file is not None] for files in found]


def read(directory: Path, files: Sequence[Path], problems: Problems) -> Iterator[Example]:
    """Yields the photos in the order of the files; adds faulty rows and missing photos to `problems`."""
    captions = References(*NAME_COLUMNS, "split")
    for file in files:
        of_file = None if file.parent == directory else split_named(file.parent.name)
        photos = PhotoFinder(file.parent)
        for number, row in _rows(file, problems):
            name, references = next((row[one] for one in NAME_COLUMNS if one in row), None), captions.of(row)
            if not isinstance(name, str) or not name or not references:
                problems.malformed.append(f"{file.relative_to(directory)}:{number}")
                continue
            photo = photos.find(name)
            if photo is None:
                problems.missing.append(str(file.parent.relative_to(directory) / name))
                continue
            folder = name.replace("\\", "/").removeprefix("./").split("/")[0]
            split = of_file or split_named(row.get("split")) or split_named(folder)
            yield Example(photo, references, split)
    problems.columns.append(str(captions))


def _metadata(folder: Path) -> list[Path]:
    lines, table = folder / "metadata.jsonl", folder / "metadata.csv"
    is_table = table.is_file() and rows(read_text(table)) is not None
    return [lines] * lines.is_file() + [table] * is_table


def _rows(file: Path, problems: Problems) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yields each row with its line number; a malformed row is empty."""
    if file.suffix == ".csv":
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
