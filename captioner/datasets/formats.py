"""Which format a folder of captioned photos is in, and what it says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from captioner.datasets import coco, flickr8k, flickr30k, imagefolder, karpathy, sidecar, tokens
from captioner.datasets.example import Example, Problems, Split, such_as
from captioner.errors import CaptionerError


class Format(Protocol):
    """A module that reads a format."""

    NAME: str
    """What it is called in reports."""
    FILES: str
    """What it is recognised by, for a person."""

    def find(self, directory: Path) -> list[Path]:
        """The files (or folders) that say what the captions are; none if the folder is not in this format."""

    def read(self, directory: Path, files: Sequence[Path], problems: Problems) -> Iterable[Example]:
        """The photos that are there, with their captions; what is not right goes to `problems`."""


# The first that is found is read. Files that say more come first: Karpathy's have splits, and texts beside photos are
# recognised by so little that everything else goes before them.
_FORMATS: tuple[Format, ...] = (karpathy, flickr30k, flickr8k, tokens, coco, imagefolder, sidecar)


@dataclass(frozen=True)
class Reading:
    """What a folder of captioned photos says, with nothing added."""

    format: str
    files: tuple[Path, ...]
    """The files (or folders) that the captions are from."""
    unused: tuple[str, ...]
    """Further formats that the folder is in too, each with its file."""
    examples: tuple[Example, ...]
    """Each photo once in each split that has it, in the dataset's order, with all its captions."""
    problems: Problems
    repeated: tuple[Path, ...]
    """Photos that were listed more than once; their captions are together now."""

    @property
    def source(self) -> str:
        """Format and files, for a person."""
        names = such_as([file.name for file in self.files])
        return self.format if names in self.format or self.files[0].is_dir() else f"{self.format} ({names})"

    def in_two_splits(self) -> list[Example]:
        """Photos that a split has and an earlier one has too: what is learnt must not be what is scored."""
        first: dict[Path, Split | None] = {}
        return [e for e in self.examples if first.setdefault(e.image, e.split) != e.split]


def read_folder(directory: Path) -> Reading:
    """Read a folder of captioned photos, whichever of the known formats it is in.

    Raises:
        CaptionerError: no such folder, no known format, or a file that cannot be read.
    """
    if not directory.is_dir():
        raise CaptionerError(f"There is no dataset folder {directory}; name one with --data.")
    found = [(module, files) for module in _FORMATS[:-1] if (files := module.find(directory))]
    found = found or [(module, files) for module in _FORMATS[-1:] if (files := module.find(directory))]
    if not found:
        raise CaptionerError(_unknown(directory))
    module, files = found[0]
    problems = Problems()
    examples, repeated = _each_once(module.read(directory, files, problems))
    # a captions.txt may be recognised by two formats; it is used, then
    others = {other.NAME: [file for file in theirs if file not in files] for other, theirs in found[1:]}
    unused = tuple(f"{such_as([file.name for file in theirs])} ({name})" for name, theirs in others.items() if theirs)
    return Reading(module.NAME, tuple(files), unused, examples, problems, repeated)


def _each_once(examples: Iterable[Example]) -> tuple[tuple[Example, ...], tuple[Path, ...]]:
    """Put all captions of a photo together: one that is listed twice must not be drawn for two splits."""
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
    return f"{directory} is no dataset that is known: its photos need one of these: {known}." + (
        f" {hint} is one: did you mean that?" if hint else ""
    )
