"""Captions many photos into their XMP sidecars."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import closing

import click

import caprun
from caprun.batch.listing import Listed
from caprun.batch.progress import PhotoProgress
from caprun.commands.many_photos import end_of_run, end_of_sidecars, entries_of, model_identity
from caprun.commands.options import Many
from caprun.engine import Captioner
from caprun.metadata.sidecars import SidecarOptions, Sidecars, Writer
from caprun.search.options import SearchOptions


def plan_sidecars(
    captioner: Captioner,
    photos: Sequence[Listed],
    options: SearchOptions,
    many: Many,
    min_confidence: float | None,
) -> Sidecars:
    """Plans the sidecars of photos.

    Raises:
        UsageError: Two photos would have the same sidecar.
    """
    identity = model_identity(captioner, options) | {"min confidence": min_confidence}
    writer = Writer(
        f"caprun {caprun.__version__}",
        captioner.spec.name,
        hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12],
        captioner.spec.language,
    )
    wanted = SidecarOptions(many.xmp_name, many.xmp_alt, many.overwrite)
    return Sidecars([photo.path for photo in photos], wanted, writer, lambda text: click.echo(text, err=True))


def write_sidecars(
    captioner: Captioner,
    photos: Sequence[Listed],
    options: SearchOptions,
    sidecars: Sidecars,
    *,
    as_json: bool,
    min_confidence: float | None,
    batch_size: int | None,
    decoders: int | None,
) -> int:
    """Captions the photos that need a caption in their sidecar; returns the exit code.

    Raises:
        OutputError: The disk is full.
    """
    paths = [photo.path for photo in photos if sidecars.needs(photo.path)]
    failed = abstained = 0
    if paths:
        found = captioner.caption_many(paths, options, batch_size=batch_size, decoders=decoders)
        with closing(found), PhotoProgress(len(photos), done=len(photos) - len(paths)) as progress:
            for entry in entries_of(paths, found, min_confidence):
                sidecars.write(entry)
                if as_json:
                    click.echo(json.dumps(entry, ensure_ascii=False))
                if why := entry.get("error"):
                    progress.say(f"Error: {why}")
                failed, abstained = failed + ("error" in entry), abstained + ("abstained" in entry)
                progress.advance()
    return max(end_of_run(failed, abstained, len(photos), ""), end_of_sidecars(sidecars))
