"""Tables of captions: Hugging Face's `metadata.jsonl` and `metadata.csv`, `captions.csv`, and those of other names.

A table is about the whole dataset or in the folder of a split. A row has `file_name`, a path relative to the table, and
captions: `text`, `caption` or a similar key with a caption or a list of them, or `caption_0`, `caption_1` and so on. A
row's split is that of the table's folder or name; else the value of `split`, or the first folder of `file_name`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from captioner.datasets.example import SPLIT_FOLDERS, Example, Problems, split_named, split_word
from captioner.datasets.files import PhotoFinder, first_line, list_files, read_text, unique_keys
from captioner.datasets.references import References, is_caption_column
from captioner.datasets.table import NAME_COLUMNS, TABLES, columns_of, is_flickr8k, rows

_LINES = ".jsonl"
_KEY = re.compile(r'"(\w+)"\s*:')


@dataclass(frozen=True)
class TableFormat:
    """Implements `captioner.datasets.formats.Format`."""

    NAME: str
    FILES: str
    names: tuple[str, ...]
    """Possible names of the file, the first goes before the others."""

    def find(self, directory: Path) -> list[list[Path]]:
        """Returns the tables of the dataset and of its splits, which are read together."""
        folders = [directory / folder for folder in ("", *SPLIT_FOLDERS)]
        files = ([file for name in self.names if _is_known(file := folder / name)] for folder in folders)
        files = ([file for file in there if file.parent != directory or not is_flickr8k(file)] for there in files)
        return [[file for file in together if file is not None] for together in zip_longest(*files)]

    def read(self, directory: Path, files: Sequence[Path], problems: Problems) -> Iterator[Example]:
        """Yields the photos in the order of the files; adds faulty rows and missing photos to `problems`."""
        captions = References(*NAME_COLUMNS, "split")
        for file in files:
            of_file = split_named(split_word(file.stem) if file.parent == directory else file.parent.name)
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


IMAGE_FOLDER = TableFormat(
    "Hugging Face image folder", "Hugging Face's metadata.jsonl or metadata.csv", ("metadata.jsonl", "metadata.csv")
)
TABLE = TableFormat(
    "table of captions", "a captions.csv or other table with a column of file names and one of captions", TABLES
)


def find_others(directory: Path) -> list[Path]:
    """Returns the tables of any name whose columns are named."""
    return [file for name in list_files(directory) if _has_columns(file := directory / name)]


def _is_known(file: Path) -> bool:
    return file.is_file() and (file.suffix == _LINES or columns_of(file) is not None)


def _has_columns(file: Path) -> bool:
    if file.suffix.lower() == _LINES:
        keys = [key.lower() for key in _KEY.findall(first_line(file))]
        return any(map(is_caption_column, keys)) and not set(keys).isdisjoint(NAME_COLUMNS)
    return file.suffix.lower() in (".csv", ".tsv") and bool(columns_of(file))


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
