"""Detects the format of a folder of captioned photos, and reads it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from captioner.datasets import coco, imagefolder, karpathy, sidecar, table
from captioner.datasets.example import Example, Problems, Split, such_as
from captioner.datasets.flickr import FLICKR8K, FLICKR30K, TOKEN_FILE
from captioner.errors import CaptionerError


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


@dataclass(frozen=True)
class Reading:
    """Content of a folder of captioned photos, as it is on disk."""

    format: str
    files: tuple[Path, ...]
    """The files or folders with the captions."""
    unused: tuple[str, ...]
    """Other formats found in the folder, each with its file."""
    examples: tuple[Example, ...]
    """Each photo once for each of its splits, in the dataset's order, with all its captions."""
    problems: Problems
    repeated: tuple[Path, ...]
    """Photos that are listed more than once; their captions are joined."""

    @property
    def source(self) -> str:
        """Format and files, for messages."""
        names = such_as([file.name for file in self.files])
        return self.format if names in self.format or self.files[0].is_dir() else f"{self.format} ({names})"

    def in_two_splits(self) -> list[Example]:
        """Returns the photos of a split that an earlier split has too: they would be both trained on and scored."""
        first: dict[Path, Split | None] = {}
        return [e for e in self.examples if first.setdefault(e.image, e.split) != e.split]


def read_folder(directory: Path) -> Reading:
    """Reads a folder of captioned photos in any of the known formats.

    Raises:
        CaptionerError: the folder does not exist or is in no known format, or a file cannot be read.
    """
    if not directory.is_dir():
        raise CaptionerError(f"There is no dataset folder {directory}; name one with --data.")
    found = [(module, files) for module in _FORMATS[:-1] if (files := module.find(directory))]
    found = found or [(module, files) for module in _FORMATS[-1:] if (files := module.find(directory))]
    if not found:
        raise CaptionerError(_unknown(directory))
    module, files = found[0]
    problems = Problems()
    examples, repeated = _each_once(_with_words(module.read(directory, files, problems), problems))
    # a captions.txt that two formats recognise is not unused
    others = {other.NAME: [file for file in theirs if file not in files] for other, theirs in found[1:]}
    unused = tuple(f"{such_as([file.name for file in theirs])} ({name})" for name, theirs in others.items() if theirs)
    return Reading(module.NAME, tuple(files), unused, examples, problems, repeated)


def _with_words(examples: Iterable[Example], problems: Problems) -> Iterator[Example]:
    """Leaves out captions without a letter or a digit, which would teach a model to say nothing."""
    for example in examples:
        words = tuple(text for text in example.references if any(map(str.isalnum, text)))
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


def _unknown(directory: Path) -> str:
    known = "; ".join(module.FILES for module in _FORMATS)
    inside = [folder for folder in sorted(directory.iterdir()) if folder.is_dir()]
    hint = next((folder for folder in inside if any(module.find(folder) for module in _FORMATS)), None)
    return f"{directory} is not a dataset in a known format; its photos need one of these: {known}." + (
        f" {hint} is one; did you mean that?" if hint else table.unknown_columns(directory)
    )
