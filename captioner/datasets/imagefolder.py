"""Hugging Face's image folder: `metadata.jsonl` or `metadata.csv`, for the whole dataset or in the folder of a split.

A row has `file_name`, a path relative to the metadata, and captions: `text`, `caption` or a similar key with a caption
or a list of them, or `caption_0`, `caption_1` and so on. In metadata for the whole dataset, the split is the value of
`split`, or the first folder of `file_name`.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from captioner.datasets.example import SPLIT_FOLDERS, Example, Problems, caption_in, split_named
from captioner.datasets.files import PhotoFinder, first_line, read_text
from captioner.errors import CaptionerError

NAME = "Hugging Face image folder"
FILES = "Hugging Face's metadata.jsonl or metadata.csv"

_COLUMNS = ("text", "texts", "caption", "captions", "sentences", "description", "prompt")
_NUMBERED = re.compile(r"(?:text|caption)_?(\d+)")
_PLACE = "file_name"


def find(directory: Path) -> list[Path]:
    """Returns the metadata of the dataset and of its splits; where a folder has both kinds, the jsonl."""
    found = (_metadata(directory / folder) for folder in ("", *SPLIT_FOLDERS))
    return [file for file in found if file is not None]


def read(directory: Path, files: Sequence[Path], problems: Problems) -> Iterator[Example]:
    """Yields the photos in the order of the files; adds faulty rows and missing photos to `problems`."""
    for file in files:
        of_file = None if file.parent == directory else split_named(file.parent.name)
        photos = PhotoFinder(file.parent)
        for number, row in _rows(file):
            name, references = row.get(_PLACE), _references(row)
            if not isinstance(name, str) or not name or not references:
                problems.malformed.append(f"{file.relative_to(directory)}:{number}")
                continue
            photo = photos.find(name, name.replace("\\", "/"))
            if photo is None:
                problems.missing.append(str(file.parent.relative_to(directory) / name))
                continue
            split = of_file or split_named(row.get("split")) or split_named(PurePath(name).parts[0])
            yield Example(photo, references, split)


def _metadata(folder: Path) -> Path | None:
    lines, table = folder / "metadata.jsonl", folder / "metadata.csv"
    if lines.is_file():
        return lines
    # other programs write a metadata.csv too
    return table if table.is_file() and _PLACE in first_line(table).replace('"', "").split(",") else None


def _rows(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yields each row with its line number; a malformed row is empty."""
    text = read_text(file)
    if file.suffix == ".csv":
        table = csv.DictReader(io.StringIO(text))
        try:
            for row in table:
                yield table.line_num, {key: value for key, value in row.items() if isinstance(key, str)}
        except csv.Error as error:
            raise CaptionerError(f"{file} is not valid CSV ({error}); export it again.") from None
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        yield number, value if isinstance(value, dict) else {}


def _references(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the captions of a row, from the first column that has any."""
    numbered = {int(match[1]): value for key, value in row.items() if (match := _NUMBERED.fullmatch(key))}
    columns = [*(row.get(column) for column in _COLUMNS), [numbered[i] for i in sorted(numbered)]]
    for column in columns:
        captions = [caption_in(value) for value in (column if isinstance(column, list) else [column])]
        references = tuple(caption for caption in captions if caption is not None)
        if references:
            return references
    return ()
