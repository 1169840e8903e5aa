"""The command line. Nothing heavy is imported before a command needs it: `caprun --help` answers at once."""

import io
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

import click

from caprun import __version__
from caprun.abstaining import abstention, min_confidence_option, refuse_uncalibrated, written
from caprun.bulk.command import bulk
from caprun.errors import CaprunError, ImageError, OutputError, UsageError
from caprun.search_options import search_options, with_search_options
from caprun.server.command import serve
from caprun.startup import starting

if TYPE_CHECKING:
    from PIL import Image

    from caprun.bundle import ModelSpec
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
            if sys.stdout is not None:  # it was closed before we began
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


@click.group(cls=_CaptionByDefault, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="caprun")
def main() -> None:
    """Caption photos: `caprun photo.jpg` prints a caption.

    That is short for `caprun caption photo.jpg`; `caprun caption --help` lists its options.
    """


main.add_command(bulk)
main.add_command(serve)


@main.command()
@photos_argument
@click.option("--model", envvar="CAPRUN_MODEL", help="Bundle to use, else $CAPRUN_MODEL, else the packaged one.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(1), help="CPU threads.  [default: all cores]")
@click.option("--precision", help="One of the bundle's, such as fp32.  [default: the fastest measured here]")
@search_options
@output_options
@many_options
def caption(
    photos: tuple[str, ...],
    model: str | None,
    device: Any,
    threads: int | None,
    precision: str | None,
    **options: Any,
) -> int:
    """Print a caption for every PHOTO (JPEG, PNG, WebP, GIF, BMP).

    A folder stands for the photos in it, sorted by the bytes of their paths, hidden ones left out; - for the paths on
    standard input, one a line or each ended by NUL. A photo that cannot be read is reported, the others are captioned
    all the same, and the exit code is 1.
    """

    def load(many: bool) -> "Captioner":
        from caprun.engine import Captioner

        return Captioner.load(model, device=device, threads=threads, precision=precision, many=many)

    return caption_photos(load, photos, **options)


@main.command()
@click.option("--model", help="Bundle to examine, else the packaged one.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads to time with.  [default: all cores]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def doctor(model: str | None, threads: int | None, as_json: bool) -> None:
    """Say what is installed, whether it works, and what captioning a photo costs on this machine."""
    from caprun.doctor import report

    report(model, threads, click.echo, as_json=as_json)


def caption_photos(
    load: "Callable[[bool], Captioner]",
    photos: Sequence[str],
    *,
    search: Mapping[str, Any],
    many: Many,
    as_json: bool,
    min_confidence: float | None,
    attention: Path | None,
    picture: Path | None,
    font: Path | None,
) -> int:
    """Caption photos and print what was asked for; returns the exit code.

    Args:
        load: loads the model, for many photos or for few; not before the options are known to be right.
        photos: paths, folders and `-`.
        search: options of the search; those left out are the model's own.
        many: options of many photos.
        as_json: print objects, not text.
        min_confidence: a photo of whose caption the model is less sure has none; None for captions of all.
        attention, picture: PNG files to write, for a single photo.
        font: for these.
    """
    if (attention or picture) and len(photos) > 1:
        raise UsageError(f"--attention and --picture take one photo, not {len(photos)}.")
    if many.overwrite and many.output is None:
        raise UsageError("--overwrite belongs to --output.")
    if many.meant(photos):
        if attention or picture:
            raise UsageError("--attention and --picture take one photo, named itself, and no --output.")
        if as_json and many.output is not None:
            raise UsageError("--json prints rows and --output writes them; leave one of them out.")
        return _caption_many(load, photos, search, many, as_json, min_confidence)
    with starting():
        from concurrent.futures import ThreadPoolExecutor

        from caprun.image import open_photo

        with ThreadPoolExecutor(1) as reader:  # which opens the first photo while the model is loaded
            first = reader.submit(open_photo, photos[0])
            captioner = load(False)
    refuse_uncalibrated(captioner.spec, min_confidence)
    if attention and captioner.spec.attention_grid is None:
        raise UsageError(f"The model {captioner.spec.name} has no attention to draw; leave out --attention.")
    options = with_search_options(captioner.spec.search, search)
    failed = 0
    for index, photo in enumerate(photos):
        try:
            image = open_photo(photo) if index else first.result()
            caption = captioner.caption(image, options, alpha=attention is not None)
            row = caption_as_dict(photo, caption, min_confidence)
            if as_json:
                click.echo(_json(row))
            if "abstained" in row:
                unwritten = " No picture is written." if attention or picture else ""
                click.echo(f"{photo}: {row['abstained']}{unwritten}", err=True)
                continue
            if not as_json:
                for one in (caption, *caption.alternatives):
                    click.echo(f"{photo}: {one.text}" if len(photos) > 1 else one.text)
            _write_pictures(captioner.spec, image, caption, attention, picture, font)
        except ImageError as error:
            failed += 1
            if as_json:
                click.echo(_json({"image": photo, "error": str(error)}))
            click.echo(f"Error: {error}", err=True)
    return 1 if failed else 0


def _caption_many(
    load: "Callable[[bool], Captioner]",
    arguments: Sequence[str],
    search: Mapping[str, Any],
    many: Many,
    as_json: bool,
    least: float | None,
) -> int:
    from caprun.folder import plan_output, print_captions, write_captions
    from caprun.listing import list_photos

    photos = list_photos(arguments, sys.stdin.buffer, recursive=many.recursive)
    output = None if many.output is None else plan_output(many.output, photos)
    captioner = load(True)
    refuse_uncalibrated(captioner.spec, least)
    options = with_search_options(captioner.spec.search, search)
    how: dict[str, Any] = {"min_confidence": least, "batch_size": many.batch_size, "decoders": many.decoders}
    if output is None:
        return print_captions(captioner, photos, options, as_json=as_json, **how)
    return write_captions(captioner, photos, options, output, overwrite=many.overwrite, **how)


def _write_pictures(
    spec: "ModelSpec",
    image: "Image.Image",
    caption: "Caption",
    attention: Path | None,
    picture: Path | None,
    font: Path | None,
) -> None:
    if attention or picture:
        from caprun.drawing import attention_picture, caption_picture
        from caprun.image import seen_box

        if attention:
            seen = [(word.text, word.alpha) for word in caption.words if word.alpha is not None]
            box = seen_box(image.size, spec.image)
            _write_png(attention_picture(image, seen, region_box=box, font=font), attention)
        if picture:
            _write_png(caption_picture(image, caption.text, font=font), picture)


def _json(row: Mapping[str, Any]) -> str:
    import json

    return json.dumps(row, ensure_ascii=False)


def caption_as_dict(photo: str, caption: "Caption", least: float | None = None) -> dict[str, Any]:
    """What --json prints of a photo: its caption, or why there is none; see `caprun.abstaining.abstention`."""
    if why := abstention(caption, least):
        return {"image": photo, "abstained": why.reason, "confidence": why.confidence}
    others = [_text_as_dict(other) for other in caption.alternatives]
    return {"image": photo, **_text_as_dict(caption), **({"alternatives": others} if others else {})}


def _text_as_dict(caption: "Caption") -> dict[str, Any]:
    return {
        "caption": caption.text,
        "log_prob": round(caption.log_prob, 6),
        **({} if caption.confidence is None else {"confidence": written(caption.confidence)}),
        "words": [{"word": word.text, "log_prob": round(word.log_prob, 6)} for word in caption.words],
    }


def _write_png(image: "Image.Image", path: Path) -> None:
    from caprun.whole import written_whole

    try:
        with written_whole(path) as file:
            image.save(file, format="PNG")
    except OSError as error:
        # a place that makes no sense, or one that has no room
        wrong = isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError))
        kind = UsageError if wrong else OutputError
        raise kind(f"The picture {path} cannot be written: {error.strerror or error}.") from error
