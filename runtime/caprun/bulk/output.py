"""What a job on many machines writes: a folder of Parquet files, and in its `.caprun` what the job is and has done.

Ray Data writes the rows of a block, and commits their ids to `.caprun/done` once they are all on the disk; what was not
committed is taken away when the job goes on, and ids that were are not read again.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from caprun.atomic_write import atomic_write
from caprun.batch.results import of_another_run
from caprun.bulk.source import PARQUET, refuse_unreadable
from caprun.errors import OutputError, UsageError

_LATER = ("precision",)
"""What a job may know of itself only when it runs, for it depends on the hardware that is there."""


class Output:
    """A folder that a job writes to; see `claimed`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = path / ".caprun"
        self.done = self.state / "done"
        self.attempts = self.state / "attempts"
        self._job = self.state / "job.json"

    def committed(self) -> int:
        """Rows whose ids are committed."""
        from pyarrow import parquet

        files = self.done.glob(f"*{PARQUET}")
        return sum(parquet.read_metadata(file).num_rows for file in files if not file.stem.endswith(".pending"))

    def verify(self, ids: Sequence[str | int], id_column: str) -> tuple[int, int]:
        """Find every id in the rows exactly once; returns how many of them are errors, and how many abstentions.

        Raises:
            OutputError: one is missing, or there twice.
        """
        from pyarrow import dataset

        files = [str(file) for file in self.path.glob(f"*{PARQUET}")]
        columns = [id_column, "error", "abstained"]
        table = dataset.dataset(files, format="parquet").to_table(columns=columns) if files else None
        found = [] if table is None else table[id_column].to_pylist()
        if table is None or sorted(found) != sorted(ids):
            raise OutputError(
                f"{self.path} has {len(found):,} rows and not one for each of {len(ids):,} photos: files in it were "
                "changed, or a job that was killed still wrote; --overwrite begins anew."
            )
        failed, abstained = (int(table.num_rows - table[column].null_count) for column in columns[1:])
        return failed, abstained

    def resume_or_begin(self, identity: Mapping[str, Any], photos: int, *, overwrite: bool) -> None:
        """Go on with what this very job has written, or make room for it; see `claimed` for the arguments.

        Called again, with the precision, when the job knows it.

        Raises:
            UsageError: rows of another job are there.
            OutputError: the folder cannot be written.
        """
        try:
            # through JSON once, as it will be read back: tuples are lists there
            self._resume_or_begin(json.loads(json.dumps(identity)), photos, overwrite=overwrite)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def _resume_or_begin(self, identity: Mapping[str, Any], photos: int, *, overwrite: bool) -> None:
        written = self._read()
        if written is not None:
            written = {name: value for name, value in written.items() if name in identity or name not in _LATER}
        # a job that failed before its first row keeps nobody out
        if written is not None and written != identity and not overwrite and self.committed():
            different = of_another_run(self.path, written, identity)
            raise UsageError(f"{different}; give another --output, or --overwrite to begin anew.")
        if written != identity or (overwrite and self.committed() == photos):
            self._begin(identity)
        shutil.rmtree(self.attempts, ignore_errors=True)
        self.attempts.mkdir()

    def _begin(self, identity: Mapping[str, Any]) -> None:
        content = (json.dumps(identity, ensure_ascii=False, indent=1) + "\n").encode("utf-8", "surrogatepass")
        with atomic_write(self._job) as file:
            file.write(content)
            file.flush()  # first of all: where it cannot be written, what is there stays
            self._job.unlink(missing_ok=True)  # and then this: rows never lie beside what another job is
            shutil.rmtree(self.done, ignore_errors=True)
            for rows in self.path.glob(f"*{PARQUET}"):
                rows.unlink()
            self.done.mkdir(exist_ok=True)

    def _read(self) -> dict[str, Any] | None:
        try:
            written = json.loads(self._job.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return written if isinstance(written, dict) else None


@contextlib.contextmanager
def claimed(path: Path, identity: Mapping[str, Any], photos: int, *, overwrite: bool) -> Iterator[Output]:
    """A job's folder, kept from other jobs.

    Args:
        path: the folder; made if it is not there.
        identity: all that the rows depend on, by names that a person knows; values are JSON. `precision` may be left
            out until it is known: `Output.resume_or_begin`.
        photos: how many rows it will have.
        overwrite: give up what another or a finished job has written there.

    Raises:
        UsageError: rows of another job are there, or files of none.
        OutputError: it cannot be written, or another job is writing it.
    """
    from filelock import FileLock, Timeout

    refuse_unreadable(path)
    output = Output(path)
    lock = FileLock(output.state / "lock")
    try:
        # Path's own raise where a name is too long or a folder above may not be entered; mkdir says so below
        is_folder = os.path.isdir(path)  # noqa: PTH112
        if os.path.exists(path) and not is_folder:  # noqa: PTH110
            raise UsageError(f"{path} is a file; --output is a folder of Parquet files: give another.")
        if is_folder and not output.state.exists() and any(path.iterdir()):
            raise UsageError(f"{path} holds files that no bulk job wrote; give another --output.")
        output.state.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise OutputError(f"{path} is being written by another run; wait for it, or give another --output.") from None
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        output.resume_or_begin(identity, photos, overwrite=overwrite)
        yield output
    finally:
        lock.release()


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{error.filename or path} cannot be written ({error.strerror or error}).")
