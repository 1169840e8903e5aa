"""Options that several commands share."""

import os
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from caprun.commands.click_types import Number

F = TypeVar("F", bound=Callable[..., object])

min_confidence_option = click.option(
    "--min-confidence",
    type=Number("p", 0, 1),
    help="No caption for a photo where the model's confidence, a calibrated probability, is below P.",
)
"""The option, on whichever command captions; P is the parameter `min_confidence`."""


def output_options(command: F) -> F:
    """What to write about the photos, on whichever command captions them."""
    path = click.Path(path_type=Path)
    for option in (
        click.option("--font", type=path, help="TrueType font for the pictures, if yours has not your letters."),
        click.option("--picture", type=path, metavar="FILE.png", help="Write the photo with its caption."),
        click.option("--attention", type=path, metavar="FILE.png", help="Write where the model looked for each word."),
        click.option("--json", "as_json", is_flag=True, help="One JSON object a photo, with log-probabilities."),
        min_confidence_option,
    ):
        command = option(command)
    return command


class Many(NamedTuple):
    """How many photos are captioned: see `many_options`."""

    output: str | None
    overwrite: bool
    recursive: bool
    batch_size: int | None
    decoders: int | None

    def meant(self, photos: Sequence[str]) -> bool:
        """Whether they are many: written to files, in a folder, on standard input, or simply many."""
        if self.output is not None or len(photos) > _FEW:
            return True
        return any(p == "-" or os.path.isdir(p) for p in photos)  # noqa: PTH112  (which never fails)


_FEW = 16  # up to so many are captioned one by one, each by all cores


def many_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of many photos, on whichever command captions them; it gets them as its parameter `many`."""

    @wraps(command)
    def collecting(**parameters: Any) -> Any:
        return command(many=Many(**{name: parameters.pop(name) for name in Many._fields}), **parameters)

    for option in (
        click.option("--decoders", type=click.IntRange(1, 256), help="Threads that read photos.  [default: all cores]"),
        click.option(
            "--batch-size", type=click.IntRange(1, 1024), help="Photos computed together.  [default: 8; on CUDA 64]"
        ),
        click.option("--recursive", is_flag=True, help="Look into the folders in a folder too."),
        click.option("--overwrite", is_flag=True, help="Give up what another or a finished run wrote to --output."),
        click.option(
            "--output",
            metavar="FILE|DIR/",
            help="Write a row a photo to a .jsonl or .csv FILE; or photo.txt for photo.jpg into DIR, and all rows to "
            "DIR/captions.jsonl. The same command goes on where it was stopped.",
        ),
    ):
        collecting = option(collecting)
    return collecting


photos_argument = click.argument("photos", nargs=-1, required=True, metavar="PHOTO...")
