"""Writes output files completely or not at all, and turns failures into one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from caprun.atomic_write import atomic_write
from captioner.errors import CaptionerError


@contextmanager
def refusals(what: str, path: Path) -> Iterator[None]:
    """Raises an OSError in the block as a CaptionerError that names `what` and the path."""
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
        CaptionerError: the file cannot be written; an existing file stays as it was.
    """
    with refusals(what, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
