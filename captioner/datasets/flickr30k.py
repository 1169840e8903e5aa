"""Flickr30k as Kaggle distributes it (Young et al., 2014): `results.csv`, rows `image_name| comment_number| comment`.

Some copies have commas, or call the file captions.txt. In every copy with bars one row has lost its second:
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
_BARS = re.compile(r"[^|]+\.\w+\s*\|\s*\d+\s*\|.*")
_LOST_BAR = re.compile(r"\s*(\d+)\s+(\S.*)")


def find(directory: Path) -> list[Path]:
    """The file of captions, told by its first row: other things are called results.csv too."""
    places = [directory / name for name in ("results.csv", "captions.txt", "captions.csv")]
    return [file for file in places if file.is_file() and _is_ours(first_line(file))][:1]


def read(directory: Path, files: Sequence[Path], problems: Problems) -> Iterator[Example]:
    """Yield the photos in the order of their first caption; rows and photos that are not right go to `problems`."""
    first = first_line(files[0])

    def with_bars(line: str) -> rows.Row | None:
        name, _, rest = line.partition("|")
        number, bar, caption = rest.partition("|")
        if bar:
            return (name.strip(), caption.strip()) if number.strip().isdecimal() else None
        lost = _LOST_BAR.fullmatch(rest)
        if lost is None:
            return None
        problems.mended.append(f"{files[0].name} {line[:60]!r}")
        return name.strip(), lost[2].strip()

    parse = with_bars if "|" in first else _with_commas
    captions = rows.read_rows(files[0], rows.plain(first) if _is_header(first) else "", parse, problems)
    yield from rows.examples(directory, captions, {}, problems)


def _is_ours(first: str) -> bool:
    return _is_header(first) or _BARS.fullmatch(first) is not None


def _is_header(first: str) -> bool:
    return rows.plain(first).replace(",", "|") == _HEADER


def _with_commas(line: str) -> rows.Row | None:
    found = rows.fields(line, 3)
    return (found[0], found[2]) if found and found[1].isdecimal() else None
