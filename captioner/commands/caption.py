"""`captioner caption`: captions photos with PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from caprun.commands.caption import caption_photos
from caprun.commands.options import device_option, many_options, output_options, photos_argument
from caprun.commands.search_options import search_options
from captioner.commands.options import FILE, precision_option


@click.command()
@photos_argument
@click.option("--model", required=True, type=FILE, help="Checkpoint, TorchScript bundle or ONNX bundle.")
@device_option
@precision_option
@search_options
@output_options
@many_options
def caption(photos: tuple[str, ...], model: Path, device: str, precision: str | None, **options: Any) -> int:
    """Caption every PHOTO, as `caprun` does, with a checkpoint or a bundle."""
    from captioner.backends.loading import load_captioner

    return caption_photos(lambda many, _: load_captioner(model, device, precision, many=many), photos, **options)
