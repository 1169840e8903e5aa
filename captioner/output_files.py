"""What a training writes: whole or not at all, and refused in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from caprun.atomic_write import atomic_write
from captioner.errors import CaptionerError


@contextmanager
def refusals(what: str, path: Path) -> Iterator[None]:
    """Say in one sentence that a file could not be written."""
    try:
        yield
    except OSError as error:
        raise CaptionerError(f"{what} {path} cannot be written: {error.strerror or error}.") from error


def write_whole(what: str, path: Path, content: bytes | str) -> None:
    """Write a file in a folder that is made if it is not there; see `caprun.atomic_write.atomic_write`.

    Args:
        what: the file is, such as "The report".
        path: of the file.
        content: bytes, or text to be written as UTF-8 (a name in it that is no text as an escape, as JSON has it).

    Raises:
        CaptionerError: it cannot be written; the file before is as it was.
    """
    with refusals(what, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
