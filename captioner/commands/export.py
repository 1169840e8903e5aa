"""`captioner export`: a checkpoint to a bundle, proved."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from captioner.commands.console import FILE, say
from captioner.commands.files import newest


@click.command()
@click.argument("checkpoint", type=FILE, required=False)
@click.option("--format", "kind", type=click.Choice(["onnx", "torchscript"]), default="onnx", show_default=True)
@click.option("--output", type=FILE, help="Folder of the bundle.  [default: weights/RUN]")
@click.option("--name", help="The model's name.  [default: the folder's]")
@click.option("--licence", default="unknown", show_default=True, help="Licence of the weights, for the model card.")
@click.option("--card", type=FILE, metavar="FILE.md", help="Text to begin the model card with.")
@click.option("--data", type=FILE, help="Prove it on this dataset's dev photos too.")
@click.option("--data-photos", type=click.IntRange(1), default=200, show_default=True, help="How many of them.")
def export(
    checkpoint: Path | None,
    kind: Any,
    output: Path | None,
    name: str | None,
    licence: str,
    card: Path | None,
    data: Path | None,
    data_photos: int,
) -> None:
    """Write a bundle from CHECKPOINT (the newest run's best), and prove that it says the same as PyTorch."""
    from capexport.export import Request
    from capexport.export import export as run
    from captioner.training.loop import BEST

    checkpoint = checkpoint or newest(Path("runs"), BEST)
    run_name = checkpoint.resolve().parent.name
    output = output or Path("weights") / (run_name if kind == "onnx" else f"{run_name}-{kind}")
    photos = _photos(data, data_photos) if data else []
    run(Request(checkpoint, kind, output, name or output.resolve().name, licence, card, photos), say)
    program = "caprun" if kind == "onnx" else "captioner caption"
    click.echo(f"{program} --model {shlex.quote(str(output))} PHOTO")


def _photos(data: Path, count: int) -> list[Path]:
    from captioner.datasets import load_dataset

    return [example.image for example in load_dataset(data).split("dev")[:count]]
