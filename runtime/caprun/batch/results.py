"""A file of results that survives: what was written stays, and a run that was killed resumes where it stopped.

Beside `captions.jsonl` lies `.captions.jsonl.run`, which says what the run is: model, options and photos. It is written
before the first row. Rows follow the order of the photos, and a row that was cut off is dropped when the run resumes,
so the number of rows says where the run stopped.
"""

import contextlib
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from caprun.atomic_write import atomic_write, flush, remove_leftovers
from caprun.batch.rows import FORMATS, captions_of
from caprun.errors import OutputError, UsageError
from caprun.locks import try_lock

_SYNC_EVERY = 5.0  # seconds; a killed process loses nothing, and a machine without power no more than this


class Results:
    """A file of results, open for writing; a context manager. A run that was stopped resumes.

    Args:
        path: The file; its name ends in one of `caprun.batch.rows.FORMATS`.
        images: Names of the photos, in order; None for photos that are not known yet, in any order.
        identity: Everything that the rows depend on, by names for people; the values are JSON.
        texts: A file for the captions of each photo, one a line; None for no such files.
        overwrite: Whether to replace what another run, or a finished one, has written. An unfinished run with the same
            identity still resumes, since its rows would be the same.

    Attributes:
        done: Number of rows written.
        failed: Number of rows with an error.
        abstained: Number of rows of photos from which the model abstained.

    Raises:
        UsageError: The file belongs to another run or to no run.
        OutputError: The file cannot be written, or another run is writing it.
    """

    def __init__(
        self,
        path: Path,
        images: Sequence[str] | None,
        identity: Mapping[str, Any],
        *,
        texts: Sequence[Path] | None = None,
        overwrite: bool = False,
    ) -> None:
        self.path, self._images, self._texts = path, images, texts
        self.done = self.failed = self.abstained = 0
        self._format = FORMATS[path.suffix.lower()]
        self._end = 0  # of the last whole row
        self._state = path.with_name(f".{path.name}.run")
        self._identity: dict[str, Any] = json.loads(json.dumps(identity))  # as it will be read back: tuples are lists
        self._file = self._open()
        try:
            with self._explained(path):
                self._resume(overwrite)
        except BaseException:
            if not os.path.exists(self._state) and not os.fstat(self._file).st_size:  # noqa: PTH110  (its name may be too long)
                path.unlink(missing_ok=True)
            os.close(self._file)
            raise
        self._synced = time.monotonic()

    def __enter__(self) -> "Results":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._explained(self.path):
            try:
                if kind is None:
                    flush(self._file)
            finally:
                os.close(self._file)

    @property
    def finished(self) -> bool:
        """Whether there is a row for every photo."""
        return self._images is not None and self.done == len(self._images)

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """Reads the rows that are written, in the order of the photos."""
        with self._explained(self.path), self.path.open("rb") as file:
            file.seek(len(self._format.header))
            for _, entry in self._format.entries(file):
                yield entry

    def add(self, entry: Mapping[str, Any]) -> None:
        """Writes the row of the next photo: `image` and what `caprun.caption.as_row` returns.

        Raises:
            OutputError: The row cannot be written; the rows before it stay.
        """
        if self._texts is not None and "caption" in entry:
            text = self._texts[self.done]
            with self._explained(text):
                text.parent.mkdir(parents=True, exist_ok=True)
                _write_text(text, "".join(f"{caption}\n" for caption in captions_of(entry)))
        row = self._format.row(entry)
        with self._explained(self.path):
            self._write(row)
            self._count(entry)
            if time.monotonic() - self._synced > _SYNC_EVERY:
                flush(self._file)
                self._synced = time.monotonic()

    def _write(self, row: bytes) -> None:
        try:
            left = memoryview(row)
            while left:
                left = left[os.write(self._file, left) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._end)  # another reader finds whole rows only
            raise
        self._end += len(row)

    def _count(self, entry: Mapping[str, Any]) -> None:
        self.done += 1
        self.failed += "error" in entry
        self.abstained += "abstained" in entry

    @contextlib.contextmanager
    def _explained(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OutputError:
            raise
        except OSError as error:
            of_all = "" if self._images is None else f" of {len(self._images):,}"
            raise OutputError(
                f"{path} cannot be written ({error.strerror or error}); the {self.done:,}{of_all} photos that are done "
                "stay. Solve the problem, then give the same command to resume."
            ) from error

    def _open(self) -> int:
        """Opens and locks the file."""
        path = self.path
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not path.parent.exists():
                raise UsageError(f"There is no folder {path.parent} to write {path.name} to; make it first.") from None
            raise OutputError(f"{path} cannot be written ({error.strerror}); give another --output.") from error
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise UsageError(f"{path} is not a regular file, so a run could not resume; give another --output.")
            locked = try_lock(file)
            with contextlib.suppress(OSError):  # a run that is refused unlinks the file that it made
                locked = locked and os.path.samestat(os.fstat(file), path.stat())
            if not locked:
                raise OutputError(f"{path} is being written by another run; wait for it, or give another --output.")
        except BaseException:
            os.close(file)
            raise
        return file

    def _resume(self, overwrite: bool) -> None:
        """Finds where to resume, drops a row that was cut off there, and refuses the file of another run."""
        written = read_identity(self._state)
        if written == self._identity:
            problem = self._read_rows()
        elif not os.fstat(self._file).st_size:
            problem = ""  # nothing would be lost
        elif written is None:
            problem = f"{self.path} exists, and no run that could resume wrote it"
        else:
            problem = of_another_run(self.path, written, self._identity)
        if problem and not overwrite:
            raise UsageError(f"{problem}; give another --output, or --overwrite to begin anew.")
        if problem is not None or (overwrite and self.finished):
            self._begin(overwrite)
        if os.fstat(self._file).st_size > self._end:
            os.ftruncate(self._file, self._end)
        os.lseek(self._file, self._end, os.SEEK_SET)
        if not self._end:
            self._write(self._format.header)

    def _begin(self, overwrite: bool) -> None:
        """Empties the file for a new run and writes what the run is."""
        self.done = self.failed = self.abstained = self._end = 0
        if not overwrite and (taken := next(filter(os.path.lexists, self._texts or ()), None)):
            raise UsageError(
                f"{taken} exists and was not written by this run; give another --output, or --overwrite to lose it."
            )
        remove_leftovers(self._state)
        with atomic_write(self._state) as state:
            state.write((json.dumps(self._identity, ensure_ascii=False, indent=1) + "\n").encode())
            state.flush()  # on a full disk, the old results stay
            os.ftruncate(self._file, 0)  # before the state is in place: rows never lie beside the state of another run
            for text in self._texts or ():
                if os.path.lexists(text):  # a name may be too long, and then its photo does not exist either
                    text.unlink(missing_ok=True)

    def _read_rows(self) -> str | None:
        """Counts the whole rows; returns a problem where they are not those of this run."""
        header = self._format.header
        altered = f"{self.path} is not as this run left it"
        with open(os.dup(self._file), "rb") as file:  # noqa: PTH123  (a descriptor)
            file.seek(0)
            begun = file.read(len(header))
            if not header.startswith(begun):
                return f"{altered} (it does not begin as it should)"
            self._end = len(header) if begun == header else 0
            for size, entry in self._format.entries(file):
                if self.finished:
                    return f"{altered} (it has more rows than there are photos)"
                expected = entry.get("image") if self._images is None else self._images[self.done]
                if entry.get("image", "") != expected:
                    return f"{altered} (row {self.done + 1:,} is of another photo)"
                self._count(entry)
                self._end += size
        return None


def _write_text(path: Path, content: str) -> None:
    try:
        path.write_text(content, encoding="utf-8", newline="\n")
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def read_identity(path: Path) -> dict[str, Any] | None:
    """Reads what the run is that wrote a file or a folder; None where no run says so."""
    try:
        identity = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return identity if isinstance(identity, dict) else None


def of_another_run(path: Path, written: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Says that what is at `path` was written by a run that differs from this one, and how they differ."""
    differences = [
        f"{name} {written.get(name, 'unknown')} (now {now.get(name, 'unknown')})"
        for name in dict.fromkeys((*written, *now))
        if written.get(name) != now.get(name)
    ]
    return f"{path} is of another run: {', '.join(differences)}"
