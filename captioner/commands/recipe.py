"""`captioner recipe`: makes a bundle from captioned photos in one command."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from caprun.errors import CaprunError
from captioner.commands.console import own_command, say
from captioner.commands.export import check_bundle, write_bundle
from captioner.commands.options import (
    EXPORT,
    FILE,
    RunOptions,
    data_option,
    init_options,
    run_options,
    set_option,
    set_threads,
    setting_options,
)
from captioner.config import merged, parse_settings
from captioner.errors import CaptionerError

if TYPE_CHECKING:
    from captioner.datasets import DataSource
    from captioner.recipes.folder import RunFolder
    from captioner.recipes.recipe import Recipe
    from captioner.recipes.stages import RecipeRun


@click.command()
@click.argument("file", required=False, metavar="[FILE.toml]")
@data_option("Captioned photos; WEIGHT is how often each photo is shown in an epoch.")
@click.option("--output", type=FILE, metavar="BUNDLE", help="Folder of the bundle; required.")
@click.option(
    "--run", "run_path", type=FILE, metavar="DIR", show_default="runs/BUNDLE", help="Folder of the training runs."
)
@init_options("Model to start the first stage from.")
@setting_options("train.seed", *EXPORT, default=None, show_default="as in the recipe")
@set_option
@run_options
@click.option("--show", is_flag=True, help="Print the recipe, as a template for your own, and exit.")
def recipe(
    file: str | None,
    data: tuple[DataSource, ...],
    output: Path | None,
    run_path: Path | None,
    init: Path | None,
    new_vocabulary: bool,
    assignments: tuple[str, ...],
    given: dict[str, Any],
    run: RunOptions,
    show: bool,
) -> None:
    """Make a bundle from captioned photos: train the stages in FILE, one after another, then export.

    Without FILE, uses the recipe of the packaged model, which is also the best one known for other photos with English
    captions. Everything is checked before training starts. The same command continues a run that was interrupted or
    killed; only export options can be changed then.
    """
    from captioner.recipes.recipe import find_recipe, read_recipe

    path = find_recipe(file)
    if show:
        click.echo(path.read_text(encoding="utf-8"), nl=False)
        return
    if output is None:
        raise click.UsageError("Missing option '--output'.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise CaptionerError("A recipe runs in a single process; start it without torchrun.")
    export = given.pop("export", {})
    start = {**({"init": str(init)} if init else {}), **({"new_vocabulary": True} if new_vocabulary else {})}
    found = read_recipe(path, merged(parse_settings(assignments), given), start)
    asked = replace(found, export=replace(found.export, **export))
    try:
        _run(asked, data, output, run_path or Path("runs") / output.resolve().name, run)
    except KeyboardInterrupt:
        raise CaptionerError(f"Interrupted; the same command continues from here: `{own_command()}`.") from None


def _run(recipe: Recipe, data: Sequence[DataSource], output: Path, run_path: Path, options: RunOptions) -> None:
    from captioner.datasets import load_datasets
    from captioner.recipes.folder import data_digest, open_run
    from captioner.recipes.stages import RecipeRun, check_stages, train_stages

    set_threads(options.threads)
    first = recipe.stages[0].config.data
    dataset = load_datasets(data, first, allow_missing=options.allow_missing, cache=options.cache)
    for split in ("train", "dev"):
        dataset.split(split)
    check_bundle(output, recipe.export)
    check_stages(recipe, options.device, dataset)
    names = ", ".join(stage.name for stage in recipe.stages)
    say(f"recipe {recipe.name}: {names}, then {', '.join(recipe.export.precisions)} to {output}")
    with open_run(run_path, recipe, data_digest(dataset), output) as folder:
        if folder.state.exported == _description(recipe, output):
            say(f"already done: {run_path}")
            click.echo(f"caprun --model {shlex.quote(str(output))} PHOTO")
            return
        request = RecipeRun(recipe, dataset, options.cache_folder, own_command(), options.device, options.allow_missing)
        checkpoint = train_stages(request, folder, say)
        _export(checkpoint, output, request, folder)


def _export(checkpoint: Path, output: Path, request: RecipeRun, folder: RunFolder) -> None:
    recipe = request.recipe
    say(f"export: {checkpoint}")
    try:
        write_bundle(checkpoint, output, request.dataset, recipe.export, allow_missing=request.allow_missing)
        folder.write(exported=_description(recipe, output))
    except CaprunError as error:
        others = [precision for precision in recipe.export.precisions if precision != "fp32"]
        hint = f", and adding --precision fp32 skips {', '.join(others)}" if others else ""
        raise CaptionerError(
            f"{str(error).rstrip('.')}. All stages are trained; the same command repeats only the export{hint}."
        ) from error


def _description(recipe: Recipe, output: Path) -> str:
    """Returns a digest of a bundle and its settings; if it is unchanged, the export need not be repeated."""
    from caprun.bundle.manifest import MANIFEST
    from caprun.bundle.reading import read_bundle

    card = Path(recipe.export.card).read_text(encoding="utf-8") if recipe.export.card else ""
    try:
        read_bundle(output)
        made = (output / MANIFEST).read_text(encoding="utf-8")
    except CaprunError:
        made = ""  # missing or damaged
    return hashlib.sha256(json.dumps([asdict(recipe.export), card, made]).encode()).hexdigest()
