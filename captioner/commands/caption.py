"""`captioner caption`: what `caprun` does, with PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from caprun.commands.caption import caption_photos
from caprun.commands.options import many_options, output_options, photos_argument
from caprun.commands.search_options import search_options
from captioner.commands.console import DEVICES, FILE


@click.command()
@photos_argument
@click.option("--model", required=True, type=FILE, help="A TorchScript or ONNX bundle, or a checkpoint.")
@click.option("--device", type=DEVICES, default="auto", show_default=True)
@click.option("--precision", help="Of an ONNX bundle, such as fp32.  [default: the fastest measured on such hardware]")
@search_options
@output_options
@many_options
def caption(photos: tuple[str, ...], model: Path, device: str, precision: str | None, **options: Any) -> int:
    """Print a caption for every PHOTO, with PyTorch: what `caprun` does, for checkpoints and TorchScript bundles."""
    from captioner.backends.loading import load_captioner

    return caption_photos(lambda many: load_captioner(model, device, precision, many=many), photos, **options)
