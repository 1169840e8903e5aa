"""The command line. Nothing heavy is imported before a command needs it: `caprun --help` answers at once."""

import io
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from caprun.errors import CaprunError, ImageError, UsageError
from caprun.search_options import search_options, with_search_options

if TYPE_CHECKING:
    from PIL import Image

    from caprun.decoding import SearchOptions
    from caprun.engine import Caption, Captioner

F = TypeVar("F", bound=Callable[..., object])


class ErrorsAsSentences(click.Group):
    """A group whose commands fail with one line on stderr: exit code 2 for usage, 1 for all else."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """No arguments at all ask for help."""
        return super().parse_args(ctx, args or ["--help"])

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run; see `click.Command.main`."""
        run: Callable[..., Any] = partial(super().main, *args)
        if not extra.pop("standalone_mode", True):
            return run(standalone_mode=False, **extra)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no text: bytes that are no UTF-8
        try:
            code = run(standalone_mode=False, **extra)
            sys.stdout.flush()
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else self.name
            _fail(f"{error.format_message().rstrip('.')}; see `{command} --help`.", 2)
        except click.ClickException as error:
            _fail(error.format_message(), 1)
        except CaprunError as error:
            _fail(str(error), 2 if isinstance(error, UsageError) else 1)
        except (KeyboardInterrupt, click.Abort):
            _fail("Interrupted.", 128 + signal.SIGINT)
        except OSError as error:
            # our output has nowhere to go; leave nothing to flush there
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if isinstance(error, BrokenPipeError):  # whoever read it has seen enough
                sys.exit(1)
            _fail(str(error), 1)
        sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    sys.exit(code)


class _CaptionByDefault(ErrorsAsSentences):
    """`caprun PATH ...` is short for `caprun caption PATH ...`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help", "--version"):
            args = ["caption", *args]
        return super().parse_args(ctx, args)


def output_options(command: F) -> F:
    """What to write about the photos, on whichever command captions them."""
    path = click.Path(path_type=Path)
    for option in (
        click.option("--font", type=path, help="TrueType font for the pictures, if yours has not your letters."),
        click.option("--picture", type=path, metavar="FILE.png", help="Write the photo with its caption."),
        click.option("--attention", type=path, metavar="FILE.png", help="Write where the model looked for each word."),
        click.option("--json", "as_json", is_flag=True, help="One JSON object a photo, with log-probabilities."),
    ):
        command = option(command)
    return command


photos_argument = click.argument("photos", nargs=-1, required=True, metavar="PHOTO...")


@click.group(cls=_CaptionByDefault, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="captioner", prog_name="caprun")
def main() -> None:
    """Caption photos: `caprun photo.jpg` prints a caption.

    That is short for `caprun caption photo.jpg`; `caprun caption --help` lists its options.
    """


@main.command()
@photos_argument
@click.option("--model", envvar="CAPRUN_MODEL", help="Bundle to use, else $CAPRUN_MODEL, else the packaged one.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(1), help="CPU threads.  [default: all cores]")
@search_options
@output_options
def caption(photos: tuple[str, ...], model: str | None, device: Any, threads: int | None, **options: Any) -> int:
    """Print a caption for every PHOTO (JPEG, PNG, WebP, GIF, BMP).

    A photo that cannot be read is reported, the others are captioned all the same, and the exit code is 1.
    """
    from caprun.engine import Captioner

    return caption_photos(lambda: Captioner.load(model, device=device, threads=threads), photos, **options)


@main.command()
def doctor() -> None:
    """Say what is installed and whether it works: ONNX Runtime, devices, the packaged model."""
    from caprun.engine import Captioner, packaged_bundle
    from caprun.session import installed_packages, onnxruntime

    packages = installed_packages()
    for name, version in packages.items():
        click.echo(f"{name}: {version}")
    if len(packages) > 1:
        click.echo("warning: two packages of ONNX Runtime share one folder; uninstall both, then install one of them")
    click.echo(f"devices: {', '.join(onnxruntime().get_available_providers())}")
    captioner = Captioner.load()
    click.echo(f"packaged model: {captioner.spec.name}, {packaged_bundle()}: sound")


def caption_photos(
    load: "Callable[[], Captioner]",
    photos: Sequence[str],
    *,
    beam_size: int | None,
    max_length: int | None,
    length_penalty: float | None,
    as_json: bool,
    attention: Path | None,
    picture: Path | None,
    font: Path | None,
) -> int:
    """Caption photos and print what was asked for; returns the exit code.

    Args:
        load: loads the model; not before the options are known to be right.
        photos: paths.
        beam_size, max_length, length_penalty: of the search; None for the model's own.
        as_json: print objects, not text.
        attention, picture: PNG files to write, for a single photo.
        font: for these.
    """
    if (attention or picture) and len(photos) > 1:
        raise UsageError(f"--attention and --picture take one photo, not {len(photos)}.")
    captioner = load()
    if attention and captioner.spec.attention_grid is None:
        raise UsageError(f"The model {captioner.spec.name} has no attention to draw; leave out --attention.")
    options = with_search_options(captioner.spec.search, beam_size, max_length, length_penalty)
    failed = 0
    for photo in photos:
        try:
            _caption_one(captioner, photo, options, len(photos) > 1, as_json, attention, picture, font)
        except ImageError as error:
            failed += 1
            if as_json:
                click.echo(json.dumps({"image": photo, "error": str(error)}, ensure_ascii=False))
            click.echo(f"Error: {error}", err=True)
    return 1 if failed else 0


def _caption_one(
    captioner: "Captioner",
    photo: str,
    options: "SearchOptions",
    several: bool,
    as_json: bool,
    attention: Path | None,
    picture: Path | None,
    font: Path | None,
) -> None:
    from caprun.image import open_photo, seen_box

    image = open_photo(photo)
    caption = captioner.caption(image, options, alpha=attention is not None)
    if as_json:
        click.echo(json.dumps(caption_as_dict(photo, caption), ensure_ascii=False))
    else:
        click.echo(f"{photo}: {caption.text}" if several else caption.text)
    if attention or picture:
        from caprun.drawing import attention_picture, caption_picture

        if attention:
            seen = [(word.text, word.alpha) for word in caption.words if word.alpha is not None]
            box = seen_box(image.size, captioner.spec.image)
            _write_png(attention_picture(image, seen, region_box=box, font=font), attention)
        if picture:
            _write_png(caption_picture(image, caption.text, font=font), picture)


def caption_as_dict(photo: str, caption: "Caption") -> dict[str, Any]:
    """What --json prints of a photo."""
    return {
        "image": photo,
        "caption": caption.text,
        "log_prob": round(caption.log_prob, 6),
        "words": [{"word": word.text, "log_prob": round(word.log_prob, 6)} for word in caption.words],
    }


def _write_png(image: "Image.Image", path: Path) -> None:
    try:
        image.save(path, format="PNG")
    except OSError as error:
        raise UsageError(f"The picture {path} cannot be written: {error.strerror or error}.") from error
