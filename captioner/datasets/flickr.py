r"""Flickr8k and Flickr30k (Hodosh et al., 2013; Young et al., 2014), as distributed by their authors and on Kaggle.

Each row of a text file has a photo's name and a caption, in one of these layouts:

- Flickr8k's `captions.txt`: `image,caption`
- Flickr30k's `results.csv`: `image_name| comment_number| comment`; some copies use commas, or another file name
- `Flickr8k.token.txt` and `results_20130124.token`: `photo.jpg#0\tcaption`, or a space instead of the tab

Flickr8k's official splits are lists of photos.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from caprun.photos.extensions import EXTENSIONS
from captioner.datasets.example import Example, Problems, Split
from captioner.datasets.files import PhotoFinder, find_files, first_line, read_text
from captioner.datasets.references import captions_in
from captioner.datasets.table import FILE_NAME, rows, rows_of_two

_LISTS: dict[str, Split] = {
    "Flickr_8k.trainImages.txt": "train",
    "Flickr_8k.devImages.txt": "dev",
    "Flickr_8k.testImages.txt": "test",
}
_TEXT_FOLDERS = ("", "Flickr8k_text/", "Flickr_TextData/")  # the dataset's folder, or a folder from an archive
_STRAY_NUMBER = re.compile(r"(.*\.(?:jpe?g|png))\.\d+", re.IGNORECASE)  # 2258277193_586949ec62.jpg.1 in Flickr8k


class _Layout(NamedTuple):
    """Layout of a row."""

    header: str
    """The header in lower case, without spaces or quotes."""
    row: re.Pattern[str] | None
    """None for CSV, quoted or not."""


_TABLE = _Layout("image_name,comment_number,comment", None)
# every copy with bars has a row without the second bar: `2199200615.jpg| 4   A dog runs across the grass .`
_BARS = _Layout(
    "image_name|comment_number|comment", re.compile(r"(?P<name>[^|]+)\|\s*\d+(?P<bar>\s*\||\s)\s*(?P<caption>\S.*)")
)
_TOKENS = _Layout("", re.compile(r"(?P<name>[^\t]+)#\d+\s*\t(?P<caption>.*)"))
_PHOTO = rf"(?P<name>[^,;|\t]*?({'|'.join(map(re.escape, EXTENSIONS))}))(#\d+)?:?\s+"
_SPACES = _Layout("", re.compile(_PHOTO + "(?P<caption>.*)", re.IGNORECASE))


@dataclass(frozen=True)
class FlickrFormat:
    """Implements `captioner.datasets.formats.Format`."""

    NAME: str
    FILES: str
    names: tuple[str, ...]
    """Possible names of the file."""
    layout: Callable[[str], _Layout | None]
    """Returns the layout of a file, given its first line; None if the file is something else."""

    def find(self, directory: Path) -> list[list[Path]]:
        """Returns the caption files that exist."""
        return [[file] for file in find_files(directory, self.names) if self.layout(first_line(file))]

    def read(self, directory: Path, files: Sequence[Path], problems: Problems) -> Iterator[Example]:
        """Yields the photos in the order of their first caption; adds faulty rows and missing photos to `problems`."""
        layout = self.layout(first_line(files[0]))
        assert layout is not None, "find checked it"
        # `directory` can be the text folder itself, with the photos next to it
        whole = directory.parent if f"{directory.name}/" in _TEXT_FOLDERS else directory
        photos = PhotoFinder(whole, problems=problems)
        captions = _without_stray_numbers(_captions(files[0], layout, problems), photos, problems)
        splits = _listed_splits(directory, photos)
        for name, references in captions.items():
            photo = photos.find(name)
            if photo is None:
                problems.missing.append(name)
            else:
                yield Example(photo, tuple(references), splits.get(photo))


def _of_flickr30k(first: str) -> _Layout | None:
    """Recognises Flickr30k by its first row, because other files are named results.csv too."""
    header = _header(first)
    if header == _TABLE.header:
        return _TABLE
    return _BARS if header == _BARS.header or re.fullmatch(r"[^|]+\.\w+\s*\|\s*\d+\s*\|.*", first) else None


def _of_tokens(first: str) -> _Layout | None:
    """Recognises rows separated by a tab or a space by the first row."""
    if re.match(r"[^\t]+#\d+\s*\t", first):
        return _TOKENS
    return _SPACES if rows(first) is None and re.match(_PHOTO, first, re.IGNORECASE) else None


FLICKR30K = FlickrFormat(
    "Flickr30k results.csv",
    "Flickr30k's results.csv",
    ("results.csv", "captions.txt", "captions.csv"),
    _of_flickr30k,
)
FLICKR8K = FlickrFormat(
    "Flickr8k captions.txt",
    "Flickr8k's captions.txt",
    ("captions.txt",),
    lambda first: _of_tokens(first) or _TABLE,
)
TOKEN_FILE = FlickrFormat(
    "Flickr token file",
    "Flickr8k.token.txt or Flickr30k's results_20130124.token",
    tuple(folder + name for name in ("Flickr8k.token.txt", "results_20130124.token") for folder in _TEXT_FOLDERS),
    lambda first: _of_tokens(first) or _TOKENS,
)


def _captions(file: Path, layout: _Layout, problems: Problems) -> dict[str, list[str]]:
    """Returns the captions of each photo by its name, in the order of the photos' first captions."""
    captions: dict[str, list[str]] = {}
    text = read_text(file)
    rows = _of_table(text) if layout.row is None else _of_lines(text, layout.header, layout.row)
    for number, row, name, references, mended in rows:
        unknown_header = number == 1 and layout is _TABLE and "." not in name
        if not (name and references) or unknown_header:
            problems.malformed.append(f"{file.name}:{number} {row[:60]!r}")
            continue
        if mended:
            problems.mended.append(f"{file.name} {row[:60]!r}")
        captions.setdefault(name, []).extend(references)
    return captions


