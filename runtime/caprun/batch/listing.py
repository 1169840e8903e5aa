"""Which photos a command line means: files, folders, and paths on standard input."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from caprun.errors import UsageError
from caprun.photos.extensions import EXTENSIONS

STANDARD_INPUT = "-"


class Listed(NamedTuple):
    """A photo to caption."""

    path: str
    """As it will be opened and named; bytes that are no UTF-8 are surrogates, as `os.fsdecode` has them."""
    relative: str
    """Its path below the folder that was named, or its file's name where it was named itself."""


def list_photos(arguments: Sequence[str], standard_input: BinaryIO, *, recursive: bool = False) -> list[Listed]:
    """The photos that are meant, in the order of the arguments.

    A folder stands for the files in it that are called like a photo, sorted by the bytes of their paths; hidden ones
    are left out, and so are linked folders. Any other argument is a photo, whatever it is called and whether or not it
    exists. `-` stands for the paths on standard input, none of them a folder: one a line, or each ended by NUL (as
    `find -print0` writes them) where there is a NUL; empty ones are left out.

    Args:
        arguments: paths, or `-`.
        standard_input: read to its end for `-`.
        recursive: look into folders of folders too.

    Raises:
        UsageError: nothing is meant by an argument, or a folder may not be listed.
    """
    if arguments.count(STANDARD_INPUT) > 1:
        raise UsageError("Standard input can be read once; name - once.")
    photos: list[Listed] = []
    for argument in arguments:
        if argument == STANDARD_INPUT:
            found = [Listed(path, _file_name(path)) for path in _read_paths(standard_input)]
            if not found:
                raise UsageError("Standard input names no photos; write their paths to it, one a line.")
        elif os.path.isdir(argument):  # noqa: PTH112  (a photo where it cannot be told, and an error in its place)
            found = [Listed(path, os.path.relpath(path, argument)) for path in _in_folder(argument, recursive)]
            if not found:
                hint = "name another folder" if recursive else "--recursive looks into the folders in it"
                raise UsageError(f"{argument} holds no photos ({' '.join(EXTENSIONS)}); {hint}.")
        else:
            found = [Listed(argument, _file_name(argument))]
        photos += found
    return photos


def _file_name(path: str) -> str:
    return Path(path).name or "photo"


def _read_paths(file: BinaryIO) -> list[str]:
    data = file.read()
    # a line's end is no part of the path; a carriage return may be, except where lines end in one
    lines = data.split(b"\0") if b"\0" in data else data.replace(os.linesep.encode(), b"\n").split(b"\n")
    return [os.fsdecode(line) for line in lines if line]


def _in_folder(folder: str, recursive: bool) -> list[str]:
    return sorted(_walk(folder, recursive), key=os.fsencode)


def _walk(top: str, recursive: bool) -> Iterator[str]:
    folders = [top]  # not a recursion: folders may be nested deeper than Python's stack
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if _is_folder(entry):
                        if recursive and not entry.is_symlink():  # a link may lead back up
                            folders.append(entry.path)
                    elif entry.name.lower().endswith(tuple(EXTENSIONS)):
                        yield entry.path
        except OSError as error:
            raise UsageError(
                f"The folder {folder} cannot be listed ({error.strerror}); see to its permissions."
            ) from error


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself: a photo that cannot be read, as it will say in its place
        return False
