"""Detects the format of a dataset of captioned photos, and reads it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, Protocol

from captioner.datasets import coco, flickr, imagefolder, karpathy, sidecar, table
from captioner.datasets.embedded.hub import PREFIX, HubName, HubRows
from captioner.datasets.embedded.image_folder import METADATA, Rows, make_image_folder
from captioner.datasets.embedded.parquet import ParquetRows, dataset_key, find_parquet
from captioner.datasets.example import Example, Problems, Split, split_in, such_as
from captioner.datasets.files import (
    by_likeness,
    folders_within,
    is_photo_name,
    likeness,
    list_files,
    list_folders,
    name_in,
    photos_in,
)
from captioner.errors import CaptionerError
from captioner.output_files import cache_folder


class Format(Protocol):
    """A module that reads a format."""

    NAME: str
    """Name of the format in reports."""
    FILES: str
    """The files that identify the format, for messages."""

    def find(self, directory: Path) -> list[list[Path]]:
        """Returns the caption files in this format, best first; the files in one list are read together."""

    def read(self, directory: Path, files: Sequence[Path], problems: Problems) -> Iterable[Example]:
        """Yields the photos that exist, with their captions; adds faults to `problems`."""


# The first format found is read. Richer formats come first, such as Karpathy's, which has splits. Texts next to
# photos come last, because any folder with photos and texts matches.
_FORMATS: tuple[Format, ...] = (karpathy, imagefolder, flickr, coco, sidecar)
# files with other names come last
_OTHERS = ((imagefolder, imagefolder.find_others), (coco, coco.find_others))


_MISSING = ("nan", "none", "null", "n/a", "na", "<na>")  # as programs write empty table fields


@dataclass(frozen=True)
class Reading:
    """Content of a dataset."""

    directory: Path
    """The photo folder."""
    format: str
    files: tuple[Path, ...]
    """The caption files."""
    examples: tuple[Example, ...]
    """One example per photo and split, in the dataset's order, with all its captions."""
    problems: Problems
    written: str = ""
    """Number, size and folder of photos extracted from a table."""

    @property
    def source(self) -> str:
        """Format and files, for messages."""
        names = such_as([file.name for file in self.files])
        if self.written:
            return f"{self.format}; {self.written}"
        return self.format if names in self.format else f"{self.format} ({names})"

    def in_two_splits(self) -> list[Example]:
        """Returns the examples whose photo is already in another split and could be both trained on and scored."""
        first: dict[Path, Split | None] = {}
        return [e for e in self.examples if first.setdefault(e.image, e.split) != e.split]


def read_dataset(source: Path, cache: Path | None = None) -> Reading:
    """Reads a dataset of captioned photos in any known format.

    Args:
        source: a folder, a Parquet file, or `hf:OWNER/NAME` on the Hugging Face hub.
        cache: the cache folder, by default the user's; photos in table cells are written to it.

    Raises:
        CaptionerError: the dataset does not exist, is not in a known format, or cannot be read.
    """
    if source.as_posix().startswith(PREFIX):
        name = HubName.parse(source)
        return _read_rows(cache, name.key, lambda position: HubRows(source.as_posix(), name, position))
    found = _find(source)
    parquet = find_parquet(source)
    if parquet and not found:
        return _read_rows(cache, dataset_key(source, parquet), lambda _: ParquetRows(source, parquet))
    if not source.is_dir():
        raise CaptionerError(f"There is no dataset folder {source}; name one with --data.")
    folders = (folder for name in list_folders(source) if os.access(folder := source / name, os.R_OK | os.X_OK))
    inside = {folder: known for folder in folders if _has_more(folder) and (known := _find(folder))}
    if not found and len(inside) == 1 and not photos_in(folders_within(next(iter(inside)))):
        found = inside.popitem()[1]  # the captions are in a subfolder
    if not found:
        raise CaptionerError(_unknown(source, list(map(str, inside))))
    others = [file for known in (found[1:], *inside.values()) for _, files in known for file in files]
    return _read(source, *found[0], others=[*others, *parquet])


def _find(directory: Path) -> list[tuple[Format, list[Path]]]:
    """Returns the formats found in a folder, each with its files; the first is the one to read."""
    known = [(module, files) for module in _FORMATS for files in module.find(directory)]
    return known + [(module, files) for module, find in _OTHERS for files in _by_split(find(directory))]


def _by_split(files: Sequence[Path]) -> list[list[Path]]:
    """Groups files: first those of splits, which are read together, then every other file by itself."""
    of_splits = [file for file in files if split_in(file.stem)]
    return [of_splits] * bool(of_splits) + [[file] for file in files if file not in of_splits]


