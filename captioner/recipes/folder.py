"""The folder of a recipe run, which records its recipe, its data and the stages that are done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from caprun.batch.results import of_another_run
from caprun.bundle.plain_data import from_dict
from captioner.datasets import Dataset
from captioner.errors import CaptionerError
from captioner.models.checkpoint import BEST
from captioner.output_files import locked_folder, write_whole
from captioner.recipes.recipe import Recipe, Stage

STATE = "recipe.json"
_FORMAT_VERSION = 2


@dataclass(frozen=True)
class State:
    """Content of `recipe.json`."""

    format_version: int
    identity: Mapping[str, Any]
    """Everything that the run depends on: `Recipe.trained`, the data and the output."""
    done: tuple[str, ...] = ()
    """Folders of the stages that are done."""
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

    def write(self, **changes: Any) -> None:
        """Changes parts of the state and writes it.

        Raises:
            CaptionerError: the file cannot be written.
        """
        self.state = replace(self.state, **changes)
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
    identity = {**recipe.trained(), "photos and captions": data[:12], "--output": str(output.resolve())}
    with locked_folder(path, "--run"):
        folder = RunFolder(path, _read(path / STATE) if others else State(_FORMAT_VERSION, identity))
        if folder.state.identity != identity:
            difference = of_another_run(path, folder.state.identity, identity, most=3)
            raise CaptionerError(f"{difference}; use the same again, or name another --run.")
        folder.write()
        yield folder


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
