"""Tables of captions as programs and people write them: CSV with a header, one photo in a row.

A column has the photos' names, others have captions, and one may have the split. Commas, semicolons, tabs and bars may
separate the columns, and a first line `sep=;` may say so. Other columns, such as an index, are ignored.

Not every program quotes its fields. A caption with unquoted separators takes all the fields that are too many, and a
lone quotation mark is a part of its caption. Such rows are reported as repaired.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from captioner.datasets.example import Example, Problems, split_named
from captioner.datasets.files import PhotoFinder, first_lines, is_photo_name, read_text
from captioner.datasets.references import CAPTION_COLUMNS, NUMBERED_COLUMN, References

NAME = "table of captions"
FILES = "a captions.csv with a column of file names and one of captions"

FILE_NAME = "file_name"
"""The key of a photo's name in the rows, whatever its column is called."""
NAME_COLUMNS = (FILE_NAME, "filename", "image", "image_name", "image_path", "file", "path", "photo", "img")
_FILES = ("captions.csv", "captions.txt", "captions.tsv")
_OWN_FORMAT = "image,caption"  # Flickr8k's, in which no row is quoted
_SEPARATORS = ",;\t|"


class Row(NamedTuple):
    """A row of a table."""

    line: int
    """The number of its first line, from 1."""
    values: Mapping[str, str]
    """By column; the photo's name is that of `FILE_NAME`."""
    mended: bool
    """True if its quotation or its separators had to be guessed."""


class _Header(NamedTuple):
    written: list[str]
    """The columns as they are written, in lower case."""
    columns: list[str]
    """The same with `FILE_NAME` for the photo's name."""
    separator: str
    lines: int
    """Number of lines before the first row."""


def find(directory: Path) -> list[Path]:
    """Returns the table, if there is one whose header is understood."""
    files = (directory / name for name in _FILES)
    return [file for file in files if file.is_file() and _is_table(file)][:1]


def read(directory: Path, files: Sequence[Path], problems: Problems) -> Iterator[Example]:
    """Yields the photos in the order of the file; adds faulty rows and missing photos to `problems`."""
    photos, captions = PhotoFinder(directory), References(FILE_NAME, "split")
    for row in rows(read_text(files[0])) or ():
        name, references = row.values.get(FILE_NAME, "").strip(), captions.of(row.values)
        where = f"{files[0].name}:{row.line}"
        if not name or not references:
            problems.malformed.append(where)
            continue
        if row.mended:
            problems.mended.append(where)
        photo = photos.find(name)
        if photo is None:
            problems.missing.append(name)
        else:
            yield Example(photo, references, split_named(row.values.get("split")))
    problems.columns.append(str(captions))


def rows(text: str) -> Iterator[Row] | None:
    """Reads the rows of a table; None if its header is not that of captions."""
    lines = text.split("\n")
    header = _header(lines)
    return None if header is None else _rows(lines, header)


def unknown_columns(directory: Path) -> str:
    """Names the columns of the first table whose header is not understood, in a sentence; empty if there is none."""
    for file in (directory / name for name in ("metadata.csv", *_FILES)):
        lines = first_lines(file, 2)
        if lines[0] and _header(lines) is None:
            return (
                f" {file.name} begins with {lines[0][:60]!r}; a table needs a column of names ({NAME_COLUMNS[0]}, "
                f"{', '.join(NAME_COLUMNS[1:3])} ...) and one of captions ({', '.join(CAPTION_COLUMNS[:4])} ...)."
            )
    return ""


def _is_table(file: Path) -> bool:
    lines = first_lines(file, 2)
    return re.sub(r'[\s"]', "", lines[0]).lower() != _OWN_FORMAT and _header(lines) is not None


def _header(lines: Sequence[str]) -> _Header | None:
    """Finds the separator with which the header names photos and captions."""
    said = re.fullmatch(r"sep=(.)", lines[0].strip(' "'), re.IGNORECASE)
    first = 1 if said else 0
    if first >= len(lines):
        return None
    for separator in said[1] if said else _SEPARATORS:
        written = _lower(_fields(lines[first], separator))
        has_captions = any(one in CAPTION_COLUMNS or NUMBERED_COLUMN.fullmatch(one) for one in written)
        if has_captions and (names := [one for one in NAME_COLUMNS if one in written]):
            columns = [FILE_NAME if one == names[0] else one for one in written]
            return _Header(written, columns, separator, first + 1)
    return None


def _rows(lines: Sequence[str], header: _Header) -> Iterator[Row]:
    written, columns, separator, first = header
    place = columns.index(FILE_NAME)
    captions = [at for at, column in enumerate(columns) if column in CAPTION_COLUMNS]
    at = first
    while at < len(lines):
        end = at + 1
        mended = lines[at].count('"') % 2 == 1
        # a quoted field may have line breaks; but where the next line begins with a photo, a quotation mark was alone
        while mended and end < len(lines) and not _begins_row(lines[end], separator, place):
            mended ^= lines[end].count('"') % 2 == 1
            end += 1
        end = at + 1 if mended else end
        line = "\n".join(lines[at:end])
        fields = line.split(separator) if mended else _fields(line, separator)
        extra = len(fields) - len(columns)
        if extra > 0 and len(captions) == 1:
            caption = captions[0]
            fields[caption : caption + extra + 1] = [separator.join(fields[caption : caption + extra + 1])]
            mended = True
        if line.strip() and _lower(fields) != written:  # some tables repeat their header
            yield Row(at + 1, dict(zip(columns, fields, strict=False)), mended)
        at = end


def _fields(line: str, separator: str) -> list[str]:
    """Splits a row, whose quoted fields may have line breaks."""
    try:
        return next(csv.reader([part + "\n" for part in line.split("\n")], delimiter=separator), [])
    except csv.Error:  # a field is larger than the module allows
        return line.split(separator)


def _lower(fields: Sequence[str]) -> list[str]:
    return [field.strip().lower() for field in fields]


def _begins_row(line: str, separator: str, place: int) -> bool:
    fields = line.split(separator)
    return len(fields) > place and is_photo_name(PurePath(fields[place].strip(' "')).name)