_Row = tuple[int, str, str, Sequence[str], bool]  # number, row, photo, captions, whether it was repaired


def _of_table(text: str) -> Iterator[_Row]:
    for row in rows_of_two(text):
        # most copies do not quote captions, so an unquoted comma is not a fault
        yield row.line, row.text, row.values[FILE_NAME], captions_in(row.values)[1], row.mended and '"' in row.text


def _of_lines(text: str, header: str, pattern: re.Pattern[str]) -> Iterator[_Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if _header(line) in ("", header):  # some copies repeat the header
            continue
        row = pattern.fullmatch(line)
        name, caption = (row["name"].strip(), row["caption"].strip()) if row else ("", "")
        mended = row is not None and "|" not in row.groupdict().get("bar", "|")
        yield number, line, name, [caption] if caption else [], mended


def _header(line: str) -> str:
    return re.sub(r'[\s"]', "", line).lower()


def _without_stray_numbers(
    captions: dict[str, list[str]], photos: PhotoFinder, problems: Problems
) -> dict[str, list[str]]:
    """Moves captions of `photo.jpg.1` to photo.jpg if only that exists; if neither exists, they are malformed."""
    mended: dict[str, list[str]] = {}
    for name, references in captions.items():
        stray = _STRAY_NUMBER.fullmatch(name)
        own = stray[1] if stray and photos.find(name) is None else name
        if own != name and photos.find(own) is None:
            problems.malformed += [f"{name} is not the name of a photo"] * len(references)
            continue
        if own != name:
            problems.mended += [f"{name} read as {own}"] * len(references)
        mended.setdefault(own, []).extend(references)
    return mended


def _listed_splits(directory: Path, photos: PhotoFinder) -> dict[Path | None, Split]:
    """Returns the splits of photos from Flickr8k's lists; the entry for None (names without a photo) is meaningless."""
    splits: dict[Path | None, Split] = {}
    for folder in _TEXT_FOLDERS:
        for name, split in _LISTS.items():
            file = directory / f"{folder}{name}"
            if file.is_file():
                splits |= dict.fromkeys(map(photos.find, read_text(file).split("\n")), split)
    return splits
