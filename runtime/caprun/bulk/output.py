"""The output of a bulk job: a folder of Parquet files, whose `.caprun` records the job and its progress.

Ray Data writes the rows of a block and then commits their ids to `.caprun/done`. When a job resumes, uncommitted rows
are removed, and committed ids are not read again.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from caprun.atomic_write import atomic_write
from caprun.batch.results import of_another_run, read_identity
from caprun.bulk.source import PARQUET, STATE, refuse_unreadable
from caprun.errors import OutputError, UsageError


class Output:
    """A folder that a job writes to; see `claimed`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = path / STATE
        self.done = self.state / "done"
        self.attempts = self.state / "attempts"
        self._job = self.state / "job.json"

    def committed(self) -> int:
        """Counts the rows whose ids are committed."""
        from pyarrow import parquet

        files = self.done.glob(f"*{PARQUET}")
        return sum(parquet.read_metadata(file).num_rows for file in files if not file.stem.endswith(".pending"))

    def verify(self, ids: Sequence[str | int], id_column: str) -> tuple[int, int]:
        """Checks that the rows hold every id exactly once; returns the number of errors and of abstentions.

        Raises:
            OutputError: An id is missing or repeated.
        """
        from pyarrow import dataset

        files = [str(file) for file in self.path.glob(f"*{PARQUET}")]
        columns = [id_column, "error", "abstained"]
        table = dataset.dataset(files, format="parquet").to_table(columns=columns) if files else None
        found = [] if table is None else table[id_column].to_pylist()
        if table is None or sorted(found) != sorted(ids):
            raise OutputError(
                f"{self.path} has {len(found):,} rows, but not one for each of {len(ids):,} photos: its files were "
                "changed, or a killed job was still writing; --overwrite starts over."
            )
        failed, abstained = (int(table.num_rows - table[column].null_count) for column in columns[1:])
        return failed, abstained

    def resume_or_begin(self, identity: Mapping[str, Any], photos: int, *, overwrite: bool) -> None:
        """Resumes this job, or empties the folder for it; see `claimed` for arguments and errors."""
        identity = json.loads(json.dumps(identity))  # as it is read back: tuples become lists
        written = read_identity(self._job)
        # a job that failed before its first row does not block another job
        if written is not None and written != identity and not overwrite and self.committed():
            different = of_another_run(self.path, written, identity)
            raise UsageError(f"{different}; give another --output, or --overwrite to start over.")
        if written != identity or (overwrite and self.committed() == photos):
            self._begin(identity)
        shutil.rmtree(self.attempts, ignore_errors=True)
        self.attempts.mkdir()

    def _begin(self, identity: Mapping[str, Any]) -> None:
        content = (json.dumps(identity, ensure_ascii=False, indent=1) + "\n").encode("utf-8", "surrogatepass")
        with atomic_write(self._job) as file:
            file.write(content)
            file.flush()  # on a full disk, the old rows stay
            self._job.unlink(missing_ok=True)  # rows never have another job's description
            shutil.rmtree(self.done, ignore_errors=True)
            for rows in self.path.glob(f"*{PARQUET}"):
                rows.unlink()
            self.done.mkdir(exist_ok=True)


@contextlib.contextmanager
def claimed(path: Path, identity: Mapping[str, Any], photos: int, *, overwrite: bool) -> Iterator[Output]:
    """Opens or creates a job's folder, and locks it against other jobs.

    `identity` is everything that the rows depend on, as JSON, by human-readable names.

    Raises:
        UsageError: The folder holds rows of another job, or files that were not written by a job.
        OutputError: The folder cannot be written, or another job is writing it.
    """
    from filelock import FileLock, Timeout

    refuse_unreadable(path)
    output = Output(path)
    with contextlib.ExitStack() as stack:
        try:
            # os.path does not raise if a name is too long or a parent folder cannot be entered; mkdir below does
            is_folder = os.path.isdir(path)  # noqa: PTH112
            if os.path.exists(path) and not is_folder:  # noqa: PTH110
                raise UsageError(f"{path} is a file, but --output is a folder of Parquet files; give another.")
            if is_folder and not output.state.exists() and any(path.iterdir()):
                raise UsageError(f"{path} holds files that were not written by a bulk job; give another --output.")
            output.state.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(output.state / "lock").acquire(timeout=0))
            output.resume_or_begin(identity, photos, overwrite=overwrite)
        except Timeout:
            raise OutputError(
                f"{path} is being written by another run; wait for it, or give another --output."
            ) from None
        except OSError as error:
            raise OutputError(f"{error.filename or path} cannot be written ({error.strerror or error}).") from error
        yield output
