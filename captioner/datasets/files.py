"""Finds and reads the photo and text files of a dataset."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import islice, product
from mmap import ACCESS_READ, mmap
from os.path import commonprefix
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import unquote

from caprun.photos.extensions import EXTENSIONS, HIDDEN
from captioner.datasets.example import Problems
from captioner.errors import CaptionerError

PHOTO_FOLDERS = (
    "",
    "images",
    "Images",
    "photos",
    "Flicker8k_Dataset",
    "Flickr8k_Dataset",
    "flickr30k_images",
    "flickr30k-images",
    "train2014",
    "val2014",
    "test2014",
    "train2017",
    "val2017",
    "test2017",
)
"""Folders in which datasets keep their photos."""
_NUMBER = re.compile(r"#\d+$")
_DEPTH = 5  # levels of subfolders


class PhotoFinder:
    """Finds photos by name in the folders `first`, the dataset's own folder, and `PHOTO_FOLDERS`.

    Archives are often unpacked into a folder of the same name, so a photo folder can be inside another one. Each folder
    is listed only once, even for 100,000 photos. Names are compared in Unicode's composed form, because datasets copied
    on a Mac have decomposed names; case is ignored unless several names differ only in case. The same holds for folder
    names. A name can omit the photo's extension. If `problems` is given to report it, a name also matches the only
    photo with the same `likeness`.

    If the first photo is in none of these folders, the photo with the same likeness in `whole`, by default the
    dataset's own folder, determines where the others are, and which prefix to remove from paths written elsewhere.
    """

    def __init__(
        self, directory: Path, *first: str, whole: Path | None = None, problems: Problems | None = None
    ) -> None:
        self._whole, self._problems = whole or directory, problems
        self._outer: PurePath | None = None
        self._listing = cache(lambda folder: _photos_by_name(list_files(folder)))
        self._alike = cache(lambda folder: by_likeness([folder]))
        self._everywhere = cache(lambda: by_likeness(folders_within(self._whole)))
        self._places: dict[str, list[Path]] = {}
        self._inner: dict[Path, dict[str, str]] = {}
        folders = [self._inside(directory, folder) for folder in (*first, *PHOTO_FOLDERS)]
        outer = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
        inner = [self._inside(folder, name) for folder in outer for name in PHOTO_FOLDERS]
        self._folders = list(dict.fromkeys([*outer, *(folder for folder in inner if folder.is_dir())]))

    def find(self, *names: str) -> Path | None:
        """Returns the photo of the first name that exists; a name can include folders.

        Names that lead out of the dataset are skipped. Backslashes can separate folders, and a caption number can
        follow a name, as in `photo.jpg#0`.
        """
        plain = (_NUMBER.sub("", name.replace("\\", "/").strip()) for name in names)
        paths = [p for p in map(PurePath, dict.fromkeys([*names, *plain])) if p.name and ".." not in p.parts]
        ways = (self._named, self._like) if self._outer else (self._named, self._first, self._like)
        for way, path in product(ways, paths):
            if photo := way(path):
                if way != self._named and not any(actual_name(_photos_by_name([photo.name]), p.name) for p in paths):
                    if self._problems is None:
                        continue
                    self._problems.guessed.append(f"{names[0]} ({photo.name})")
                self._outer = self._outer or PurePath()
                return photo
        return None

    def _named(self, path: PurePath) -> Path | None:
        places = self._places_of(path)
        return next((place / own for place in places if (own := actual_name(self._listing(place), path.name))), None)

    def _like(self, path: PurePath) -> Path | None:
        alike = (self._alike(place).get(likeness(path.name), []) for place in self._places_of(path))
        return next((photos[0] for photos in alike if len(photos) == 1), None)

    def _first(self, path: PurePath) -> Path | None:
        """Finds the first photo in an unusual folder, or by its path without leading folders."""
        parents = path.parts[-2::-1]
        ranks: defaultdict[tuple[bool, int], list[Path]] = defaultdict(list)
        for photo in self._everywhere().get(likeness(path.name), []):
            inside = photo.relative_to(self._whole).parts[-2::-1]
            shared = len(commonprefix([inside, parents]))  # noqa: RUF071  (folders, not letters)
            ranks[photo.name == path.name, shared].append(photo)
        (_, shared), photos = max(ranks.items(), default=((False, 0), []))
        outer = parents[shared:]
        is_elsewhere = path.is_absolute() or ":" in path.parts[0] or outer[:1] == (self._whole.resolve().name,)
        if len(photos) != 1 or (outer and not is_elsewhere):
            return None
        self._folders.append(photos[0].parents[shared])
        self._places.clear()
        self._outer = PurePath(*reversed(outer))
        return photos[0]

    def _places_of(self, path: PurePath) -> list[Path]:
        """Returns the photo folders that a path can refer to."""
        if self._outer and path.is_relative_to(self._outer):
            path = path.relative_to(self._outer)
        parent = str(path.parent)
        if parent not in self._places:
            places = [] if path.is_absolute() else [self._inside(folder, parent) for folder in self._folders]
            self._places[parent] = [place for place in places if self._listing(place)]
        return self._places[parent]

    def _inside(self, folder: Path, parent: str) -> Path:
        for part in PurePath(parent).parts:
            if folder not in self._inner:
                self._inner[folder] = by_name(list_folders(folder))
            folder /= actual_name(self._inner[folder], part) or part
        return folder


def by_name(names: Sequence[str]) -> dict[str, str]:
    """Maps composed names to file names; case-folded names too, unless another file has that name."""
    composed = {unicodedata.normalize("NFC", name): name for name in names}
    return {name.casefold(): actual for name, actual in composed.items()} | composed


def actual_name(names: Mapping[str, str], name: str) -> str | None:
    """Returns the file name for a name in any case or Unicode form, given a result of `by_name`."""
    own = unicodedata.normalize("NFC", name)
    return names.get(own) or names.get(own.casefold())


def _photos_by_name(names: Sequence[str]) -> dict[str, str]:
    stems = {PurePath(name).stem: name for name in reversed(names) if is_photo_name(name)}
    return {key: stems[stem] for key, stem in by_name(list(stems)).items()} | by_name(names)


def likeness(name: str) -> str:
    """Returns a key that is equal for names that differ only in extension, case, `%20`, or a number's leading zeros."""
    own = PurePath(unquote(name.replace("\\", "/"))).name
    stem = PurePath(own).stem if is_photo_name(own) else own
    number = re.fullmatch(r"0*(\d+)(\.0)?", stem)
    return number[1] if number else unicodedata.normalize("NFC", stem).casefold()


