"""Caption tables written by programs or by hand: CSV with one photo per row.

One column has the photo names, others have captions, and one can have the split. Commas, semicolons, tabs or bars
separate the columns; a first line such as `sep=;` can name the separator. Other columns, such as an index, are ignored.
Without a header, the caption follows the photo's name.

Not every program quotes its fields. Surplus fields from unquoted separators are joined to the caption, and a lone
quotation mark is part of its caption. Such rows are reported as repaired, unless the caption is last and has no
quotation mark: most copies of Flickr8k are like that.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from captioner.datasets.example import SPLIT_FOLDERS
from captioner.datasets.files import find_files, first_lines, is_photo_name
from captioner.datasets.references import CAPTION_COLUMNS, is_caption_column

FILE_NAME = "file_name"
"""Key of the photo's name in a row, whatever its column is called."""
NAME_COLUMNS = (
    FILE_NAME,
    "filename",
    "image",
    "image_name",
    "image_path",
    "image_id",
    "file",
    "file_path",
    "filepath",
    "path",
    "photo",
    "img",
)
TABLES = ("captions.csv", "captions.txt", "captions.tsv")
"""Names of tables, in order of preference."""
_SEPARATORS = ",;\t|"


class Row(NamedTuple):
    """A row of a table."""

    line: int
    """Number of its first line, from 1."""
    values: Mapping[str, str]
    """Values by column; the photo's name is under `FILE_NAME`."""
    mended: bool
    """True if the quoting or the separators had to be guessed."""


class _Header(NamedTuple):
    written: list[str]
    """The columns as written, in lower case."""
    columns: list[str]
    """The same with `FILE_NAME` for the photo's name."""
    separator: str
    lines: int
    """Number of lines before the first row."""


def rows(text: str) -> Iterator[Row] | None:
    """Reads the rows of a table; None if it is not a caption table."""
    lines = text.split("\n")
    header = _header(lines)
    return None if header is None else _rows(lines, header)


def find_tables(directory: Path, names: Sequence[str] = TABLES) -> list[Path]:
    """Returns the tables with these names, first in a dataset's own folder, then in its split folders."""
    return find_files(directory, [f"{folder}/{name}" for folder in (".", *SPLIT_FOLDERS) for name in names])


def unknown_columns(file: Path) -> str:
    """Describes what is wrong with a table's header; empty if the header is known or the table is empty."""
    lines = first_lines(file, 2)
    if not lines[0] or _header(lines) is not None:
        return ""
    if "\ufffd" in lines[0]:
        return "is not UTF-8 text; convert it first"
    return (
        f"starts with {lines[0][:60]!r}; a table needs a column for file names ({', '.join(NAME_COLUMNS[:3])} ...) "
        f"and one for captions ({', '.join(CAPTION_COLUMNS[:4])} ...)"
    )


def columns_of(file: Path) -> list[str] | None:
    """Returns the columns in a table's header, empty without a header; None if it is not a caption table."""
    header = _header(first_lines(file, 2))
    return header and header.written


def _header(lines: Sequence[str]) -> _Header | None:
    """Finds the separator that makes the header name photos and captions."""
    first = next((at for at, line in enumerate(lines) if line.strip()), 0)
    said = re.fullmatch(r"sep=(.)", lines[first].strip(' "'), re.IGNORECASE)
    first += bool(said)
    if first >= len(lines):
        return None
    separators = said[1] if said else _SEPARATORS
    for separator in separators:
        written = _lower(lines[first].rstrip(separator).split(separator))
        if any(map(is_caption_column, written)) and (names := [one for one in NAME_COLUMNS if one in written]):
            columns = [FILE_NAME if one == names[0] else one for one in written]
            again = [one for one in columns if is_caption_column(one) and columns.count(one) > 1]
            columns = [f"{one}_{at}" if one in again else one for at, one in enumerate(columns)]
            return _Header(written, columns, separator, first + 1)
    for separator in separators:
        fields = lines[first].split(separator)
        place = next((at for at, field in enumerate(fields[:-1]) if _is_photo(field)), None)
        if place is not None:
            # Flickr's tables have the number of the caption after the photo; one caption alone can begin like that
            two = [line.split(separator, place + 2)[place + 1 :] for line in lines[first : first + 2] if line.strip()]
            number = [""] * all(len(rest) == 2 and rest[0].strip().isdecimal() for rest in two)
            return _Header([], [*[""] * place, FILE_NAME, *number, "caption"], separator, first)
    return None


def _rows(lines: Sequence[str], header: _Header) -> Iterator[Row]:
    written, columns, separator, first = header
    captions = [at for at, column in enumerate(columns) if is_caption_column(column)]
    place = columns.index(FILE_NAME)
    if captions[0] < place:
        place -= len(columns)  # counted from the end, because captions can contain separators
    at = first
    while at < len(lines):
        end = at + 1
        mended = lines[at].count('"') % 2 == 1
        # a quoted field can have line breaks; but if the next line has a photo's name, the quotation mark was alone
        while mended and end < len(lines) and not _has_photo(lines[end if place >= 0 else end - 1], separator, place):
            mended ^= lines[end].count('"') % 2 == 1
            end += 1
        line = "\n".join(lines[at:end])
        fields = None if mended else _fields(line, separator, len(columns))
        mended = fields is None
        if mended:  # rows not quoted as in CSV have no line breaks
            line, end = lines[at], at + 1
        fields = line.split(separator) if fields is None else fields
        while len(fields) > len(columns) and not fields[-1].strip():
            del fields[-1]
        extra = len(fields) - len(columns)
        if extra > 0 and len(captions) == 1:
            caption = captions[0]
            fields[caption : caption + extra + 1] = [separator.join(fields[caption : caption + extra + 1])]
            mended |= '"' in line or caption < len(columns) - 1
        elif extra > 0:
            fields = []  # any of the captions can contain the separators
        if line.strip() and _lower(fields) != written:  # some tables repeat the header
            values = dict(zip(columns, fields, strict=False))
            values[FILE_NAME] = values.get(FILE_NAME, "").strip(' "')
            yield Row(at + 1, values, mended)
        at = end


def _fields(line: str, separator: str, count: int) -> list[str] | None:
    """Splits a row, whose quoted fields can have line breaks; returns None if it is not quoted as in CSV.

    Spaces before fields are dropped if that leaves `count` fields.
    """
    for skip in (True, False):
        parts = [part + "\n" for part in line.rstrip(" ").split("\n")]
        reader = csv.reader(parts, delimiter=separator, skipinitialspace=skip, strict=True)
        try:
            fields = next(reader, [])
        except csv.Error:  # or a field is larger than the module allows
            continue
        if reader.line_num < len(parts):  # the quotation marks are inside fields, so the lines are several rows
            continue
        if len(fields) == count or not skip:
            return fields
    return None


def _lower(fields: Sequence[str]) -> list[str]:
    return [field.strip(' "\n').lower().replace(" ", "_") for field in fields]


def _is_photo(field: str) -> bool:
    return is_photo_name(PurePath(field.strip(' "')).name)


def _has_photo(line: str, separator: str, place: int) -> bool:
    """Returns whether a line has a photo's name at a place, which counts from the end if it is negative."""
    fields = line.split(separator)
    return -len(fields) <= place < len(fields) and _is_photo(fields[place])
