"""Where a dataset's photos and texts are."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from captioner.errors import CaptionerError

_FOLDERS = ("", "images", "Images", "photos", "Flicker8k_Dataset", "train2014", "val2014", "train2017", "val2017")


def find_photos(directory: Path, names: Iterable[str], first: str = "") -> dict[str, Path]:
    """Find photos by name in the folder `first`, the dataset's own or one of those that datasets keep them in.

    Names that lead out of the dataset are not looked for.
    """
    folders = [directory / folder for folder in (first, *_FOLDERS) if (directory / folder).is_dir()]
    found = {}
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            continue
        for folder in folders:
            if _is_file(folder / name):
                found[name] = folder / name
                break
    return found


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a row without a comma may make a name longer than names can be
        return False


def read_text(file: Path) -> str:
    """Read UTF-8, with or without a byte order mark."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise CaptionerError(f"{file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise CaptionerError(f"{file} is not UTF-8 text; convert it first.") from None
