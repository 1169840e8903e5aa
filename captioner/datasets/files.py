"""Where a dataset's photos and texts are."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from captioner.errors import CaptionerError

_FOLDERS = ("", "images", "Images", "photos", "Flicker8k_Dataset", "train2014", "val2014", "train2017", "val2017")


def find_photos(directory: Path, names: Iterable[str]) -> dict[str, Path]:
    """Find photos by name in the folder or one of the folders that datasets keep them in.

    Names that lead out of the dataset are not looked for.
    """
    folders = [directory / folder for folder in _FOLDERS if (directory / folder).is_dir()]
    found = {}
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            continue
        for folder in folders:
            if (folder / name).is_file():
                found[name] = folder / name
                break
    return found


def read_text(file: Path) -> str:
    """Read UTF-8, with or without a byte order mark."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise CaptionerError(f"{file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise CaptionerError(f"{file} is not UTF-8 text; convert it first.") from None
