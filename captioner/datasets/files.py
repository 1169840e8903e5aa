"""Finds and reads the photos and texts of a dataset."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import islice, product
from os.path import commonprefix
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import unquote

from caprun.photos.extensions import EXTENSIONS, HIDDEN
from captioner.datasets.example import SPLIT_FOLDERS, Problems
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
_DEPTH = 3  # folders in folders


class PhotoFinder:
    """Finds photos by name, in the folders `first`, in the dataset's own, and in `PHOTO_FOLDERS`.

    Archives are often unpacked into a folder of their own name, so a folder of photos may lie in another one. Every
    folder is listed only once, also for 100,000 photos. Names are compared in Unicode's composed form, because a
    dataset that was copied on a Mac has decomposed ones; upper and lower case are told apart only where both exist.
    The same holds for the folders in a name. A name may lack the ending of its photo. Where `problems` are given to
    report it, a name may also be alike (`likeness`) to that of a single photo.

    If the first photo is in none of these folders, the one that is alike to it in `whole`, by default the dataset's own
    folder, tells where the others are, and which folders paths from elsewhere begin with.
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
        """Returns the photo with the first of these names that exists; a name may include folders.

        Names that lead out of the dataset are skipped. Backslashes may separate folders, and the number of a caption
        may follow a name, as in `photo.jpg#0`.
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
        """Finds the first photo in an unusual folder, or without the folders that its path begins with."""
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
        """Returns the folders with photos that a path may lead to."""
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
    """Maps composed names, and those in one case as far as they are not the name of another file, to files."""
    composed = {unicodedata.normalize("NFC", name): name for name in names}
    return {name.casefold(): actual for name, actual in composed.items()} | composed


def actual_name(names: Mapping[str, str], name: str) -> str | None:
    """Returns the file of a name, in any case or form, in a result of `by_name`."""
    own = unicodedata.normalize("NFC", name)
    return names.get(own) or names.get(own.casefold())


def _photos_by_name(names: Sequence[str]) -> dict[str, str]:
    stems = {PurePath(name).stem: name for name in reversed(names) if is_photo_name(name)}
    return {key: stems[stem] for key, stem in by_name(list(stems)).items()} | by_name(names)


def likeness(name: str) -> str:
    """Returns what names of a photo have in common that differ in ending, case, `%20`, or the zeros of a number."""
    own = PurePath(unquote(name.replace("\\", "/"))).name
    stem = PurePath(own).stem if is_photo_name(own) else own
    number = re.fullmatch(r"0*(\d+)(\.0)?", stem)
    return number[1] if number else unicodedata.normalize("NFC", stem).casefold()


def by_likeness(folders: Iterable[Path]) -> dict[str, list[Path]]:
    """Returns the photos in some folders by the likeness of their names."""
    found: defaultdict[str, list[Path]] = defaultdict(list)
    for photo in photos_in(folders):
        found[likeness(photo.name)].append(photo)
    return found


def photos_in(folders: Iterable[Path]) -> list[Path]:
    """Returns the photos in some folders."""
    return [folder / name for folder in folders for name in list_files(folder) if is_photo_name(name)]


def folders_within(directory: Path) -> list[Path]:
    """Returns a dataset's folder, those of photos and splits, theirs, and others that are not locked, a few deep."""
    usual = [directory / folder for folder in (*PHOTO_FOLDERS, *SPLIT_FOLDERS)]
    inner = [folder / name for folder in usual[1:] for name in list_folders(folder)]
    found: dict[str, Path] = {}
    for folder in (*usual, *inner):
        found.setdefault(os.path.realpath(folder), folder)
    seen: set[str] = set()  # links may lead anywhere
    for path, names, _ in os.walk(directory, followlinks=True):
        real, depth = os.path.realpath(path), len(Path(path).relative_to(directory).parts)
        names[:] = sorted(n for n in names if depth < _DEPTH and real not in seen and not n.startswith(HIDDEN))
        seen.add(real)
        found.setdefault(real, Path(path))
    return list(found.values())


def find_files(directory: Path, names: Iterable[str]) -> list[Path]:
    """Returns the files of these names that exist; a name may have a folder, and be in upper or lower case there."""
    folders, listed = by_name(list_folders(directory)), cache(lambda folder: by_name(list_files(folder)))
    paths = map(PurePath, names)
    places = ((directory / (actual_name(folders, path.parent.name) or path.parent), path.name) for path in paths)
    return [place / own for place, name in places if (own := actual_name(listed(place), name))]


def list_files(folder: Path) -> list[str]:
    """Returns the sorted names of the files in a folder, without `HIDDEN` ones; none if the folder does not exist.

    Raises:
        CaptionerError: the folder cannot be listed.
    """
    return _list(folder, os.DirEntry.is_file)


def list_folders(folder: Path) -> list[str]:
    """Returns the names of the folders in a folder as `list_files` returns those of its files."""
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
    except (OSError, ValueError):  # a malformed row may have a NUL in its name, or be too long for a name
        return []


def is_photo_name(name: str) -> bool:
    """Whether a file of this name is a photo in a known format."""
    return PurePath(name).suffix.lower() in EXTENSIONS


def name_in(directory: Path, photo: Path) -> str:
    """Returns the name of a photo in a dataset: its path from the dataset's folder, beside which it may lie."""
    return os.path.relpath(photo, directory)


def read_text(file: Path) -> str:
    r"""Returns UTF-8 text without byte order marks, of which joined files have several; all lines end in \n.

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
    """Returns the beginnings of the first lines with a text, to tell a format by; empty ones if there are no more."""
    try:
        with file.open(encoding="utf-8-sig", errors="replace") as lines:
            wanted = islice((line for line in iter(lambda: lines.readline(4096), "") if line.strip()), count)
            return [*(line.rstrip("\n") for line in wanted), *[""] * count][:count]
    except OSError:
        return [""] * count


def first_line(file: Path) -> str:
    """Returns the beginning of the first line of a text without surrounding white space; see `first_lines`."""
    return first_lines(file, 1)[0].strip()


def unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Makes an object of JSON (`object_pairs_hook`), of which the json module keeps only the last value of a key.

    Raises:
        LookupError: a key has different values.
    """
    found = dict(pairs)
    if len(found) < len(pairs) and (hidden := [key for key, value in pairs if found[key] != value]):
        raise LookupError(f"an object has the key {hidden[0]!r} twice; give it one value")
    return found


def read_json(file: Path, what: str) -> Any:
    """Reads JSON.

    Args:
        file: path of the file.
        what: noun for the expected content, used in errors.

    Raises:
        CaptionerError: the file cannot be read, is not JSON, or has an object with two values of a key.
    """
    try:
        return json.loads(read_text(file), object_pairs_hook=unique_keys)
    except (ValueError, LookupError, RecursionError) as error:
        raise CaptionerError(f"{file} is not {what} ({type(error).__name__}: {error}).") from None
