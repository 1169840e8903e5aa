"""`captioner average`: one model of several, and how good it is."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from captioner.commands.console import DEVICES, FILE, data_option, say

if TYPE_CHECKING:
    from captioner.datasets import DataSource


@click.command()
@click.argument("checkpoints", type=FILE, nargs=-1, required=True)
@click.option("--weight", "weights", type=float, multiple=True, help="Of each checkpoint in turn.  [default: alike]")
@click.option("--output", type=FILE, required=True, metavar="FILE.pt", help="The checkpoint to write.")
@data_option("Folder of captioned photos.")
@click.option("--device", type=DEVICES, default="auto", show_default=True, help="To score it on.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.  [default: all cores]")
@click.option("--allow-missing", is_flag=True, help="Go on without photos that are missing or cannot be read.")
def average(
    checkpoints: tuple[Path, ...],
    weights: tuple[float, ...],
    output: Path,
    data: tuple[DataSource, ...],
    device: str,
    threads: int | None,
    allow_missing: bool,
) -> None:
    """Write the mean of the weights of CHECKPOINTS, and score it on dev.

    They are of trainings that began with the same model (--init), and may have that model among them. The mean is as
    fast as one of them, and often better than each.
    """
    from captioner.backends.pytorch import torch_device
    from captioner.commands.train import set_threads
    from captioner.datasets import load_datasets
    from captioner.errors import CaptionerError
    from captioner.evaluation.metrics import keys_by_dataset
    from captioner.models.checkpoint import prepare_folder, save_checkpoint
    from captioner.training.averaging import average as mean
    from captioner.training.averaging import scored

    if output.exists():
        raise CaptionerError(f"{output} is there already; name another --output.")
    prepare_folder(output.parent)
    set_threads(threads)
    command = shlex.join(["captioner", *sys.argv[1:]])
    made = mean(checkpoints, weights or [1.0] * len(checkpoints), command)
    drawn = made.config.data
    dataset = load_datasets(data, allow_missing=allow_missing, splits=drawn.splits, seed=drawn.split_seed)
    made = scored(made, dataset.split("dev"), torch_device(device), say, allow_missing=allow_missing)
    save_checkpoint(output, made)
    say(
        "  ".join(
            f"{name} {made.metrics[name]:.3f}"
            for name in ("dev_loss", "bleu_4", "cider", *keys_by_dataset(made.metrics))
        )
    )
    say(f"average of {len(checkpoints)}: {output}")