def by_likeness(folders: Iterable[Path]) -> dict[str, list[Path]]:
    """Returns the photos in some folders, by the likeness of their names."""
    found: defaultdict[str, list[Path]] = defaultdict(list)
    for photo in photos_in(folders):
        found[likeness(photo.name)].append(photo)
    return found


def photos_in(folders: Iterable[Path]) -> list[Path]:
    """Returns the photos in some folders."""
    return [folder / name for folder in folders for name in list_files(folder) if is_photo_name(name)]


def folders_within(directory: Path) -> list[Path]:
    """Returns a dataset's folder and the readable folders up to `_DEPTH` levels inside it, each once despite links."""
    found: dict[str, Path] = {}
    seen: set[str] = set()  # links can form cycles
    for path, names, _ in os.walk(directory, followlinks=True):
        real, depth = os.path.realpath(path), len(Path(path).relative_to(directory).parts)
        names[:] = sorted(n for n in names if depth < _DEPTH and real not in seen and not n.startswith(HIDDEN))
        seen.add(real)
        found.setdefault(real, Path(path))
    return list(found.values())


def find_files(directory: Path, names: Iterable[str]) -> list[Path]:
    """Returns the files that exist under these names, in any case; a name can include a folder."""
    folders, listed = by_name(list_folders(directory)), cache(lambda folder: by_name(list_files(folder)))
    paths = map(PurePath, names)
    places = ((directory / (actual_name(folders, path.parent.name) or path.parent), path.name) for path in paths)
    return [place / own for place, name in places if (own := actual_name(listed(place), name))]


