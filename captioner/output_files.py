"""Writes output files and folders, and reports failures in one sentence."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from caprun.atomic_write import atomic_write
from caprun.errors import UsageError
from captioner.errors import CaptionerError


def cache_folder(named: Path | None) -> Path:
    """Returns the cache folder: the one given by `--cache`, or `captioner` in the user's cache.

    Raises:
        UsageError: there is no home folder.
    """
    if named is not None:
        return named
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "captioner"
    except RuntimeError:
        raise UsageError("There is no home folder for the cache; set HOME, or name a folder with --cache.") from None


@contextmanager
def refusals(what: str, path: Path) -> Iterator[None]:
    """Converts an OSError in the block into a CaptionerError that names `what` and the path."""
    try:
        yield
    except OSError as error:
        raise CaptionerError(f"{what} {path} cannot be written: {error.strerror or error}.") from error


def write_whole(what: str, path: Path, content: bytes | str) -> None:
    """Writes a file atomically and creates its folder if needed; see `caprun.atomic_write.atomic_write`.

    Args:
        what: names the file in an error, such as "The report".
        path: the file.
        content: bytes, or text to encode as UTF-8; lone surrogates in it are written as backslash escapes.

    Raises:
        CaptionerError: the file cannot be written; an existing file is left unchanged.
    """
    with refusals(what, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)


def prepare_folder(folder: Path, option: str = "--output") -> None:
    """Creates a folder if needed, and checks that it is writable.

    Raises:
        CaptionerError: the folder cannot be written; the message names the option that chooses another one.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CaptionerError(
            f"The folder {folder} cannot be written: {error.strerror}; name another {option}."
        ) from error


@contextmanager
def locked_folder(folder: Path, option: str = "--output") -> Iterator[None]:
    """Prepares the folder of a training run or a recipe, and locks it against other processes within the context.

    Incomplete checkpoints of a killed run are removed.

    Raises:
        CaptionerError: the folder cannot be written, or another run is writing to it.
    """
    from filelock import FileLock, Timeout

    prepare_folder(folder, option)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise CaptionerError(f"Another run is writing to {folder}; wait, or name another {option}.") from None
    except OSError as error:
        raise CaptionerError(f"{folder}/.lock cannot be written: {error.strerror}; name another {option}.") from error
    try:
        for unfinished in folder.glob(".*.pt-*"):
            unfinished.unlink(missing_ok=True)
        yield
    finally:
        lock.release()
