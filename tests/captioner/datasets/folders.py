"""Writes datasets of any format to a folder and reads them back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from captioner.datasets import load_dataset

Files = dict[str, Any]
Found = list[tuple[str, tuple[str, ...], str | None]]


def write(directory: Path, files: Files, *photos: str) -> Path:
    """Writes a dataset of text files (JSON if the content is not text) and photos; names are paths in the folder."""
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    for photo in photos:
        (directory / photo).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(directory / photo, format="PNG")
    return directory


def found(directory: Path) -> Found:
    """Returns the path in the folder, the captions and the split of each photo."""
    examples = load_dataset(directory).examples
    return [(e.image.relative_to(directory).as_posix(), e.references, e.split) for e in examples]


def without_splits(examples: Found) -> dict[str, tuple[str, ...]]:
    return {name: references for name, references, _ in examples}
