"""`captioner average`: averages the weights of several models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from caprun.commands.options import device_option
from captioner.commands.console import own_command, say
from captioner.commands.options import (
    FILE,
    allow_missing_option,
    cache_option,
    data_option,
    set_threads,
    threads_option,
)

if TYPE_CHECKING:
    from captioner.datasets import DataSource


@click.command()
@click.argument("checkpoints", type=FILE, nargs=-1, required=True)
@click.option("--weight", "weights", type=float, multiple=True, help="Weight of a checkpoint; one for each, in order.")
@click.option("--output", type=FILE, required=True, metavar="FILE.pt", help="Checkpoint to write.")
@data_option("Captioned photos.")
@device_option
@threads_option
@cache_option
@allow_missing_option
def average(
    checkpoints: tuple[Path, ...],
    weights: tuple[float, ...],
    output: Path,
    data: tuple[DataSource, ...],
    device: str,
    threads: int | None,
    cache: Path | None,
    allow_missing: bool,
) -> None:
    """Average the weights of CHECKPOINTS, and score the result on dev.

    The checkpoints must come from training runs that started from the same model (--init), or be that model. The
    average is as fast as a single model, and often better than each. Without --weight, all have the same weight.
    """
    from captioner.backends.pytorch import torch_device
    from captioner.datasets import load_datasets
    from captioner.errors import CaptionerError
    from captioner.evaluation.metrics import score_line
    from captioner.models.checkpoint import save_checkpoint
    from captioner.output_files import prepare_folder
    from captioner.training.averaging import average as mean
    from captioner.training.averaging import scored

    if output.exists():
        raise CaptionerError(f"{output} already exists; name another --output.")
    prepare_folder(output.parent)
    set_threads(threads)
    made = mean(checkpoints, weights or [1.0] * len(checkpoints), own_command())
    dataset = load_datasets(data, made.config.data, allow_missing=allow_missing, cache=cache)
    made = scored(made, dataset.split("dev"), torch_device(device), say, allow_missing=allow_missing)
    save_checkpoint(output, made)
    say(score_line(made.metrics))
    say(f"average of {len(checkpoints)}: {output}")
