"""Writing a file whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from captioner.errors import CaptionerError


@contextmanager
def refusals(what: str, path: Path) -> Iterator[None]:
    """Say in one sentence that a file could not be written."""
    try:
        yield
    except OSError as error:
        raise CaptionerError(f"{what} {path} cannot be written: {error.strerror or error}.") from error


def write_whole(what: str, path: Path, content: bytes | str) -> None:
    """Write to a temporary file beside and rename: whoever reads it sees the old or the new one, whole.

    Raises:
        CaptionerError: it cannot be written.
    """
    temporary = None
    try:
        with refusals(what, path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
                temporary = Path(file.name)
                file.write(content.encode() if isinstance(content, str) else content)
            temporary.chmod(0o644)
            temporary.replace(path)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
