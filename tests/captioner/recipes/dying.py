"""Runs a `captioner recipe` in a process that is killed at a chosen point."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any, NoReturn

CONTEXT = multiprocessing.get_context("forkserver")
_SLOW = ["torch.onnx._internal.exporter._core", "onnxscript", "matplotlib.figure", "matplotlib.backends.backend_agg"]
CONTEXT.set_forkserver_preload(["captioner.recipes.stages", "captioner.cli", "capexport.export", *_SLOW])

Moment = tuple[str, str, int]
"""File to be written (`last.pt`, `recipe.json`, `bundle`), its stage (or `export`), and the number of the write. The
process dies right before that write if the number is negative, else right after it."""


def run(arguments: list[str], moment: Moment | None) -> int:
    """Runs `captioner` until it ends or is killed, and returns its exit code."""
    process = CONTEXT.Process(target=_run, args=(arguments, moment, os.getcwd()))  # noqa: PTH109
    process.start()
    process.join()
    code = process.exitcode
    assert code is not None
    return code


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def _run(arguments: list[str], moment: Moment | None, place: str) -> None:
    os.chdir(place)
    import captioner.commands.recipe as command
    from captioner.cli import main
    from captioner.recipes.folder import RunFolder
    from captioner.training import loop

    what, stage, when = moment or ("", "", 0)
    times = 0

    def guarded(mine: bool, write: Any) -> Any:
        nonlocal times
        times += mine
        if mine and times == -when:
            _die()
        result = write()
        if mine and times == when:
            _die()
        return result

    save, note, export = loop.save_checkpoint, RunFolder.write, command.write_bundle

    def dying_save(path: Path, checkpoint: Any) -> None:
        mine = what == loop.LAST and path.name == loop.LAST and path.parent.name == stage
        guarded(mine, lambda: save(path, checkpoint))

    def dying_note(folder: RunFolder, **changes: Any) -> None:
        mine = what == "recipe.json" and stage in changes.get("done", ())
        guarded(mine, lambda: note(folder, **changes))

    def dying_export(*given: Any, **options: Any) -> None:
        guarded(what == "bundle", lambda: export(*given, **options))

    loop.save_checkpoint, command.write_bundle = dying_save, dying_export
    RunFolder.write = dying_note  # type: ignore[method-assign]
    main(arguments)
