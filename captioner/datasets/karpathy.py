"""Karpathy's splits (Karpathy and Fei-Fei, 2015): captions and splits in one file, such as `dataset_coco.json`.

Each of `images` has `filename`, `split`, `sentences` with `raw` text and `tokens`, and in COCO `filepath`, its folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from captioner.datasets.example import Example, Problems, caption_in, split_named
from captioner.datasets.files import PhotoFinder, contains, read_json
from captioner.errors import CaptionerError

NAME = "Karpathy's JSON"
FILES = "Karpathy's dataset_*.json"

_WHAT = "a Karpathy captions JSON file"
_KNOWN = frozenset(("dataset_coco.json", "dataset_flickr8k.json", "dataset_flickr30k.json"))


def find(directory: Path) -> list[list[Path]]:
    """Returns the dataset files, the one with the most photos in the folder first.

    All of Karpathy's files come in one archive, so a folder often has several; files for other photos are left out.
    """
    files = sorted([*directory.glob("dataset.json"), *directory.glob("dataset_*.json")])
    # the library `datasets` writes dataset_infos.json
    files = [file for file in files if file.is_file() and not file.name.startswith("dataset_info")]
    files = [file for file in files if file.name in _KNOWN or contains(file, b'"sentences"')]
    if len(files) > 1:
        photos = PhotoFinder(directory)
        counts = {file: sum(_photo(photos, image) is not None for image in _images(file)) for file in files}
        files.sort(key=lambda file: -counts[file])
        files = files[:1] + [file for file in files[1:] if counts[file]]
    return [[file] for file in files]


def read(directory: Path, files: Sequence[Path], problems: Problems) -> Iterator[Example]:
    """Yields the photos in the order of the file; adds faulty sentences and missing photos to `problems`."""
    photos = PhotoFinder(directory, problems=problems)
    for position, image in enumerate(_images(files[0])):
        where = f"{files[0].name}, image {position}"
        sentences = image.get("sentences") if isinstance(image, dict) else None
        if not isinstance(sentences, list) or not isinstance(image.get("filename"), str):
            problems.malformed.append(where)
            continue
        captions = [_caption(sentence) for sentence in sentences]
        problems.malformed += [f"{where}, sentence {i}" for i, caption in enumerate(captions) if caption is None]
        references = tuple(caption for caption in captions if caption is not None)
        if not references:
            continue
        photo = _photo(photos, image)
        if photo is None:
            problems.missing.append(image["filename"])
        else:
            yield Example(photo, references, split_named(image.get("split")))


def _images(file: Path) -> list[Any]:
    data = read_json(file, _WHAT)
    images = data.get("images") if isinstance(data, dict) else None
    if not isinstance(images, list):
        raise CaptionerError(f"{file} is not {_WHAT}: it has no list of images.")
    return images


def _photo(photos: PhotoFinder, image: Any) -> Path | None:
    name, folder = (image.get("filename"), image.get("filepath")) if isinstance(image, dict) else (None, None)
    if not isinstance(name, str):
        return None
    return photos.find(*([f"{folder}/{name}"] if isinstance(folder, str) and folder else []), name)


def _caption(sentence: Any) -> str | None:
    if not isinstance(sentence, dict):
        return None
    tokens = sentence.get("tokens")
    spoken = " ".join(token for token in tokens if isinstance(token, str)) if isinstance(tokens, list) else None
    return caption_in(sentence.get("raw")) or caption_in(spoken)
