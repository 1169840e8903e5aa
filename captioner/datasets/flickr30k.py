"""Flickr30k as Kaggle distributes it (Young et al., 2014): `results.csv`, rows `image_name| comment_number| comment`.

Some copies have commas, or name the file captions.txt. Every copy with bars has a row that lacks its second one:
`2199200615.jpg| 4   A dog runs across the grass .`
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from captioner.datasets import rows
from captioner.datasets.example import Example, Problems
from captioner.datasets.files import first_line

NAME = "Flickr30k results.csv"
FILES = "Flickr30k's results.csv"

_HEADER = "image_name|comment_number|comment"
_FIRST = re.compile(r"[^|]+\.\w+\s*\|\s*\d+\s*\|.*")
_WITH_BARS = re.compile(r"([^|]+)\|\s*\d+(\s*\||\s)\s*(\S.*)")


def find(directory: Path) -> list[Path]:
    """Returns the file of captions, recognised by its first row, because other files are named results.csv too."""
    places = [directory / name for name in ("results.csv", "captions.txt", "captions.csv")]
    return [file for file in places if file.is_file() and _is_flickr30k(first_line(file))][:1]


def read(directory: Path, files: Sequence[Path], problems: Problems) -> Iterator[Example]:
    """Yields the photos in the order of their first caption; adds faulty rows and missing photos to `problems`."""
    first = first_line(files[0])

    def with_bars(line: str) -> rows.Row | None:
        row = _WITH_BARS.fullmatch(line)
        if row is None:
            return None
        if "|" not in row[2]:
            problems.mended.append(f"{files[0].name} {line[:60]!r}")
        return row[1].strip(), row[3].strip()

    parse = with_bars if "|" in first else _with_commas
    captions = rows.read_rows(files[0], rows.plain(first) if _is_header(first) else "", parse, problems)
    yield from rows.examples(directory, captions, {}, problems)


def _is_flickr30k(first: str) -> bool:
    return _is_header(first) or _FIRST.fullmatch(first) is not None


def _is_header(first: str) -> bool:
    return rows.plain(first).replace(",", "|") == _HEADER


def _with_commas(line: str) -> rows.Row | None:
    found = rows.fields(line, 3)
    return (found[0], found[2]) if found and found[1].isdecimal() else None
