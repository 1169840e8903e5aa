"""A resumable results file: written rows are kept, and a killed run resumes where it stopped.

`.captions.jsonl.run`, next to `captions.jsonl`, identifies the run by its model, options and photos. It is written
before the first row. Rows are in the order of the photos, and an incomplete last row is dropped when the run resumes,
so the number of rows shows where the run stopped.
"""

import contextlib
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from caprun.atomic_write import atomic_write, flush
from caprun.batch.rows import FORMATS, captions_of
from caprun.errors import OutputError, UsageError
from caprun.locks import try_lock

_SYNC_EVERY = 5.0  # seconds; a killed process loses nothing, and a power failure at most this much


class Results:
    """A results file, open for writing; a context manager. A stopped run resumes.

    Args:
        path: The file; its name ends in one of `caprun.batch.rows.FORMATS`.
        images: Names of the photos, in order; None if they are not known in advance and come in any order.
        identity: Everything that the rows depend on, by human-readable names; the values are JSON.
        texts: A file for the captions of each photo, one per line; None for no such files.
        overwrite: Whether to replace the results of another run or a finished one. An unfinished run with the same
            identity still resumes, since its rows would be the same.

    Attributes:
        done: Number of rows written.
        failed: Number of rows with an error.
        abstained: Number of rows for which the model abstained.

    Raises:
        UsageError: The file belongs to another run or was not written by a run.
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
        self._end = 0  # of the last complete row
        self._state = path.with_name(f".{path.name}.run")
        self._identity: dict[str, Any] = json.loads(json.dumps(identity))  # as it is read back: tuples become lists
        self._file = self._open()
        try:
            with self._explained(path):
                self._resume(overwrite)
        except BaseException:
            if not os.path.exists(self._state) and not os.fstat(self._file).st_size:  # noqa: PTH110  (its name may be too long)
                with contextlib.suppress(OSError):  # Windows deletes no open file
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
        """True if there is a row for every photo."""
        return self._images is not None and self.done == len(self._images)

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """Reads the written rows, in their order."""
        with self._explained(self.path), self.path.open("rb") as file:
            file.seek(len(self._format.header))
            for _, entry in self._format.entries(file):
                yield entry

    def add(self, entry: Mapping[str, Any]) -> None:
        """Writes the row of the next photo: `image` and the keys of `caprun.caption.as_row`.

        Raises:
            OutputError: The row cannot be written; earlier rows are kept.
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
                os.ftruncate(self._file, self._end)  # other readers see only complete rows
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
                f"{path} cannot be written ({error.strerror or error}); the results for {self.done:,}{of_all} photos "
                "are kept. Solve the problem, then run the same command to resume."
            ) from error

    def _open(self) -> int:
        """Opens and locks the file."""
        path = self.path
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not path.parent.exists():
                raise UsageError(f"There is no folder {path.parent} for {path.name}; create it first.") from None
            raise OutputError(f"{path} cannot be written ({error.strerror}); give another --output.") from error
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise UsageError(f"{path} is not a regular file, so a run could not resume; give another --output.")
            locked = try_lock(file)
            with contextlib.suppress(OSError):  # a refused run unlinks the file that it created
                locked = locked and os.path.samestat(os.fstat(file), path.stat())
            if not locked:
                raise OutputError(f"{path} is being written by another run; wait for it, or give another --output.")
        except BaseException:
            os.close(file)
            raise
        return file

    def _resume(self, overwrite: bool) -> None:
        """Finds where to resume, drops an incomplete row there, and refuses the file of another run."""
        written = read_identity(self._state)
        if written == self._identity:
            problem = self._read_rows()
        elif not os.fstat(self._file).st_size:
            problem = ""  # nothing would be lost
        elif written is None:
            problem = f"{self.path} exists, but was not written by a run that can resume"
        else:
            problem = of_another_run(self.path, written, self._identity)
        if problem and not overwrite:
            raise UsageError(f"{problem}; give another --output, or --overwrite to start over.")
        if problem is not None or (overwrite and self.finished):
            self._begin(overwrite)
        if os.fstat(self._file).st_size > self._end:
            os.ftruncate(self._file, self._end)
        os.lseek(self._file, self._end, os.SEEK_SET)
        if not self._end:
            self._write(self._format.header)

    def _begin(self, overwrite: bool) -> None:
        """Empties the file for a new run, and writes the identity of the run."""
        self.done = self.failed = self.abstained = self._end = 0
        if not overwrite and (taken := next(filter(os.path.lexists, self._texts or ()), None)):
            raise UsageError(
                f"{taken} exists and was not written by this run; give another --output, or --overwrite to replace it."
            )
        with atomic_write(self._state) as state:
            # ASCII, because options can have bytes that are not UTF-8
            state.write((json.dumps(self._identity, indent=1) + "\n").encode())
            state.flush()  # on a full disk, the old results stay
            os.ftruncate(self._file, 0)  # before the state is in place, so that rows never have another run's state
            for text in self._texts or ():
                if os.path.lexists(text):  # false for a name that is too long, whose photo does not exist either
                    text.unlink(missing_ok=True)

    def _read_rows(self) -> str | None:
        """Counts the complete rows; returns a problem if they are not from this run."""
        header = self._format.header
        altered = f"{self.path} was changed after this run wrote it"
        with open(os.dup(self._file), "rb") as file:  # noqa: PTH123  (a descriptor)
            file.seek(0)
            begun = file.read(len(header))
            if not header.startswith(begun):
                return f"{altered} (its header is wrong)"
            self._end = len(header) if begun == header else 0
            for size, entry in self._format.entries(file):
                if self.finished:
                    return f"{altered} (it has more rows than there are photos)"
                expected = entry.get("image") if self._images is None else self._images[self.done]
                if entry.get("image", "") != expected:
                    return f"{altered} (row {self.done + 1:,} is for another photo)"
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
    """Reads the identity of the run that wrote a file or a folder; None if there is none."""
    try:
        identity = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return identity if isinstance(identity, dict) else None


def of_another_run(path: Path, written: Mapping[str, Any], now: Mapping[str, Any], *, most: int | None = None) -> str:
    """Describes how the run that wrote `path` differs from this one; names at most `most` differences."""
    differences = [
        f"{name} {written.get(name, 'unknown')} (now {now.get(name, 'unknown')})"
        for name in dict.fromkeys((*written, *now))
        if written.get(name) != now.get(name)
    ]
    named = differences[:most]
    more = f" and {len(differences) - len(named)} more" if len(differences) > len(named) else ""
    return f"{path} belongs to another run: {', '.join(named)}{more}"
