"""Where a dataset's photos and texts are."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path, PurePath
from typing import Any

from caprun.photos.extensions import EXTENSIONS
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
"""Where datasets keep their photos."""


class PhotoFinder:
    """Finds photos by name, in the folders `first`, the dataset's own, and those that datasets keep them in.

    Every folder is listed once, so that a dataset of 100,000 photos is not asked 100,000 times. Names are compared in
    Unicode's composed form: a copy that went through a Mac spells them decomposed.
    """

    def __init__(self, directory: Path, *first: str) -> None:
        self._folders = [directory / folder for folder in (*first, *PHOTO_FOLDERS)]
        self._folders = [folder for folder in dict.fromkeys(self._folders) if folder.is_dir()]
        self._places: dict[str, list[tuple[Path, dict[str, str]]]] = {}

    def find(self, *names: str) -> Path | None:
        """The photo that has the first of these names that is there; names may hold folders.

        Names that lead out of the dataset are not looked for.
        """
        for name in names:
            if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
                continue
            parent, own = os.path.split(name)
            for folder, listing in self._listed(parent):
                actual = listing.get(unicodedata.normalize("NFC", own))
                if actual is not None:
                    return folder / actual
        return None

    def _listed(self, parent: str) -> list[tuple[Path, dict[str, str]]]:
        if parent not in self._places:
            places = [(folder / parent, list_files(folder / parent)) for folder in self._folders]
            self._places[parent] = [
                (folder, {unicodedata.normalize("NFC", name): name for name in names})
                for folder, names in places
                if names
            ]
        return self._places[parent]


def list_files(folder: Path) -> list[str]:
    """Names of the files in a folder, in order; none if there is no such folder.

    Raises:
        CaptionerError: the folder may not be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if _is_file(entry))
    except PermissionError as error:
        raise CaptionerError(f"The folder {folder} cannot be listed: {error.strerror}.") from None
    except (OSError, ValueError):  # a malformed row may name a folder with a NUL, or longer than names can be
        return []


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to where we may not look
        return False


def is_photo_name(name: str) -> bool:
    """Whether a file of this name would be a photo of a format that is read."""
    return PurePath(name).suffix.lower() in EXTENSIONS


def read_text(file: Path) -> str:
    r"""Read UTF-8, with or without a byte order mark; lines end in \n, whichever editor wrote them."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise CaptionerError(f"{file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise CaptionerError(f"{file} is not UTF-8 text; convert it first.") from None


def first_line(file: Path) -> str:
    """The first line of a text, or what can be read of it: enough to tell a format by."""
    try:
        with file.open(encoding="utf-8-sig", errors="replace") as lines:
            return lines.readline(4096).strip()
    except OSError:
        return ""


def read_json(file: Path, what: str) -> Any:
    """Read JSON, which `what` says what it should be.

    Raises:
        CaptionerError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise CaptionerError(f"{file} is not {what} ({type(error).__name__}: {error}).") from None
