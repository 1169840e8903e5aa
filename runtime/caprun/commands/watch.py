"""`caprun watch`: captions photos as they arrive in a folder."""

import contextlib
import importlib.util
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Event
from typing import Any

import click

from caprun.commands.click_types import Number
from caprun.commands.options import Many, ModelOptions, min_confidence_option, model_options, watch_options
from caprun.commands.search_options import search_options, with_search_options
from caprun.errors import CaprunError, UsageError

_ROWS = ".jsonl"  # the rows of a watch record the version of each photo; .csv has no columns for it


@click.command()
@click.argument("folder", metavar="DIR")
@model_options
@search_options
@min_confidence_option
@watch_options
@click.option(
    "--settle",
    type=Number("seconds", 0, 86_400),
    default=1.0,
    show_default=True,
    help="Seconds without a change after which a file is complete.",
)
def watch(
    folder: str,
    model: ModelOptions,
    search: Mapping[str, Any],
    min_confidence: float | None,
    many: Many,
    settle: float,
) -> None:
    """Caption the photos in DIR, and every photo that arrives there.

    Captions go to --output, to XMP sidecars (--xmp), or to both. A photo is captioned when its file is complete, and
    again when the file changes. SIGTERM or Ctrl-C ends the watch; the same command continues it.
    """
    _check(folder, many)
    with _ending() as ended:
        from caprun.bundle.manifest import refuse_uncalibrated
        from caprun.commands.watching import Watch
        from caprun.engine import Captioner

        name, device, precision, threads = model
        captioner = Captioner.load(name, device=device, threads=threads, precision=precision, many=True)
        refuse_uncalibrated(captioner.spec, min_confidence)
        options = with_search_options(captioner.spec, captioner.vocabulary, search)
        Watch(folder, captioner, options, many, min_confidence=min_confidence, settle=settle, ended=ended).run()


def _check(folder: str, many: Many) -> None:
    """Refuses options and folders that cannot be used, before the model is loaded."""
    many.check()
    if many.output is None and not many.xmp:
        raise UsageError("A watch prints no captions; give --output FILE.jsonl, --xmp or both.")
    if many.output is not None and (os.path.isdir(many.output) or Path(many.output).suffix.lower() != _ROWS):  # noqa: PTH112
        raise UsageError(f"--output {many.output} is not a {_ROWS} file, the only format that a watch writes.")
    if not Path(folder).is_dir():
        what = "is not a folder" if os.path.lexists(folder) else "does not exist"
        raise UsageError(f"{folder} {what}; name a folder to watch.")
    if importlib.util.find_spec("watchfiles") is None:
        raise CaprunError('watchfiles must be installed to watch a folder: pip install "captioner[watch]".')


@contextlib.contextmanager
def _ending() -> Iterator[Event]:
    """Makes an event that the first SIGTERM or SIGINT sets; a second one ends the process at once."""
    ended = Event()

    def end(*_: object) -> None:
        ended.set()
        restore()

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    handlers = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield ended
    finally:
        restore()
