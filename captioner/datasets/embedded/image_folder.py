"""Converts a table with photos in its cells to an image folder in the cache: photo files and `metadata.jsonl`.

All code that reads, hashes or reports photos then works with files. Each photo is written once, unchanged, and named
after its content. An unfinished folder is completed; a finished one is read without the table.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any, NamedTuple, Protocol

from caprun.atomic_write import flush
from caprun.batch.progress import Progress
from captioner.datasets.example import Split
from captioner.datasets.files import is_photo_name
from captioner.datasets.references import captions_in
from captioner.output_files import prepare_folder, refusals, write_whole

METADATA = "metadata.jsonl"
_STATE = "state-2.json"  # a folder with state.json may lack splits, and is written again
_LINK = "source"
_SAVED_EVERY = 200  # rows
_EXTENSIONS = {b"\x89PNG": ".png", b"RIFF": ".webp", b"GIF8": ".gif"}  # by the first four bytes; otherwise .jpg


class Row(NamedTuple):
    """A row of a table with photos."""

    photo: bytes | None
    """The encoded photo."""
    path: str
    """The name of its file, possibly empty; without `photo`, its path in `Rows.folder`."""
    cells: dict[str, Any]
    """The other cells, by column name in lower case."""
    split: Split | None


class Rows(Protocol):
    """A table with photos."""

    origin: str
    """The dataset and its version."""
    total: int | None
    """Number of rows, if known."""
    folder: Path | None
    """Folder of the photos that rows refer to by path."""

    def __iter__(self) -> Iterator[Row]:
        """Yields the rows."""

    def position(self) -> Any:
        """Returns JSON data for continuing after the last row read; None if all rows must be read again."""


@dataclass
class _State:
    """Content of the state file."""

    origin: str = ""
    written: str = ""
    """Number and size of the photos, and the folder."""
    size: int = 0
    """Bytes of `metadata.jsonl`."""
    position: Any = None
    """Result of `Rows.position` after the rows in `metadata.jsonl`."""
    done: bool = False


def make_image_folder(folder: Path, open_rows: Callable[[Any], Rows]) -> tuple[str, str]:
    """Makes an image folder unless it is finished.

    Args:
        folder: the folder.
        open_rows: returns the table, given a result of `Rows.position` or None.

    Returns:
        The dataset and its version, and how much was written to the folder.

    Raises:
        CaptionerError: the table cannot be read, or the folder cannot be written.
    """
    from filelock import FileLock

    state = _read_state(folder)
    if not state.done:
        prepare_folder(folder, "--cache")
        with FileLock(folder / ".lock"):  # every torchrun process reads the dataset
            state = _read_state(folder)
            if not state.done:
                _write(folder, state, open_rows(state.position))
    return state.origin, state.written


def _read_state(folder: Path) -> _State:
    try:
        return _State(**json.loads((folder / _STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return _State()


def _write(folder: Path, state: _State, rows: Rows) -> None:
    def save(position: Any) -> None:
        lines.flush()
        flush(lines.fileno())
        state.size, state.position = lines.tell(), position
        write_whole("The state of the dataset", folder / _STATE, json.dumps(asdict(state)))

    with refusals("The photos of a dataset in", folder):
        (folder / METADATA).touch()
        if rows.folder is not None and not (folder / _LINK).is_symlink():
            (folder / _LINK).symlink_to(rows.folder, target_is_directory=True)
        with (
            (folder / METADATA).open("r+b") as lines,
            Progress(f"reading rows into {folder}", rows.total, "rows") as progress,
        ):
            lines.seek(state.size if state.position else 0)
            lines.truncate()
            for number, row in enumerate(rows, 1):
                lines.write(json.dumps(_described(folder, row)).encode() + b"\n")
                progress.advance(1)
                if number % _SAVED_EVERY == 0:
                    save(rows.position())
            sizes = [photo.stat().st_size for photo in folder.glob("*/*") if photo.parent.name != _LINK]
            written = f"{len(sizes)} files, {sum(sizes) / 1e6:.1f} MB" if sizes else "no photos"
            state.origin, state.written, state.done = rows.origin, f"{written} written to {folder}", True
            save(None)


def _described(folder: Path, row: Row) -> dict[str, Any]:
    """Returns the metadata of a row, and writes its photo if it has captions."""
    columns, references = captions_in(row.cells)
    name = f"{_LINK}/{row.path}" if row.path else None
    if row.photo is not None:
        extension = (
            PurePath(row.path).suffix.lower() if is_photo_name(row.path) else _EXTENSIONS.get(row.photo[:4], ".jpg")
        )
        name = f"{row.split or 'photos'}/{hashlib.sha256(row.photo).hexdigest()[:20]}{extension}"
        if references and not (folder / name).exists():
            write_whole("The photo", folder / name, row.photo)
    others = {column: cell for column, cell in row.cells.items() if column not in columns}
    kept = {column: cell for column, cell in others.items() if isinstance(cell, str | int)}  # such as an id
    caption_column = columns[0] if columns else "captions"
    return {**kept, "file_name": name, "split": row.split, caption_column: references}