def list_files(folder: Path) -> list[str]:
    """Returns the sorted names of the files in a folder, without `HIDDEN` names; empty if there is no folder.

    Raises:
        CaptionerError: the folder cannot be listed.
    """
    return _list(folder, os.DirEntry.is_file)


def list_folders(folder: Path) -> list[str]:
    """Returns the sorted names of the folders in a folder; see `list_files`."""
    return _list(folder, os.DirEntry.is_dir)


def _list(folder: Path, is_kind: Callable[[os.DirEntry[str]], bool]) -> list[str]:
    def is_wanted(entry: os.DirEntry[str]) -> bool:
        try:
            return not entry.name.startswith(HIDDEN) and is_kind(entry)
        except OSError:  # a link into a folder without permission
            return False

    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if is_wanted(entry))
    except PermissionError as error:
        raise CaptionerError(f"The folder {folder} cannot be listed: {error.strerror}.") from None
    except (OSError, ValueError):  # a malformed name can contain NUL or be too long
        return []


def is_photo_name(name: str) -> bool:
    """Returns whether a file name has the extension of a known photo format."""
    return PurePath(name).suffix.lower() in EXTENSIONS


def name_in(directory: Path, photo: Path) -> str:
    """Returns a photo's path relative to the dataset's folder, which need not contain it."""
    return os.path.relpath(photo, directory)


def read_text(file: Path) -> str:
    r"""Returns UTF-8 text without byte order marks (concatenated files have several); all lines end in \n.

    Raises:
        CaptionerError: the file cannot be read, or is not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8").replace("\ufeff", "")
    except OSError as error:
        raise CaptionerError(f"{file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise CaptionerError(f"{file} is not UTF-8 text; convert it first.") from None


def first_lines(file: Path, count: int) -> list[str]:
    """Returns the beginnings of the first non-blank lines, to recognise a format; padded with empty lines."""
    try:
        with file.open(encoding="utf-8-sig", errors="replace") as lines:
            wanted = islice((line for line in iter(lambda: lines.readline(4096), "") if line.strip()), count)
            return [*(line.rstrip("\n") for line in wanted), *[""] * count][:count]
    except OSError:
        return [""] * count


def first_line(file: Path) -> str:
    """Returns the beginning of the first non-blank line without surrounding white space; see `first_lines`."""
    return first_lines(file, 1)[0].strip()


def contains(file: Path, *patterns: bytes) -> bool:
    """Returns whether each of several regular expressions occurs in a file, to recognise a format."""
    try:
        with file.open("rb") as opened, mmap(opened.fileno(), 0, access=ACCESS_READ) as content:
            return all(re.search(pattern, content) for pattern in patterns)
    except (OSError, ValueError):  # an empty file cannot be mapped
        return False


def unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Makes a JSON object (`object_pairs_hook`); the json module itself keeps only the last value of a repeated key.

    Raises:
        LookupError: a key has different values.
    """
    found = dict(pairs)
    if len(found) < len(pairs) and (hidden := [key for key, value in pairs if found[key] != value]):
        raise LookupError(f"an object has the key {hidden[0]!r} twice; give it one value")
    return found


def read_json(file: Path, what: str) -> Any:
    """Reads a JSON file.

    Args:
        file: path of the file.
        what: noun for the expected content, used in errors.

    Raises:
        CaptionerError: the file cannot be read, is not JSON, or has an object with two values for a key.
    """
    try:
        return json.loads(read_text(file), object_pairs_hook=unique_keys)
    except (ValueError, LookupError, RecursionError) as error:
        raise CaptionerError(f"{file} is not {what} ({type(error).__name__}: {error}).") from None
