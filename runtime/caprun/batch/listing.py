"""Lists the photos that a command line names: files, folders, and paths on standard input."""

import codecs
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, NamedTuple

from caprun.errors import UsageError
from caprun.photos.extensions import EXTENSIONS, HIDDEN, OTHERS, describe_left_out, is_installed

STANDARD_INPUT = "-"


class Listed(NamedTuple):
    """A photo to caption."""

    path: str
    """Path to open, and name in results; bytes that are not UTF-8 are surrogates, as in `os.fsdecode`."""
    relative: str
    """Path relative to the folder that was named, or the file name if the photo itself was named."""


def list_photos(
    arguments: Sequence[str],
    standard_input: BinaryIO,
    *,
    recursive: bool = False,
    exclude: Sequence[str] = (),
    left_out: Counter[str] | None = None,
) -> list[Listed]:
    """Lists photos in the order of the arguments.

    A folder means the files in it with a photo extension, sorted by the bytes of their paths, without `HIDDEN` files
    and linked folders. `-` means the paths on standard input, one per line, or NUL-terminated (`find -print0`) if there
    is a NUL. Any other argument is a photo, whether or not it exists.

    Args:
        arguments: Paths, or `-`.
        standard_input: The file to read for `-`.
        recursive: Whether to search subfolders.
        exclude: `fnmatch` patterns; a photo is left out if its name or path matches, or that of a folder it is in;
            paths are relative to the folder that was named, or as given for a photo that was named.
        left_out: Counts, by extension, photos in folders that cannot be read here and are therefore left out. If it is
            None, photos that need an extra are listed.

    Raises:
        UsageError: An argument yields no photos, or a folder cannot be listed.
    """
    if arguments.count(STANDARD_INPUT) > 1:
        raise UsageError("Standard input can only be read once; give - once.")
    photos: list[Listed] = []
    for argument in arguments:
        if argument == STANDARD_INPUT:
            listed = [Listed(path, _file_name(path)) for path in _read_paths(standard_input)]
            found = [one for one in listed if not _is_excluded(one.path, exclude)]
            if not listed:
                raise UsageError("Standard input names no photos; write their paths to it, one per line.")
        elif os.path.isdir(argument):  # noqa: PTH112  (never an error: an unreadable path is a photo)
            unread: Counter[str] | None = None if left_out is None else Counter()
            found = photos_in(argument, recursive=recursive, exclude=exclude, left_out=unread)
            if not found and exclude and photos_in(argument, recursive=recursive):
                raise UsageError(f"--exclude leaves out every photo in {argument}; give another pattern.")
            if not found and unread:
                raise UsageError(f"{argument} holds no photos that can be read. {' '.join(describe_left_out(unread))}")
            if not found:
                hint = "name another folder" if recursive else "--recursive looks into its subfolders"
                raise UsageError(f"{argument} holds no photos ({' '.join(EXTENSIONS)}); {hint}.")
            if left_out is not None and unread:
                left_out.update(unread)
        else:
            found = [] if _is_excluded(argument, exclude) else [Listed(argument, _file_name(argument))]
        photos += found
    if not photos:
        raise UsageError("--exclude leaves out every photo; give another pattern.")
    return photos


def photos_in(
    folder: str, *, recursive: bool = False, exclude: Sequence[str] = (), left_out: Counter[str] | None = None
) -> list[Listed]:
    """Lists the photos in a folder, sorted by the bytes of their paths; see `list_photos`.

    Raises:
        UsageError: The folder, or one inside it, cannot be listed.
    """
    paths = sorted(_walk(folder, recursive), key=os.fsencode)
    listed = [Listed(path, os.path.relpath(path, folder)) for path in paths]
    photos = []
    for one in listed:
        if _is_excluded(one.relative, exclude):
            continue
        extension = os.path.splitext(one.path)[1].lower()  # noqa: PTH122  (a name may consist of dots)
        if extension in EXTENSIONS and (left_out is None or is_installed(EXTENSIONS[extension])):
            photos.append(one)
        elif left_out is not None:
            left_out[extension] += 1
    return photos


def _file_name(path: str) -> str:
    return Path(path).name or "photo"


def _read_paths(file: BinaryIO) -> list[str]:
    data = file.read().removeprefix(codecs.BOM_UTF8)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as PowerShell writes lists
        data = os.fsencode(data.decode("utf-16", "replace"))
    if b"\0" in data:
        lines = data.split(b"\0")
    else:
        # \r is part of a Windows line ending, unless it belongs to the path
        lines = [line if os.path.lexists(line) else line.removesuffix(b"\r") for line in data.split(b"\n")]
    return [os.fsdecode(line) for line in lines if line]


def _is_excluded(path: str, patterns: Sequence[str]) -> bool:
    parts = Path(path).as_posix().split("/")
    ends = list(accumulate(parts, "{}/{}".format))
    patterns = [text for pattern in patterns if (text := pattern.removeprefix("./").rstrip("/"))]
    return any(fnmatch(one, pattern) for pattern in patterns for one in (*parts, *ends))


def _walk(top: str, recursive: bool) -> Iterator[str]:
    folders = [top]  # not recursive: folders can be nested deeper than Python's stack
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith(HIDDEN):
                        continue
                    if _is_folder(entry):
                        if recursive and not entry.is_symlink():  # a link can lead back up
                            folders.append(entry.path)
                    elif entry.name.lower().endswith((*EXTENSIONS, *OTHERS)):
                        yield entry.path
        except OSError as error:
            if isinstance(error, FileNotFoundError) and folder != top:  # removed since it was found
                continue
            raise UsageError(
                f"The folder {folder} cannot be listed ({error.strerror}); change its permissions."
            ) from error


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself is listed as a photo, and reading it reports the error
        return False
