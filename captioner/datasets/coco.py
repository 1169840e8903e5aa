"""COCO captions (Chen et al., 2015): JSON with `images` and `annotations`, in one file or in one file per split.

Some copies have a folder for each split with a captions.json without `images`; a photo's name is then in its
annotations, or is its id with 12 digits. VizWiz-Captions (Gurari et al., 2020) and nocaps (Agrawal et al., 2019) use
other file names. VizWiz marks some captions as rejected or precanned; these are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from captioner.datasets.example import SPLIT_FOLDERS, Example, Problems, Split, split_in, split_named, such_as
from captioner.datasets.files import PHOTO_FOLDERS, PhotoFinder, contains, is_photo_name, list_files, read_json
from captioner.datasets.references import captions_in
from captioner.datasets.table import NAME_COLUMNS
from captioner.errors import CaptionerError

NAME = "COCO captions JSON"
FILES = "COCO's captions.json, annotations/captions_*.json or {train,val,test}/captions.json"

_WHAT = "a COCO captions JSON file"
_KEYS = [rf'"({"|".join(keys)})"\s*:'.encode() for keys in (("captions?",), NAME_COLUMNS)]
_LONGEST_ID = 4000  # digits; Python refuses longer numbers


def find(directory: Path) -> list[list[Path]]:
    """Returns the file for all splits, and the files for single splits, which are read together."""
    found = [[directory / "captions.json"]]
    for pattern in ("annotations/captions_*.json", "captions_*.json"):
        found += _by_year(directory, sorted(directory.glob(pattern)))
    found.append([directory / folder / "captions.json" for folder in SPLIT_FOLDERS])
    there = ([path for path in paths if path.is_file()] for paths in found)
    return [paths for paths in there if paths]


def find_others(directory: Path) -> list[Path]:
    """Returns caption files with other names."""
    found = []
    for folder in (directory / "annotations", directory):
        names = list_files(folder)
        photos = {PurePath(name).stem for name in names if is_photo_name(name)}
        files = [folder / name for name in names if name.lower().endswith(".json")]
        # img2dataset writes a JSON file next to each photo, and `datasets` writes dataset_infos.json
        others = (file for file in files if file.stem not in photos and not file.name.startswith("dataset_info"))
        found += [file for file in others if contains(file, *_KEYS)]
    return found


def read(directory: Path, files: Sequence[Path], problems: Problems) -> Iterator[Example]:
    """Yields the photos in the order of the files; adds faulty annotations and missing photos to `problems`."""
    for file in files:
        names, captions, splits = _parse(file, problems)
        # photos of different splits can have the same name; the photos of captions_val2017.json are in val2017
        own = _own_folder(directory, file)
        split = split_in(own)
        folders = (own, *(folder for folder in SPLIT_FOLDERS if split_named(folder) == split))
        places = ("{}", "{}/images", "{}/image", "images/{}")
        first = (place.format(folder) for folder in folders if folder for place in places)
        photos = PhotoFinder(directory, *first, problems=problems)
        for key, name in names.items():
            if key not in captions:
                continue
            photo = photos.find(name, *_by_id(key))
            if photo is None:
                problems.missing.append(name)
            else:
                yield Example(photo, tuple(captions[key]), split or splits.get(key))


def _by_year(directory: Path, files: list[Path]) -> list[list[Path]]:
    """Groups files by year, years with photos first: 2014 and 2017 split the same photos differently."""
    years = {file: match[0] if (match := re.search(r"20\d\d", file.stem)) else "" for file in files}
    there = {
        years[file]
        for file in files
        if any((directory / folder / _own_folder(directory, file)).is_dir() for folder in PHOTO_FOLDERS)
    }
    first, *others = sorted(set(years.values()), key=lambda year: (year in there, year), reverse=True) or [""]
    parts = [[file for file in files if years[file] in ("", first)]]
    return parts + [[file for file in files if years[file] == year] for year in others if year]


def _own_folder(directory: Path, file: Path) -> str:
    """Returns the photo folder of a file's split; empty for a file with all splits."""
    if file.name == "captions.json":
        return "" if file.parent == directory else file.parent.name
    return file.stem.removeprefix("captions_")


def _id(value: object) -> str:
    """Returns an id as text without leading zeros: the same id can be written as 7, 7.0 or "000000000007"."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    return str(int(text)) if text.isdecimal() and len(text) < _LONGEST_ID else text


def _by_id(key: str) -> list[str]:
    return [f"{key.zfill(12)}.jpg"] if key.isdecimal() else []


def _own_name(annotation: Mapping[str, Any], key: str) -> str:
    """Returns the name of a photo in a file without `images`; empty if there is none."""
    names = (annotation.get(column) for column in NAME_COLUMNS if column != "image_id")
    return next((name for name in names if isinstance(name, str)), None) or next(iter(_by_id(key)), key)


def _names(images: Sequence[Any], file: Path, problems: Problems) -> dict[str, str]:
    """Returns the names of photos by id, without ids that several photos share.

    Raises:
        ValueError: no image has an id and a name.
    """
    names: dict[str, set[str]] = {}
    for position, image in enumerate(images):
        key, name = (_id(image.get("id")), image.get("file_name")) if isinstance(image, dict) else ("", None)
        if key and isinstance(name, str):
            names.setdefault(key, set()).add(name)
        else:
            problems.malformed.append(f"{file.name}, image {position}")
    if images and not names:
        raise ValueError("no image has an id and a file_name")
    shared = {key: sorted(of_id) for key, of_id in names.items() if len(of_id) > 1}
    problems.malformed += [f"{file.name}, id {key} is shared by {such_as(of_id)}" for key, of_id in shared.items()]
    return {key: of_id.pop() for key, of_id in names.items() if key not in shared}


def _parse(file: Path, problems: Problems) -> tuple[dict[str, str], dict[str, list[str]], dict[str, Split | None]]:
    """Returns the names, the captions and the splits of photos, by id."""
    data = read_json(file, _WHAT)
    if isinstance(data, dict) and not {"images", "annotations"} & data.keys():  # maps names to captions
        data = [{NAME_COLUMNS[0]: name, "caption": captions} for name, captions in data.items()]
    try:
        annotations = list(data if isinstance(data, list) else data["annotations"])
        named = isinstance(data, dict) and ("images" in data or not annotations)
        names = _names(data["images"], file, problems) if named else {}
        if not (named or annotations):
            raise ValueError("it is empty")
    except (ValueError, KeyError, TypeError) as error:
        raise CaptionerError(f"{file} is not {_WHAT} ({type(error).__name__}: {error}).") from None
    captions: dict[str, list[str]] = {}
    images = (image for image in (data["images"] if named else ()) if isinstance(image, dict))
    splits = {_id(image.get("id")): split_named(image.get("split")) for image in images}
    for position, annotation in enumerate(annotations):
        try:
            key = _id(annotation.get("image_id"))
            references = captions_in({"caption": annotation["caption"]} if "caption" in annotation else annotation)[1]
            if not named and (name := _own_name(annotation, key)):
                key = name
                names[key] = name
            known = key in names
        except (AttributeError, KeyError, TypeError):
            known, references = True, ()
        where = f"{file.name}, annotation {position}"
        if not known or not references:
            problems.malformed.append(where if known else f"{where} (no image has this id)")
        elif annotation.get("is_rejected") or annotation.get("is_precanned"):
            problems.rejected.append(where)
        else:
            captions.setdefault(key, []).extend(references)
            splits[key] = splits.get(key) or split_named(annotation.get("split"))
    return names, captions, splits
