"""Flickr8k as it is distributed (Hodosh et al., 2013): `captions.txt`, photos, and the official split lists.

`captions.txt` has a header and rows `image,caption`, five a photo; a caption may hold commas and quotes.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from captioner.datasets.dataset import Example, Problems, Split
from captioner.datasets.files import find_photos, read_text

NAME = "Flickr8k captions.txt"
CAPTIONS = "captions.txt"
_LISTS: dict[str, Split] = {
    "Flickr_8k.trainImages.txt": "train",
    "Flickr_8k.devImages.txt": "dev",
    "Flickr_8k.testImages.txt": "test",
}


def recognises(directory: Path) -> bool:
    """Whether the folder is in this format."""
    return (directory / CAPTIONS).is_file()


def read(directory: Path, problems: Problems) -> Iterator[Example]:
    """Yield the photos in the order of their first caption; rows and photos that are not right go to `problems`."""
    captions: dict[str, list[str]] = {}
    lines = read_text(directory / CAPTIONS).splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip() or (number == 1 and line.lower().replace(" ", "").replace('"', "") == "image,caption"):
            continue
        row = _row(line)
        if row is None:
            problems.malformed.append(f"{CAPTIONS}:{number} {line[:60]!r}")
        else:
            captions.setdefault(row[0], []).append(row[1])
    splits = _splits(directory)
    photos = find_photos(directory, captions)
    for name, references in captions.items():
        if name in photos:
            yield Example(photos[name], tuple(references), splits.get(name))
        else:
            problems.missing.append(name)


def _row(line: str) -> tuple[str, str] | None:
    """A caption with a comma is quoted in some copies and not in others."""
    name, comma, caption = line.partition(",")
    if caption.lstrip().startswith('"'):
        try:
            fields = next(csv.reader([line.rstrip()], strict=True, skipinitialspace=True))
        except csv.Error:
            return None
        if len(fields) != 2:
            return None
        name, caption = fields
    name, caption = name.strip(), caption.strip()
    return (name, caption) if comma and name and caption else None


def _splits(directory: Path) -> dict[str, Split]:
    splits: dict[str, Split] = {}
    for file, split in _LISTS.items():
        if (directory / file).is_file():
            splits |= dict.fromkeys(read_text(directory / file).split(), split)
    return splits
