"""Flickr8k as Kaggle distributes it (Hodosh et al., 2013): `captions.txt`, photos, and the official split lists.

`captions.txt` has a header and rows `image,caption`, five for each photo; a caption may contain commas and quotes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from captioner.datasets import rows
from captioner.datasets.example import Example, Problems

NAME = "Flickr8k captions.txt"
FILES = "Flickr8k's captions.txt"


def find(directory: Path) -> list[Path]:
    """Returns the file of captions, if it exists."""
    file = directory / "captions.txt"
    return [file] if file.is_file() else []


def read(directory: Path, files: Sequence[Path], problems: Problems) -> Iterator[Example]:
    """Yields the photos in the order of their first caption; adds faulty rows and missing photos to `problems`."""
    captions = rows.read_rows(files[0], "image,caption", _row, problems)
    yield from rows.examples(directory, captions, rows.listed_splits(directory), problems)


def _row(line: str) -> rows.Row | None:
    found = rows.fields(line, 2)
    return (found[0], found[1]) if found else None
