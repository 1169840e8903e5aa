r"""Flickr8k and Flickr30k as their authors distribute them: rows `photo.jpg#0\tcaption`, and Flickr8k's split lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from captioner.datasets import rows
from captioner.datasets.example import Example, Problems

NAME = "Flickr token file"
FILES = "Flickr8k.token.txt or Flickr30k's results_20130124.token"

_NAMES = ("Flickr8k.token.txt", "results_20130124.token")


def find(directory: Path) -> list[Path]:
    """Returns the file of captions, if it exists."""
    places = [directory / folder / name for name in _NAMES for folder in rows.TEXT_FOLDERS]
    return [file for file in places if file.is_file()][:1]


def read(directory: Path, files: Sequence[Path], problems: Problems) -> Iterator[Example]:
    """Yields the photos in the order of their first caption; adds faulty rows and missing photos to `problems`."""
    captions = rows.read_rows(files[0], "", _row, problems)
    yield from rows.examples(directory, captions, rows.listed_splits(directory), problems)


def _row(line: str) -> rows.Row | None:
    numbered, _, caption = line.partition("\t")
    name, mark, number = numbered.strip().rpartition("#")
    return (name, caption.strip()) if mark and number.isdecimal() else None
