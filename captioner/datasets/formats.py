"""Detects the format of a dataset of captioned photos, and reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from captioner.datasets import coco, imagefolder, karpathy, sidecar, table
from captioner.datasets.embedded.hub import PREFIX, HubName, HubRows
from captioner.datasets.embedded.image_folder import METADATA, Rows, make_image_folder
from captioner.datasets.embedded.parquet import ParquetRows, dataset_key, find_parquet
from captioner.datasets.example import Example, Problems, Split, such_as
from captioner.datasets.files import is_photo_name, list_files, list_folders, name_in
from captioner.datasets.flickr import FLICKR8K, FLICKR30K, TOKEN_FILE
from captioner.errors import CaptionerError
from captioner.output_files import cache_folder


class Format(Protocol):
    """A module or an object that reads a format."""

    @property
    def NAME(self) -> str:  # noqa: N802  (a constant of a module)
        """Name of the format in reports."""

    @property
    def FILES(self) -> str:  # noqa: N802
        """The files by which it is recognised, for messages."""

    def find(self, directory: Path) -> list[Path]:
        """Returns the files or folders with the captions; none if the folder is not in this format."""

    def read(self, directory: Path, files: Sequence[Path], problems: Problems) -> Iterable[Example]:
        """Yields the photos that exist, with their captions; adds faults to `problems`."""


# The first format found is read. Richer formats come first, such as Karpathy's, which has splits. Texts beside photos
# come last, because any folder with photos and texts looks like that.
_FORMATS: tuple[Format, ...] = (karpathy, FLICKR30K, table, FLICKR8K, TOKEN_FILE, coco, imagefolder, sidecar)


_MISSING = ("nan", "none", "null", "n/a", "na", "<na>")  # as programs write an empty field of a table


@dataclass(frozen=True)
class Reading:
    """Content of a dataset of captioned photos."""

    directory: Path
    """The folder of the photos."""
    format: str
    files: tuple[Path, ...]
    """The files or folders with the captions."""
    unused: tuple[str, ...]
    """Other formats found in the folder, each with its file."""
    examples: tuple[Example, ...]
    """Each photo once for each of its splits, in the dataset's order, with all its captions."""
    problems: Problems
    written: str = ""
    """Number, size and place of photos that were in a table."""

    @property
    def source(self) -> str:
        """Format and files, for messages."""
        names = such_as([file.name for file in self.files])
        if self.written:
            return f"{self.format}; {self.written}"
        return self.format if names in self.format or self.files[0].is_dir() else f"{self.format} ({names})"

    def in_two_splits(self) -> list[Example]:
        """Returns the photos of a split that an earlier split has too: they would be both trained on and scored."""
        first: dict[Path, Split | None] = {}
        return [e for e in self.examples if first.setdefault(e.image, e.split) != e.split]


def read_dataset(source: Path, cache: Path | None = None) -> Reading:
    """Reads a dataset of captioned photos in any of the known formats.

    Args:
        source: a folder, a Parquet file, or `hf:OWNER/NAME` on the Hugging Face hub.
        cache: the folder of caches, by default the user's; photos that are in a table are written to it.

    Raises:
        CaptionerError: the dataset does not exist or is in no known format, or cannot be read.
    """
    if source.as_posix().startswith(PREFIX):
        name = HubName.parse(source)
        return _read_rows(cache, name.key, lambda position: HubRows(source.as_posix(), name, position))
    found = [(module, files) for module in _FORMATS[:-1] if (files := module.find(source))]
    found = found or [(module, files) for module in _FORMATS[-1:] if (files := module.find(source))]
    if not found and (files := find_parquet(source)):
        return _read_rows(cache, dataset_key(source, files), lambda _: ParquetRows(source, files))
    if not source.is_dir():
        raise CaptionerError(f"There is no dataset folder {source}; name one with --data.")
    if not found:
        raise CaptionerError(_unknown(source))
    return _read(source, found)


def _read_rows(cache: Path | None, key: str, open_rows: Callable[[Any], Rows]) -> Reading:
    """Reads a table with photos by way of an image folder."""
    folder = cache_folder(cache) / "photos" / key
    origin, written = make_image_folder(folder, open_rows)
    return replace(_read(folder, [(imagefolder, [folder / METADATA])]), format=origin, written=written)


def _read(directory: Path, found: Sequence[tuple[Format, list[Path]]]) -> Reading:
    """Reads the first of the formats that were found in a folder."""
    module, files = found[0]
    problems = Problems()
    examples, repeated = _each_once(_with_words(module.read(directory, files, problems), problems))
    problems.repeated = [name_in(directory, photo) for photo in repeated]
    problems.uncaptioned = _uncaptioned(directory, examples, problems)
    # a captions.txt that two formats recognise is not unused
    others = {other.NAME: [file for file in theirs if file not in files] for other, theirs in found[1:]}
    unused = tuple(f"{such_as([file.name for file in theirs])} ({name})" for name, theirs in others.items() if theirs)
    return Reading(directory, module.NAME, tuple(files), unused, examples, problems)


def _with_words(examples: Iterable[Example], problems: Problems) -> Iterator[Example]:
    """Leaves out captions without a word, which would teach a model to say nothing, and marks of a missing value."""
    for example in examples:
        words = tuple(
            text for text in example.references if any(map(str.isalnum, text)) and text.lower() not in _MISSING
        )
        problems.wordless += [f"{example.image.name}: {text}" for text in example.references if text not in words]
        if words:
            yield example if words == example.references else replace(example, references=words)


def _each_once(examples: Iterable[Example]) -> tuple[tuple[Example, ...], tuple[Path, ...]]:
    """Joins the captions of photos that are listed twice, which could otherwise be drawn for two splits."""
    once: dict[tuple[Path, Split | None], Example] = {}
    repeated: dict[Path, None] = {}
    for example in examples:
        key = (example.image, example.split)
        if key in once:
            repeated[example.image] = None
            example = replace(example, references=once[key].references + example.references)
        once[key] = example
    return tuple(once.values()), tuple(repeated)


def _uncaptioned(directory: Path, examples: Sequence[Example], problems: Problems) -> list[str]:
    """Returns the photos without captions in the folders of the captioned ones."""
    captioned = {example.image for example in examples}
    folders = sorted({photo.parent for photo in captioned})
    photos = [folder / name for folder in folders for name in list_files(folder) if is_photo_name(name)]
    found = [name_in(directory, photo) for photo in photos if photo not in captioned]
    return list(dict.fromkeys([*found, *problems.uncaptioned]))


def _unknown(directory: Path) -> str:
    known = "; ".join(module.FILES for module in _FORMATS)
    inside = [directory / folder for folder in list_folders(directory)]
    hint = next((folder for folder in inside if any(module.find(folder) for module in _FORMATS)), None)
    return f"{directory} is not a dataset in a known format; its photos need one of these: {known}; Parquet files." + (
        f" {hint} is one; did you mean that?" if hint else table.unknown_columns(directory)
    )
