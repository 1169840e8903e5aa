"""A folder of photos with texts beside them: `photo.jpg` and `photo.txt`, which has a caption in each line."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from captioner.datasets.example import SPLIT_FOLDERS, Example, Problems, caption_in, split_named
from captioner.datasets.files import PHOTO_FOLDERS, by_name, is_photo_name, list_files, read_text

NAME = "photos with .txt captions beside them"
FILES = "beside each photo a .txt of the same name"


def find(directory: Path) -> list[Path]:
    """Returns the folders with captioned photos: the dataset's own, `PHOTO_FOLDERS`, and those of splits."""
    of_splits = [f"{split}/{folder}" for split in SPLIT_FOLDERS for folder in ("", "images")]
    folders = [directory / folder for folder in (*PHOTO_FOLDERS, *of_splits)]
    return [folder for folder in folders if any(caption for _, caption in _pairs(folder))]


def read(directory: Path, files: Sequence[Path], problems: Problems) -> Iterator[Example]:
    """Yields the photos in the order of their names; adds photos and texts without a partner to `problems`."""
    for folder in files:
        inside = folder.relative_to(directory)
        split = split_named(inside.parts[0]) if inside.parts else None
        alone = {name for name in list_files(folder) if name.lower().endswith(".txt")}
        for name, text in _pairs(folder):
            alone.discard(text or "")
            lines = read_text(folder / text).split("\n") if text else []
            references = tuple(caption for line in lines if (caption := caption_in(line)) is not None)
            if references:
                yield Example(folder / name, references, split)
            else:
                problems.uncaptioned.append(str(inside / name))
        problems.malformed += [f"{inside / name} (no photo has this name)" for name in sorted(alone)]


def _pairs(folder: Path) -> list[tuple[str, str | None]]:
    """Returns the photos of a folder, each with the name of its text or None."""
    names = list_files(folder)
    texts = {PurePath(name).stem: name for name in names if name.lower().endswith(".txt")}
    stems = by_name(list(texts))
    pairs = ((name, unicodedata.normalize("NFC", PurePath(name).stem)) for name in names if is_photo_name(name))
    return [(name, texts.get(stems.get(stem) or stems.get(stem.casefold(), ""))) for name, stem in pairs]
