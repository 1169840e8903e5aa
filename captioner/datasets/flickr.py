r"""Flickr30k and Flickr8k's token file (Young et al., 2014; Hodosh et al., 2013), as distributed by their authors.

Each row of a text file has a photo's name and a caption, in one of these layouts:

- Flickr30k's `results.csv`: `image_name| comment_number| comment`
- `Flickr8k.token.txt` and `results_20130124.token`: `photo.jpg#0\tcaption`, or a space instead of the tab

Copies with commas, such as Kaggle's captions.txt, are caption tables. Flickr8k's official splits are lists of photos.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from caprun.photos.extensions import EXTENSIONS
from captioner.datasets.example import Example, Problems, Split, caption_in
from captioner.datasets.files import PhotoFinder, find_files, first_line, read_text
from captioner.datasets.table import rows

NAME = "Flickr captions"
FILES = "Flickr30k's results.csv or results_20130124.token, or Flickr8k.token.txt"

_LISTS: dict[str, Split] = {
    "Flickr_8k.trainImages.txt": "train",
    "Flickr_8k.devImages.txt": "dev",
    "Flickr_8k.testImages.txt": "test",
}
_TEXT_FOLDERS = ("", "Flickr8k_text/", "Flickr_TextData/")  # the dataset's folder, or a folder from an archive
_TOKEN_FILES = ("Flickr8k.token.txt", "results_20130124.token")
_STRAY_NUMBER = re.compile(r"(\.(?:jpe?g|png))\.\d+$", re.IGNORECASE)  # 2258277193_586949ec62.jpg.1 in Flickr8k

_HEADER = "image_name|comment_number|comment"
_FIRST_BARS = re.compile(r"[^|]+\.\w+\s*\|\s*\d+\s*\|.*")
# every copy with bars has a row without the second bar: `2199200615.jpg| 4   A dog runs across the grass .`
_BARS = re.compile(r"(?P<name>[^|]+)\|\s*\d+(?P<bar>\s*\||\s)\s*(?P<caption>\S.*)")
_TOKENS = re.compile(r"(?P<name>[^\t]+)#\d+\s*\t(?P<caption>.*)")
_PHOTO = rf"(?P<name>[^,;|\t]*?({'|'.join(map(re.escape, EXTENSIONS))}))(#\d+)?:?\s+"
_SPACES = re.compile(_PHOTO + "(?P<caption>.*)", re.IGNORECASE)


def find(directory: Path) -> list[list[Path]]:
    """Returns the files whose first row is in one of the layouts; other files are named results.csv too."""
    names = ["results.csv", "captions.txt", "captions.csv"]
    names += [folder + name for name in _TOKEN_FILES for folder in _TEXT_FOLDERS]
    return [[file] for file in find_files(directory, names) if _layout(file)]


def read(directory: Path, files: Sequence[Path], problems: Problems) -> Iterator[Example]:
    """Yields an example for each row; adds faulty rows and missing photos to `problems`."""
    file, layout = files[0], _layout(files[0])
    assert layout is not None, "find checked it"
    # `directory` can be the text folder itself, with the photos next to it
    whole = directory.parent if f"{directory.name}/" in _TEXT_FOLDERS else directory
    photos = PhotoFinder(whole, problems=problems)
    splits, find_photo = listed_splits(directory, photos), cache(photos.find)
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if _header(line) in ("", _HEADER):  # some copies repeat the header
            continue
        row = layout.fullmatch(line)
        name, caption = (row["name"].strip(), caption_in(row["caption"])) if row else ("", None)
        own = _STRAY_NUMBER.sub(r"\1", name)
        photo = find_photo(name, own)
        if row is None or caption is None or not name or (photo is None and own != name):
            problems.malformed.append(f"{file.name}:{number} {line[:60]!r}")
        elif photo is None:
            problems.missing.append(name)
        else:
            if own != name or "|" not in row.groupdict().get("bar", "|"):
                problems.mended.append(f"{file.name} {line[:60]!r}")
            yield Example(photo, (caption,), splits.get(photo))


def listed_splits(directory: Path, photos: PhotoFinder) -> dict[Path | None, Split]:
    """Returns the splits of photos from Flickr8k's lists; the entry for None (names without a photo) is meaningless."""
    splits: dict[Path | None, Split] = {}
    for folder in _TEXT_FOLDERS:
        for name, split in _LISTS.items():
            file = directory / f"{folder}{name}"
            if file.is_file():
                splits |= dict.fromkeys(map(photos.find, read_text(file).split("\n")), split)
    return splits


def _layout(file: Path) -> re.Pattern[str] | None:
    """Returns the layout of a file by its first row; None if the file is something else."""
    first = first_line(file)
    if _header(first) == _HEADER or _FIRST_BARS.fullmatch(first):
        return _BARS
    if _TOKENS.match(first):
        return _TOKENS
    return _SPACES if rows(first) is None and _SPACES.match(first) else None


def _header(line: str) -> str:
    return re.sub(r'[\s"]', "", line).lower()
