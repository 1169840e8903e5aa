"""Options that several commands share."""

import os
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Literal, NamedTuple

import click

from caprun.commands.click_types import Number
from caprun.commands.pictures import Pictures
from caprun.errors import UsageError

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

photos_argument = click.argument("photos", nargs=-1, required=True, metavar="PHOTO...")
min_confidence_option = click.option(
    "--min-confidence",
    type=Number("p", 0, 1),
    help="Abstain if the confidence of a caption, a calibrated probability, is below P.  [default: never]",
)
model_option = click.option(
    "--model",
    envvar="CAPRUN_MODEL",
    metavar="DIR|NAME",
    help="Bundle: a directory, or a name from `caprun models`.  [default: $CAPRUN_MODEL, else the packaged bundle]",
)
device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Device to run on."
)
precision_option = click.option(
    "--precision", help="Precision, such as fp32.  [default: the fastest measured on similar hardware]"
)


def collected(
    parameter: str, names: Iterable[str], collect: Callable[..., Any], options: Sequence[Decorator]
) -> Decorator:
    """Returns a decorator that adds options to a command, which receives them as one parameter.

    The value of the parameter is the result of `collect`, called with keyword arguments of these names.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def collecting(**parameters: Any) -> Any:
            values = {name: parameters.pop(name) for name in names}
            return command(**{parameter: collect(**values)}, **parameters)

        decorated: Callable[..., Any] = collecting
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate


class ModelOptions(NamedTuple):
    """Options for loading a model; see `caprun.engine.Captioner.load`."""

    model: str | None
    device: Literal["auto", "cpu", "cuda"]
    precision: str | None
    threads: int | None


model_options = collected(
    "model",
    ModelOptions._fields,
    ModelOptions,
    (
        model_option,
        device_option,
        click.option("--threads", type=click.IntRange(1), help="CPU threads.  [default: all cores]"),
        precision_option,
    ),
)

_PICTURE = click.Path(path_type=Path)
_picture_options = collected(
    "pictures",
    Pictures._fields,
    Pictures,
    (
        click.option(
            "--attention",
            type=_PICTURE,
            metavar="FILE",
            help="Write a picture of where the model looked for each word; the extension selects the format.",
        ),
        click.option(
            "--picture",
            type=_PICTURE,
            metavar="FILE",
            help="Write the photo with its caption; the extension selects PNG, JPEG, WebP, GIF or BMP.",
        ),
        click.option(
            "--font",
            type=_PICTURE,
            metavar="FILE",
            help="TrueType font for captions drawn on pictures.  "
            "[default: Pillow's font, or a system font that has the glyphs]",
        ),
    ),
)


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options for printed and drawn output."""
    command = min_confidence_option(command)
    command = click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each photo.")(command)
    return _picture_options(command)


class Many(NamedTuple):
    """Options for captioning many photos."""

    output: str | None
    overwrite: bool
    recursive: bool
    exclude: tuple[str, ...]
    batch_size: int | None
    decoders: int | None
    xmp: bool
    xmp_alt: bool
    xmp_name: Literal["file", "stem"]

    def check(self) -> None:
        """Refuses options that need another option.

        Raises:
            UsageError: The other option is missing.
        """
        if self.overwrite and self.output is None and not self.xmp:
            raise UsageError("--overwrite needs --output or --xmp.")
        if self.xmp_alt and not self.xmp:
            raise UsageError("--xmp-alt needs --xmp.")

    def meant(self, photos: Sequence[str]) -> bool:
        """Returns whether to list photos and caption them in batches: for files, folders, patterns or many photos."""
        if self.output is not None or self.xmp or self.exclude or len(photos) > _FEW:
            return True
        return any(p == "-" or os.path.isdir(p) for p in photos)  # noqa: PTH112  (which never fails)


_FEW = 16  # up to this many photos are captioned one by one, each on all cores


_further: tuple[Decorator, ...] = (
    click.option(
        "--overwrite",
        is_flag=True,
        help="Replace the --output of another run or a finished one; with --xmp, also text that people wrote.",
    ),
    click.option("--recursive", is_flag=True, help="Look into subfolders too."),
    click.option(
        "--exclude",
        multiple=True,
        metavar="PATTERN",
        help="Leave out files and folders whose name or path matches PATTERN, such as '*_thumb.jpg'. Can be repeated.",
    ),
    click.option(
        "--batch-size",
        type=click.IntRange(1, 1024),
        show_default="8; 64 on CUDA",
        help="Photos per batch.",
    ),
    click.option("--decoders", type=click.IntRange(1, 256), show_default="all cores", help="Threads that read photos."),
    click.option(
        "--xmp",
        is_flag=True,
        help="Write each caption to the photo's XMP sidecar, as its description. Descriptions by people are kept.",
    ),
    click.option("--xmp-alt", is_flag=True, help="With --xmp, also write the caption as alternative text."),
    click.option(
        "--xmp-name",
        type=click.Choice(["file", "stem"]),
        default="file",
        show_default=True,
        help="Name of a sidecar: photo.jpg.xmp (darktable, digiKam) or photo.xmp (Adobe).",
    ),
)


def _many_options(metavar: str, output_help: str) -> Decorator:
    output = click.option("--output", metavar=metavar, help=output_help)
    return collected("many", Many._fields, Many, (output, *_further))


many_options = _many_options(
    "FILE|DIR/",
    "Write a row for each photo to FILE (.jsonl or .csv); or the caption of photo.jpg to DIR/photo.txt, and all rows "
    "to DIR/captions.jsonl. The same command resumes a stopped run.",
)
watch_options = _many_options(
    "FILE.jsonl", "Write a row for each photo to FILE.jsonl. The same command resumes a stopped watch."
)