def _read_rows(cache: Path | None, key: str, open_rows: Callable[[Any], Rows]) -> Reading:
    """Reads a table with photos through an image folder."""
    folder = cache_folder(cache) / "photos" / key
    origin, written = make_image_folder(folder, open_rows)
    return replace(_read(folder, imagefolder, [folder / METADATA]), format=origin, written=written)


def _read(directory: Path, module: Format, files: Sequence[Path], others: Sequence[Path] = ()) -> Reading:
    """Reads the files of a format; reports `others`, which also have captions, as unread."""
    problems = Problems()
    instead = such_as([name_in(directory, file) for file in files])
    reasons = dict.fromkeys(others, f"read instead: {instead}; move it away to read this one")
    reasons |= {file: unknown for file in table.find_tables(directory) if (unknown := table.unknown_columns(file))}
    # a captions.txt that matches two formats is read
    unread = reasons.keys() - set(files)
    problems.unread = [f"{name_in(directory, file)} ({why})" for file, why in reasons.items() if file in unread]
    examples = _each_once(_with_words(module.read(directory, files, problems), problems))
    if problems.missing:
        names = list(dict.fromkeys(problems.missing))
        there = by_likeness(folders_within(directory))
        alike = ([name_in(directory, photo) for photo in there.get(likeness(name), [])] for name in names)
        hints = [f" (did you mean {such_as(found)}?)" if found else "" for found in alike]
        problems.missing = [name + hint for name, hint in zip(names, hints, strict=True)]
    problems.uncaptioned = _uncaptioned(directory, examples, problems)
    return Reading(directory, module.NAME, tuple(files), examples, problems)


def _with_words(examples: Iterable[Example], problems: Problems) -> Iterator[Example]:
    """Drops captions without a word, which would teach a model to say nothing, and marks of a missing value."""
    for example in examples:
        words = tuple(
            text for text in example.references if any(map(str.isalnum, text)) and text.lower() not in _MISSING
        )
        problems.wordless += [f"{example.image.name}: {text}" for text in example.references if text not in words]
        if words:
            yield example if words == example.references else replace(example, references=words)


def _each_once(examples: Iterable[Example]) -> tuple[Example, ...]:
    """Merges the examples of each photo, which can be in several rows; they could be drawn for two splits otherwise."""
    once: dict[tuple[Path, Split | None], Example] = {}
    examples = list(examples)
    named = {example.image: example.split for example in examples if example.split}
    for example in examples:
        example = replace(example, split=example.split or named.get(example.image))
        key = (example.image, example.split)
        if key in once:
            example = replace(example, references=once[key].references + example.references)
        once[key] = example
    return tuple(once.values())


def _uncaptioned(directory: Path, examples: Sequence[Example], problems: Problems) -> list[str]:
    """Returns the photos without captions in the folders of the captioned ones."""
    captioned = {example.image for example in examples}
    photos = photos_in(sorted({photo.parent for photo in captioned}))
    found = [name_in(directory, photo) for photo in photos if photo not in captioned]
    return list(dict.fromkeys([*found, *problems.uncaptioned]))


def _has_more(folder: Path) -> bool:
    """Returns whether a folder has more than photos and files that share a photo's name."""
    photos = {photo.stem for photo in photos_in([folder])}
    return bool(list_folders(folder)) or any(PurePath(name).stem not in photos for name in list_files(folder))


def _unknown(directory: Path, inside: Sequence[str]) -> str:
    """Describes the known formats and what was found instead: folders `inside` that are datasets, or files."""
    known = "; ".join(module.FILES for module in _FORMATS)
    said = f"{directory} is not a dataset in a known format; its captions must be in one of: {known}; Parquet files."
    if inside:
        return f"{said} {such_as(inside)} {'are datasets; use one or more' if inside[1:] else 'is a dataset; use it'}."
    folders = folders_within(directory)
    photos = by_likeness(folders)
    for file in (folder / name for folder in folders for name in list_files(folder)):
        if file.suffix.lower() in sidecar.TEXTS and (alike := photos.get(likeness(file.stem))):
            text, photo = name_in(directory, file), name_in(directory, alike[0])
            return f"{said} {text} has the name of {photo}; put each text next to its photo."
    names = [name for name in list_files(directory) if not is_photo_name(name)]
    tables = (name for name in names if name.lower().endswith((".csv", ".tsv", "captions.txt")))
    unknown = (f"{name} {columns}" for name in tables if (columns := table.unknown_columns(directory / name)))
    return f"{said} {next(unknown, f'It has {such_as(names)}')}." if names else said
