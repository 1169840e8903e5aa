"""Finds and reads the photos and texts of a dataset."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path, PurePath
from typing import Any

from caprun.photos.extensions import EXTENSIONS, HIDDEN
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


class PhotoFinder:
    """Finds photos by name, in the folders `first`, in the dataset's own, and in `PHOTO_FOLDERS`.

    Archives are often unpacked into a folder of their own name, so a folder of photos may lie in another one. Every
    folder is listed only once, also for 100,000 photos. Names are compared in Unicode's composed form, because a
    dataset that was copied on a Mac has decomposed ones; upper and lower case are told apart only where both exist.
    The same holds for the folders in a name. A name may lack the ending of its photo.
    """

    def __init__(self, directory: Path, *first: str) -> None:
        self._places: dict[str, list[tuple[Path, dict[str, str]]]] = {}
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
        for name in dict.fromkeys([*names, *plain]):
            path = PurePath(name)
            if path.is_absolute() or ".." in path.parts:
                continue
            own = unicodedata.normalize("NFC", path.name)
            parent = "" if path.parent == PurePath() else str(path.parent)
            for folder, listing in self._listed(parent):
                actual = listing.get(own) or listing.get(own.casefold())
                if actual is not None:
                    return folder / actual
        return None

    def _listed(self, parent: str) -> list[tuple[Path, dict[str, str]]]:
        if parent not in self._places:
            places = [self._inside(folder, parent) for folder in self._folders]
            listed = [(folder, list_files(folder)) for folder in places]
            self._places[parent] = [(folder, _photos_by_name(names)) for folder, names in listed if names]
        return self._places[parent]

    def _inside(self, folder: Path, parent: str) -> Path:
        for part in PurePath(parent).parts:
            if folder not in self._inner:
                self._inner[folder] = by_name(list_folders(folder))
            own = unicodedata.normalize("NFC", part)
            folder /= self._inner[folder].get(own) or self._inner[folder].get(own.casefold()) or part
        return folder


def by_name(names: Sequence[str]) -> dict[str, str]:
    """Maps composed names, and those in one case as far as they are not the name of another file, to files."""
    composed = {unicodedata.normalize("NFC", name): name for name in names}
    return {name.casefold(): actual for name, actual in composed.items()} | composed


def _photos_by_name(names: Sequence[str]) -> dict[str, str]:
    stems = {PurePath(name).stem: name for name in reversed(names) if is_photo_name(name)}
    return {key: stems[stem] for key, stem in by_name(list(stems)).items()} | by_name(names)


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
