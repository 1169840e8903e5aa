"""The folder of a recipe run, which records its recipe, its data and the stages that are done."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from caprun.bundle.plain_data import from_dict
from captioner.datasets import Dataset
from captioner.errors import CaptionerError
from captioner.models.checkpoint import BEST, LAST
from captioner.output_files import locked_folder, write_whole
from captioner.recipes.recipe import Recipe, Stage, differences

STATE = "recipe.json"
_FORMAT_VERSION = 1


@dataclass
class Work:
    """Progress of a stage or of the export."""

    seconds: float = 0.0
    """Wall time so far."""
    began: float | None = None
    """Start of the current work as `time.time()`, kept if it is killed; None if no work is in progress."""
    done: bool = False


@dataclass
class State:
    """Content of `recipe.json`."""

    format_version: int
    recipe: str
    """Name of the recipe."""
    trained: tuple[Mapping[str, Any], ...]
    """Result of `Recipe.trained`."""
    data: str
    """Result of `data_digest`."""
    output: str
    """Folder of the bundle."""
    work: dict[str, Work]
    """Progress by the stage's folder, or `export`."""
    exported: str = ""
    """Digest of the bundle and its settings; empty before the export."""


class RunFolder:
    """The folder of a run that `open_run` has locked.

    Args:
        path: the folder.
        state: the progress of the run.
    """

    def __init__(self, path: Path, state: State) -> None:
        self.path, self.state = path, state

    @contextmanager
    def working(self, name: str) -> Iterator[State]:
        """Records that work began, how long it took, and, unless an exception is raised, that it is done."""
        work, began = self.state.work[name], time.monotonic()
        work.began, work.done = time.time(), False
        self.write()
        try:
            yield self.state
            work.done = True
        finally:
            work.seconds += time.monotonic() - began
            work.began = None
            self.write()

    def count_killed_work(self) -> None:
        """Adds the time up to the last checkpoint of killed work; work after that checkpoint is repeated."""
        for name, work in self.state.work.items():
            if work.began is not None:
                last = self.path / name / LAST
                until = last.stat().st_mtime if last.exists() else work.began
                work.seconds += max(0.0, until - work.began)
                work.began = None

    def write(self) -> None:
        """Writes the state.

        Raises:
            CaptionerError: the file cannot be written.
        """
        write_whole("The file", self.path / STATE, json.dumps(asdict(self.state), indent=1))


@contextmanager
def open_run(path: Path, recipe: Recipe, data: str, output: Path) -> Iterator[RunFolder]:
    """Starts or continues a run, and locks its folder within the context.

    Args:
        path: the folder; created if it is missing.
        recipe: the recipe to run.
        data: digest of the dataset, from `data_digest`.
        output: folder of the bundle.

    Raises:
        CaptionerError: another process uses the folder, it holds other files or a run with a different recipe, data or
            output, or it cannot be written.
    """
    others = sorted(file.name for file in path.glob("[!.]*"))
    if others and STATE not in others:
        raise CaptionerError(
            f"{path} holds {others[0]}, which is not part of a recipe run; name another folder with --run."
        )
    work = {name: Work() for name in [*(stage.folder for stage in recipe.stages), "export"]}
    asked = State(_FORMAT_VERSION, recipe.name, tuple(recipe.trained()), data, str(output.resolve()), work)
    with locked_folder(path, "--run"):
        folder = RunFolder(path, _read(path / STATE) if others else asked)
        if difference := _difference(folder.state, asked):
            raise CaptionerError(
                f"The run in {path} was started with {difference}; use the same again, or name another --run."
            )
        folder.count_killed_work()
        folder.write()
        yield folder


def _difference(state: State, asked: State) -> str:
    """Describes what a run was started with, if it differs from `asked`."""
    if found := differences(state.trained, asked.trained):
        more = f" and {len(found) - 3} more settings" if len(found) > 3 else ""
        return f"a different recipe: {', '.join(found[:3])}{more}"
    if state.data != asked.data:
        return "different photos or captions"
    return f"--output {state.output}" if state.output != asked.output else ""


def _read(file: Path) -> State:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(data, dict) and data.get("format_version", _FORMAT_VERSION) != _FORMAT_VERSION:
            raise CaptionerError(f"{file} was written by another version of captioner; name another --run.")
        return from_dict(State, data)
    except OSError as error:
        raise CaptionerError(f"{file} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise CaptionerError(f"{file} is damaged ({error}); name another folder with --run.") from None


def best_of(run: Path, stage: Stage) -> Path:
    """Returns the best checkpoint of a finished stage.

    Raises:
        CaptionerError: the checkpoint is missing.
    """
    best = run / stage.folder / BEST
    if not best.is_file():
        raise CaptionerError(
            f"Stage {stage.number} is done, but {best} is missing; restore it, or name another folder with --run."
        )
    return best


def data_digest(dataset: Dataset) -> str:
    """Returns the SHA-256 of the photos' names, splits, captions and weights, regardless of the folder's path."""
    rows: list[object] = [[example.image.name, example.split, *example.references] for example in dataset.examples]
    if dataset.parts:
        rows += [[part.weight, len(part.examples)] for part in dataset.parts]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
