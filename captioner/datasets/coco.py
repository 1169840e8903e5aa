"""COCO captions (Chen et al., 2015): JSON with `images` and `annotations`, one file or one a split."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from captioner.datasets.dataset import Example, Problems, Split
from captioner.datasets.files import find_photos, read_text
from captioner.errors import CaptionerError

NAME = "COCO captions JSON"


def recognises(directory: Path) -> bool:
    """Whether the folder is in this format."""
    return bool(_files(directory))


def read(directory: Path, problems: Problems) -> Iterator[Example]:
    """Yield the photos in the files' order; annotations and photos that are not right go to `problems`."""
    for file in _files(directory):
        names, captions = _parse(file, problems)
        # photos of two splits may have the same name; captions_val2017.json speaks of those in val2017
        photos = find_photos(directory, names.values(), first=file.stem.removeprefix("captions_"))
        for key, name in names.items():
            if key not in captions:
                continue
            if name in photos:
                yield Example(photos[name], tuple(captions[key]), _split(file))
            else:
                problems.missing.append(name)


def _files(directory: Path) -> list[Path]:
    single = directory / "captions.json"
    return [single] if single.is_file() else sorted(directory.glob("annotations/captions_*.json"))


def _split(file: Path) -> Split | None:
    for mark, split in (("train", "train"), ("val", "dev"), ("dev", "dev"), ("test", "test")):
        if mark in file.stem:
            return split  # type: ignore[return-value] # mypy widens the literals of a tuple
    return None


def _parse(file: Path, problems: Problems) -> tuple[dict[Any, str], dict[Any, list[str]]]:
    try:
        data = json.loads(read_text(file))
        images, annotations = data["images"], list(data["annotations"])
        names = {image["id"]: str(image["file_name"]) for image in images}
    except (ValueError, KeyError, TypeError) as error:
        raise CaptionerError(f"{file} is not COCO's JSON of captions ({type(error).__name__}: {error}).") from None
    captions: dict[Any, list[str]] = {}
    for position, annotation in enumerate(annotations):
        try:
            key, caption = annotation["image_id"], annotation["caption"].strip()
            known = key in names
        except (KeyError, TypeError, AttributeError):
            known = False
        if not known or not caption:
            problems.malformed.append(f"{file.name}, annotation {position}")
        else:
            captions.setdefault(key, []).append(caption)
    return names, captions
