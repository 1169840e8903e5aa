"""`caprun caption`: captions for the photos named on the command line."""

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from caprun.commands.options import Many, ModelOptions, many_options, model_options, output_options, photos_argument
from caprun.commands.pictures import Pictures
from caprun.commands.search_options import search_options, with_search_options
from caprun.commands.startup import starting
from caprun.errors import ImageError, UsageError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from caprun.engine import Captioner
    from caprun.photos.preprocessing import ImageSpec

    KnowImage = Callable[[ImageSpec], None]


@click.command()
@photos_argument
@model_options
@search_options
@output_options
@many_options
def caption(photos: tuple[str, ...], model: ModelOptions, **options: Any) -> int:
    """Print a caption for every PHOTO (JPEG, PNG, WebP, GIF, BMP; HEIC and AVIF with the heif extra).

    A folder means the photos in it, sorted by the bytes of their paths, without hidden files; - means the paths on
    standard input, one per line or NUL-terminated. A photo that cannot be read is reported, the other photos are
    captioned, and the exit code is 1.
    """

    def load(many: bool, know: "KnowImage") -> "Captioner":
        from caprun.bundle.reading import read_bundle
        from caprun.engine import Captioner, find_bundle

        name, device, precision, threads = model
        bundle = read_bundle(find_bundle(name))
        know(bundle.manifest.image)
        return Captioner.load(bundle, device=device, threads=threads, precision=precision, many=many)

    return caption_photos(load, photos, **options)


def caption_photos(
    load: "Callable[[bool, KnowImage], Captioner]",
    photos: Sequence[str],
    *,
    search: Mapping[str, Any],
    many: Many,
    as_json: bool,
    min_confidence: float | None,
    pictures: Pictures,
) -> int:
    """Captions photos and prints or writes the results; returns the exit code.

    `load` loads the model for many photos (True) or few (False) after the options are checked. As soon as it knows the
    model's `ImageSpec`, it can call its second argument with it; a photo is then read while the model loads.
    """
    pictures.check()
    many.check()
    if pictures.wanted and (len(photos) > 1 or many.meant(photos)):
        raise UsageError("--attention and --picture take one photo file, and no --output, --xmp or --exclude.")
    if not many.meant(photos):
        return _caption_few(load, photos, search, as_json, min_confidence, pictures)
    if as_json and many.output is not None:
        raise UsageError("--json prints rows and --output writes them; leave out one of them.")

    from caprun.batch.listing import list_photos
    from caprun.bundle.manifest import refuse_uncalibrated
    from caprun.commands.many_photos import plan_output, plan_sidecars, print_captions, write_captions
    from caprun.photos.extensions import describe_left_out

    left_out: Counter[str] = Counter()
    listed = list_photos(photos, sys.stdin.buffer, recursive=many.recursive, exclude=many.exclude, left_out=left_out)
    for line in describe_left_out(left_out):
        click.echo(line, err=True)
    output = None if many.output is None else plan_output(many.output, listed)
    captioner = load(True, lambda _: None)
    refuse_uncalibrated(captioner.spec, min_confidence)
    options = with_search_options(captioner.spec, captioner.vocabulary, search)
    how: Any = {"min_confidence": min_confidence, "batch_size": many.batch_size, "decoders": many.decoders}
    if many.xmp:
        how["sidecars"] = plan_sidecars(captioner, listed, options, many, min_confidence)
    if output is None:
        return print_captions(captioner, listed, options, as_json=as_json, **how)
    return write_captions(captioner, listed, options, output, overwrite=many.overwrite, **how)


def _caption_few(
    load: "Callable[[bool, KnowImage], Captioner]",
    photos: Sequence[str],
    search: Mapping[str, Any],
    as_json: bool,
    min_confidence: float | None,
    pictures: Pictures,
) -> int:
    with starting():
        from concurrent.futures import ThreadPoolExecutor

        from caprun.photos import preprocessing

        with ThreadPoolExecutor(1) as reader:  # reads the first photo while the model is loaded
            begun: list[Future[Any]] = []
            captioner = load(False, lambda image: begun.append(reader.submit(preprocessing.load, photos[0], image)))
    from caprun.bundle.manifest import refuse_uncalibrated
    from caprun.caption import as_row

    refuse_uncalibrated(captioner.spec, min_confidence)
    if pictures.attention and captioner.spec.attention_grid is None:
        raise UsageError(f"The model {captioner.spec.name} has no attention to draw; leave out --attention.")
    options = with_search_options(captioner.spec, captioner.vocabulary, search)
    failed = 0
    for photo in photos:
        try:
            image = begun.pop().result() if begun else preprocessing.load(photo, captioner.spec.image)
            (caption,) = captioner.caption_arrays(image[None], options, alpha=pictures.attention is not None)
        except ImageError as error:
            failed += 1
            if as_json:
                click.echo(_json({"image": photo, **as_row(error)}))
            click.echo(f"Error: {error}", err=True)
            continue
        row = {"image": photo, **as_row(caption, min_confidence)}
        if as_json:
            click.echo(_json(row))
        if "abstained" in row:
            unwritten = " No picture is written." if pictures.wanted else ""
            click.echo(f"{photo}: {row['abstained']}{unwritten}", err=True)
            continue
        if not as_json:
            for one in (caption, *caption.alternatives):
                click.echo(f"{photo}: {one.text}" if len(photos) > 1 else one.text)
        pictures.write(captioner.spec, photo, caption)
    return 1 if failed else 0


def _json(row: Mapping[str, Any]) -> str:
    import json

    return json.dumps(row, ensure_ascii=False)
