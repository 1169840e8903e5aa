"""The folder of a recipe's run: what was begun there, which stages are done, and that one process works in it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from caprun.atomic_write import atomic_write
from caprun.bundle.plain_data import from_dict
from captioner.datasets import Dataset
from captioner.errors import CaptionerError
from captioner.recipes.recipe import Recipe, Stage, differences

STATE = "recipe.json"
_FORMAT_VERSION = 1


@dataclass
class Work:
    """How far a stage is, or the export."""

    seconds: float = 0.0
    """Wall time so far."""
    began: float | None = None
    """Where somebody is at it, or was killed: when that began (`time.time`)."""
    done: bool = False


@dataclass
class State:
    """What stands in `recipe.json`."""

    format_version: int
    recipe: str
    """Its name."""
    trained: tuple[Mapping[str, Any], ...]
    """See `Recipe.trained`."""
    data: str
    """See `data_digest`."""
    output: str
    work: dict[str, Work]
    """By the stage's folder, and `export`."""
    exported: str = ""
    """What describes the bundle that was made, and the settings it was made with."""


class RunFolder:
    """A run's folder, which is this process's alone until it is closed.

    Args:
        path: made if it is not there.
        recipe, data, output: what is asked for; `data` from `data_digest`.

    Raises:
        CaptionerError: somebody else works in it, it holds something else or what was begun with another recipe, data
            or output, or it cannot be written.
    """

    def __init__(self, path: Path, recipe: Recipe, data: str, output: Path) -> None:
        from filelock import FileLock, Timeout

        self.path = path
        asked = State(
            _FORMAT_VERSION,
            recipe.name,
            tuple(recipe.trained()),
            data,
            str(output.resolve()),
            {name: Work() for name in [*(stage.folder for stage in recipe.stages), "export"]},
        )
        try:
            path.mkdir(parents=True, exist_ok=True)
            others = sorted(file.name for file in path.iterdir() if not file.name.startswith("."))
            if others and STATE not in others:
                raise CaptionerError(f"{path} holds {others[0]} and no recipe's run; name another folder with --run.")
            self._lock = FileLock(path / ".lock")
            self._lock.acquire(timeout=0)
        except Timeout:
            raise CaptionerError(f"Somebody is at work in {path}; wait, or name another folder with --run.") from None
        except OSError as error:
            raise CaptionerError(
                f"The folder {path} cannot be written: {error.strerror}; name another --run."
            ) from error
        try:
            self.state = self._read() if (path / STATE).exists() else asked
            self._refuse_another(asked)
            self._count_what_was_killed()
            self._write()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Leave it to others."""
        self._lock.release()

    def work(self, name: str) -> Work:
        """How far a stage is, by its folder, or `export`."""
        return self.state.work[name]

    @contextmanager
    def working(self, name: str) -> Iterator[State]:
        """Note that this is being worked at, how long it took, and that it is done if nothing is raised."""
        work, began = self.work(name), time.monotonic()
        work.began, work.done = time.time(), False
        self._write()
        try:
            yield self.state
            work.done = True
        finally:
            work.seconds += time.monotonic() - began
            work.began = None
            self._write()

    def _count_what_was_killed(self) -> None:
        """The time up to the last checkpoint counts: what came after it is done again."""
        for name, work in self.state.work.items():
            if work.began is not None:
                last = self.path / name / "last.pt"
                until = last.stat().st_mtime if last.exists() else work.began
                work.seconds += max(0.0, until - work.began)
                work.began = None

    def _refuse_another(self, asked: State) -> None:
        state = self.state
        found = differences(state.trained, asked.trained)
        if found:
            more = f", and {len(found) - 3} settings more" if len(found) > 3 else ""
            self._refuse(f"another recipe: {', '.join(found[:3])}{more}")
        if state.data != asked.data:
            self._refuse("other photos or captions")
        if state.output != asked.output:
            self._refuse(f"--output {state.output}")

    def _refuse(self, what: str) -> None:
        raise CaptionerError(
            f"What is in {self.path} was begun with {what}; ask for the same to go on, or name another --run."
        )

    def _read(self) -> State:
        file = self.path / STATE
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            version = data.get("format_version") if isinstance(data, dict) else None
            if type(version) is int and version > _FORMAT_VERSION:
                raise CaptionerError(f"{file} was written by a newer captioner; upgrade this one.")
            state = from_dict(State, data)
            if state.format_version != _FORMAT_VERSION:
                raise ValueError("its format_version is another")
        except OSError as error:
            raise CaptionerError(f"{file} cannot be read: {error.strerror}.") from error
        except (ValueError, RecursionError) as error:
            raise CaptionerError(
                f"{file} does not say what was done here ({error}); name another folder with --run."
            ) from None
        return state

    def _write(self) -> None:
        file = self.path / STATE
        try:
            with atomic_write(file) as stream:
                stream.write(json.dumps(asdict(self.state), indent=1).encode())
        except OSError as error:
            raise CaptionerError(f"{file} cannot be written: {error.strerror}.") from error


def best_of(run: Path, stage: Stage) -> Path:
    """The best checkpoint of a stage that is done.

    Raises:
        CaptionerError: it is no longer there.
    """
    from captioner.models.checkpoint import BEST

    best = run / stage.folder / BEST
    if not best.is_file():
        raise CaptionerError(
            f"Stage {stage.number} was done and its {best} is gone; put it back, or name another folder with --run."
        )
    return best


def data_digest(dataset: Dataset) -> str:
    """Returns the sha256 of the photos' names, splits, captions and weights; the folder's place does not matter."""
    rows: list[object] = [[example.image.name, example.split, *example.references] for example in dataset.examples]
    if dataset.parts:
        rows += [[part.weight, len(part.examples)] for part in dataset.parts]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
