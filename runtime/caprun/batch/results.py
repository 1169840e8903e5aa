"""A file of results that survives: what was written stays, and a run that was killed goes on where it stopped.

Beside `captions.jsonl` lies `.captions.jsonl.run`, which says what the run is: model, options and photos. It is written
before the first row. A row is whole or dropped when the run goes on, and rows follow the order of the photos, so the
number of rows says where it stopped.
"""

import contextlib
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from caprun.atomic_write import flush
from caprun.batch.rows import FORMATS, captions_of
from caprun.errors import OutputError, UsageError
from caprun.locks import try_lock

_BINARY = getattr(os, "O_BINARY", 0)  # a line break is one byte on Windows too
_SYNC_EVERY = 5.0  # seconds; a killed process loses nothing, and a machine without power no more than this


class Results:
    """A file of results, opened to be written or to be gone on with; a context manager.

    Args:
        path: the file; its name ends in one of `caprun.batch.rows.FORMATS`.
        images: the photos' names, in order.
        identity: all that the rows depend on, by names that a person knows; values are JSON.
        texts: for each photo, a file for its captions, one a line; none by default.
        overwrite: give up what another run has written there. What this very run has written, and not finished, is
            gone on with all the same: it would be the same again.

    Raises:
        UsageError: the file is of another run, or is no run's.
        OutputError: it cannot be written, or another run is writing it.
    """

    def __init__(
        self,
        path: Path,
        images: Sequence[str],
        identity: Mapping[str, Any],
        *,
        texts: Sequence[Path] | None = None,
        overwrite: bool = False,
    ) -> None:
        self.path, self._images, self._texts = path, images, texts
        self._format = FORMATS[path.suffix.lower()]
        self.done = 0
        """Rows that are written."""
        self.failed = 0
        """Of these, errors."""
        self.abstained = 0
        """And those of photos from which the model abstained."""
        self._state = path.with_name(f".{path.name}.run")
        # as it will be read back: tuples are lists there
        self._identity: dict[str, Any] = json.loads(json.dumps(identity))
        self._file = self._open()
        try:
            with self._explaining(path):
                self._resume(overwrite)
        except BaseException:
            if not os.path.exists(self._state) and not os.fstat(self._file).st_size:  # noqa: PTH110  (a name may be too long)
                path.unlink(missing_ok=True)  # it was made for nothing
            os.close(self._file)
            raise
        self._synced = time.monotonic()

    def __enter__(self) -> "Results":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._explaining(self.path):
            try:
                if kind is None:
                    flush(self._file)
            finally:
                os.close(self._file)

    @property
    def finished(self) -> bool:
        """Whether there is a row for every photo."""
        return self.done == len(self._images)

    def add(self, entry: Mapping[str, Any]) -> None:
        """Write the next photo's row: `image` and either `caption`, `log_prob` and more, or `abstained`, or `error`.

        Raises:
            OutputError: it cannot be written; the rows before it are.
        """
        if self._texts is not None and "caption" in entry:
            text = self._texts[self.done]
            with self._explaining(text):
                text.parent.mkdir(parents=True, exist_ok=True)
                _write_text(text, "".join(f"{caption}\n" for caption in captions_of(entry)).encode("utf-8"))
        row = self._format.row(entry)
        with self._explaining(self.path):
            try:
                _write(self._file, row)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file, self._end)  # whole rows alone, for whoever reads them before it goes on
                raise
            self._end += len(row)
            self.done += 1
            self.failed += "error" in entry
            self.abstained += "abstained" in entry
            if time.monotonic() - self._synced > _SYNC_EVERY:
                flush(self._file)
                self._synced = time.monotonic()

    @contextlib.contextmanager
    def _explaining(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(
                f"{error.filename or path} cannot be written ({error.strerror or error}); the {self.done:,} of "
                f"{len(self._images):,} photos that are done stay: see to it, then give the same command to go on."
            ) from error

    def _open(self) -> int:
        """The file, locked; a run that gives up unlinks its own, and a lock on that would keep nobody out."""
        while True:
            file = self._open_once()
            try:
                if os.path.samestat(os.fstat(file), self.path.stat()):
                    return file
            except FileNotFoundError:
                pass
            except OSError as error:
                os.close(file)
                raise OutputError(f"{self.path} cannot be read ({error.strerror}); give another --output.") from error
            os.close(file)

    def _open_once(self) -> int:
        path = self.path
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | _BINARY, 0o666)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not path.parent.exists():
                raise UsageError(f"There is no folder {path.parent} to write {path.name} to; make it first.") from None
            raise OutputError(f"{path} cannot be written ({error.strerror}); give another --output.") from error
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise UsageError(
                    f"{path} is no regular file, and results could not be gone on with; give another --output."
                )
            if not try_lock(file):
                raise OutputError(f"{path} is being written by another run; wait for it, or give another --output.")
        except BaseException:
            os.close(file)
            raise
        return file

    def _resume(self, overwrite: bool) -> None:
        """Find where to go on, drop what was cut off there, and refuse what is not of this run."""
        written = self._read_state()
        empty = not os.fstat(self._file).st_size
        try:
            if written != self._identity:
                raise _OfAnotherRun("" if empty else self._difference(written))
            end = self._count()
            if overwrite and self.finished:
                raise _OfAnotherRun("")
        except _OfAnotherRun as problem:
            if str(problem) and not overwrite:
                raise UsageError(f"{problem}; give another --output, or --overwrite to begin anew.") from None
            end = self._begin(overwrite)
        if os.fstat(self._file).st_size > end:
            os.ftruncate(self._file, end)
        os.lseek(self._file, end, os.SEEK_SET)
        if not end:
            _write(self._file, self._format.header)
        self._end = end or len(self._format.header)

    def _begin(self, overwrite: bool) -> int:
        """Make room for a new run and say what it is; returns where its rows end: nowhere yet."""
        self.done = self.failed = self.abstained = 0
        if not overwrite and (taken := next(filter(os.path.lexists, self._texts or ()), None)):
            raise UsageError(
                f"{taken} exists and was not written by this run; give another --output, or --overwrite to lose it."
            )
        with self._new_state():  # first: where that cannot be written, what is there stays
            os.ftruncate(self._file, 0)  # before the state: rows never lie beside the state of another run
            for text in self._texts or ():
                if os.path.lexists(text):  # what has a name too long is not there, and its photo neither
                    text.unlink(missing_ok=True)
        return 0

    def _read_state(self) -> dict[str, Any] | None:
        try:
            state = json.loads(self._state.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return state if isinstance(state, dict) else None

    @contextlib.contextmanager
    def _new_state(self) -> Iterator[None]:
        """What the run is, on the disk already, but in its place when the block ends."""
        new = self._state.with_name(f"{self._state.name}.new")
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _BINARY, 0o666)
        try:
            try:
                _write(file, (json.dumps(self._identity, ensure_ascii=False, indent=1) + "\n").encode("utf-8"))
                flush(file)
            finally:
                os.close(file)
            yield
            new.replace(self._state)
        except OSError:
            new.unlink(missing_ok=True)
            raise

    def _difference(self, written: dict[str, Any] | None) -> str:
        """Why what is there cannot be gone on with."""
        if written is None:
            return f"{self.path} exists, and no run that could be gone on with wrote it"
        return of_another_run(self.path, written, self._identity)

    def _count(self) -> int:
        """Count the whole rows that are there into `done` and `failed`; returns where they end, 0 without a header."""
        header = self._format.header
        with open(os.dup(self._file), "rb") as file:  # noqa: PTH123  (a descriptor)
            file.seek(0)
            begun = file.read(len(header))
            if begun != header:
                if not header.startswith(begun):
                    raise self._altered("it does not begin as it should")
                return 0
            end = len(header)
            for row in self._format.split(file):
                if self.finished:
                    raise self._altered("it has more rows than there are photos")
                beginning = self._format.beginning(self._images[self.done])
                if not row.startswith(beginning):
                    raise self._altered(f"row {self.done + 1:,} is of another photo")
                rest = row[len(beginning) :]
                self.failed += self._format.failed(rest)
                self.abstained += self._format.abstained(rest)
                self.done += 1
                end += len(row)
        return end

    def _altered(self, how: str) -> "_OfAnotherRun":
        return _OfAnotherRun(f"{self.path} is not as this run left it ({how})")


class _OfAnotherRun(Exception):  # noqa: N818  (never leaves this module)
    """What is there cannot be gone on with; empty where nothing would be lost with it."""


def _show(value: object) -> str:
    return "unknown" if value is None else str(value)


def _write(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


def _write_text(path: Path, content: bytes) -> None:
    """Write a file of its own, or none."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _BINARY, 0o666)
    try:
        _write(file, content)
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        raise
    finally:
        os.close(file)


def of_another_run(path: Path, written: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """That what is at `path` was written by a run that differs from this one, and in what."""
    differences = [
        f"{name} {_show(written.get(name))} (now {_show(now.get(name))})"
        for name in dict.fromkeys((*written, *now))
        if written.get(name) != now.get(name)
    ]
    return f"{path} is of another run: {', '.join(differences)}"
