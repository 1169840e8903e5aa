"""Options that several commands share."""

import os
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, NamedTuple

import click

from caprun.commands.click_types import Number
from caprun.commands.pictures import picture_options

min_confidence_option = click.option(
    "--min-confidence",
    type=Number("p", 0, 1),
    help="Abstain from a caption whose confidence, a calibrated probability, is below P.  [default: never]",
)
"""The option of every command that captions; P is the parameter `min_confidence`."""


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of what is written for the photos to a command that captions them."""
    command = min_confidence_option(command)
    command = click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each photo.")(command)
    return picture_options(command)


class Many(NamedTuple):
    """How many photos are captioned; see `many_options`."""

    output: str | None
    overwrite: bool
    recursive: bool
    batch_size: int | None
    decoders: int | None

    def meant(self, photos: Sequence[str]) -> bool:
        """Returns whether photos are captioned in batches: written to files, from a folder or a list, or numerous."""
        if self.output is not None or len(photos) > _FEW:
            return True
        return any(p == "-" or os.path.isdir(p) for p in photos)  # noqa: PTH112  (which never fails)


_FEW = 16  # up to this many photos are captioned one by one, each on all cores


def many_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of batches to a command, which receives them as its parameter `many`."""

    @wraps(command)
    def collecting(**parameters: Any) -> Any:
        return command(many=Many(**{name: parameters.pop(name) for name in Many._fields}), **parameters)

    threads, photos = click.IntRange(1, 256), click.IntRange(1, 1024)
    for option in (
        click.option("--decoders", type=threads, show_default="all cores", help="Threads that read photos."),
        click.option("--batch-size", type=photos, show_default="8; on CUDA 64", help="Photos computed together."),
        click.option("--recursive", is_flag=True, help="Look into subfolders too."),
        click.option("--overwrite", is_flag=True, help="Replace what another or a finished run wrote to --output."),
        click.option(
            "--output",
            metavar="FILE|DIR/",
            help="Write a row for each photo to FILE (.jsonl or .csv); or the caption of photo.jpg to DIR/photo.txt, "
            "and all rows to DIR/captions.jsonl. A run that was stopped goes on with the same command.",
        ),
    ):
        collecting = option(collecting)
    return collecting


photos_argument = click.argument("photos", nargs=-1, required=True, metavar="PHOTO...")
