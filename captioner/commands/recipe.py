"""`captioner recipe`: photos and captions to a bundle, in one command."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from caprun.errors import CaprunError
from captioner.commands.console import DEVICES, FILE, data_option, say
from captioner.commands.export import check_bundle, write_bundle
from captioner.commands.train import default_cache, set_threads
from captioner.errors import CaptionerError

if TYPE_CHECKING:
    from captioner.datasets import Dataset, DataSource
    from captioner.recipes.folder import RunFolder
    from captioner.recipes.recipe import Recipe


@click.command()
@click.argument("file", required=False, metavar="[FILE.toml]")
@data_option("Folder of captioned photos; WEIGHT is how often each of its photos is shown in an epoch.")
@click.option("--output", type=FILE, metavar="BUNDLE", help="Folder of the bundle; needed.")
@click.option("--run", "run_path", type=FILE, metavar="DIR", help="Folder of the trainings.  [default: runs/BUNDLE]")
@click.option("--seed", type=click.IntRange(0), help="Of every stage.  [default: the recipe's, which is 0]")
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="A setting of every stage.")
@click.option("--name", help="The model's name.  [default: the recipe's, or the bundle's folder]")
@click.option("--licence", help="Licence of the weights, for the model card.  [default: the recipe's, or unknown]")
@click.option("--card", type=FILE, metavar="FILE.md", help="Text to begin the model card with.")
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["fp32", "int8", "fp16"]),
    multiple=True,
    help="Graphs to write; those of fp32 always are.  [default: the recipe's]",
)
@click.option("--device", type=DEVICES, default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(1), help="CPU threads.  [default: all cores]")
@click.option("--cache", type=FILE, help="Folder for the encoder's features.  [default: ~/.cache/captioner]")
@click.option("--allow-missing", is_flag=True, help="Go on without photos that are missing or cannot be read.")
@click.option("--show", is_flag=True, help="Print the recipe, to begin one of your own with, and do nothing.")
def recipe(
    file: str | None,
    data: tuple[DataSource, ...],
    output: Path | None,
    run_path: Path | None,
    seed: int | None,
    settings: tuple[str, ...],
    name: str | None,
    licence: str | None,
    card: Path | None,
    precisions: tuple[str, ...],
    device: str,
    threads: int | None,
    cache: Path | None,
    allow_missing: bool,
    show: bool,
) -> None:
    """Make a bundle from captioned photos: every training that FILE lists, one after the other, then the export.

    Without FILE it is the recipe of the packaged model, which is also the best that is known for photos of your own.
    Everything is checked before the first training. A run that was stopped or killed goes on where it was when the same
    command is given again; only what the export is told (name, licence, card, precision) may change then.
    """
    from captioner.recipes.recipe import find_recipe, read_recipe

    path = find_recipe(file)
    if show:
        click.echo(path.read_text(encoding="utf-8"), nl=False)
        return
    if output is None:
        raise click.UsageError("Missing option '--output'")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise CaptionerError("A recipe is trained by one process; start it without torchrun.")
    seeds = [] if seed is None else [f"train.seed={seed}"]
    given = read_recipe(path, [*settings, *seeds])
    asked = given.exported(name=name, licence=licence, card=card, precisions=precisions or None)
    command = shlex.join(["captioner", *sys.argv[1:]])
    try:
        _run(
            asked,
            data,
            output,
            run_path or Path("runs") / output.resolve().name,
            command,
            device,
            threads,
            cache,
            allow_missing,
        )
    except KeyboardInterrupt:
        raise CaptionerError(f"Interrupted; the same command goes on from there: `{command}`.") from None


def _run(
    recipe: Recipe,
    data: Sequence[DataSource],
    output: Path,
    run_path: Path,
    command: str,
    device: str,
    threads: int | None,
    cache: Path | None,
    allow_missing: bool,
) -> None:
    from captioner.datasets import load_datasets
    from captioner.recipes.folder import RunFolder, data_digest
    from captioner.recipes.stages import Request, check_stages, train_stages

    set_threads(threads)
    first = recipe.stages[0].config.data
    dataset = load_datasets(data, allow_missing=allow_missing, splits=first.splits, seed=first.split_seed)
    for split in ("train", "dev"):
        dataset.split(split)
    check_bundle(output, recipe.card)
    cache = cache or default_cache()
    _warn_of_little_room(cache, check_stages(recipe, device, dataset))
    names = ", ".join(stage.name for stage in recipe.stages)
    say(f"recipe {recipe.name}: {names}, then {', '.join(recipe.export.precisions)} to {output}")
    folder = RunFolder(run_path, recipe, data_digest(dataset), output)
    try:
        if folder.work("export").done and folder.state.exported == _description(recipe, output):
            say(f"done before: {run_path}")
            click.echo(f"caprun --model {shlex.quote(str(output))} PHOTO")
            return
        request = Request(recipe, dataset, cache, command, device, allow_missing)
        checkpoint = train_stages(request, folder, say)
        _export(recipe, checkpoint, output, dataset, folder, allow_missing=allow_missing)
    finally:
        folder.close()


def _warn_of_little_room(cache: Path, needed: int) -> None:
    """Some of what is needed may be there from before, so it is no reason to refuse."""
    free = shutil.disk_usage(next(folder for folder in (cache, *cache.absolute().parents) if folder.is_dir())).free
    if needed > free:
        say(
            f"warning: the features of all stages take {needed / 1e9:.1f} GB in {cache}, and {free / 1e9:.1f} GB are "
            "free there; make room, or name a folder on another disk with --cache"
        )


def _export(
    recipe: Recipe, checkpoint: Path, output: Path, dataset: Dataset, folder: RunFolder, *, allow_missing: bool
) -> None:
    export = recipe.export
    say(f"export: {checkpoint}")
    try:
        with folder.working("export") as state:
            write_bundle(
                checkpoint,
                "onnx",
                output,
                dataset,
                export.name or None,
                export.licence,
                recipe.card,
                export.precisions,
                export.calibration,
                data_photos=export.data_photos,
                allow_missing=allow_missing,
            )
            state.exported = _description(recipe, output)
    except CaprunError as error:
        others = [precision for precision in export.precisions if precision != "fp32"]
        hint = f", and with --precision fp32 the bundle is without {', '.join(others)}" if others else ""
        raise CaptionerError(
            f"{str(error).rstrip('.')}. All stages are trained: the same command only exports again{hint}."
        ) from error


def _description(recipe: Recipe, output: Path) -> str:
    """Of a bundle and the settings it is of: it need not be made again where both are what they were."""
    from caprun.bundle.manifest import MANIFEST
    from caprun.bundle.reading import read_bundle

    card = recipe.card.read_text(encoding="utf-8") if recipe.card else ""
    try:
        read_bundle(output)
        made = (output / MANIFEST).read_text(encoding="utf-8")
    except CaprunError:
        made = ""  # gone, or no longer whole
    return hashlib.sha256(json.dumps([asdict(recipe.export), card, made]).encode()).hexdigest()
