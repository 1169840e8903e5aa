"""Captions many photos: prints each caption, or writes resumable results, or XMP sidecars."""

import hashlib
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import click

import caprun
from caprun.batch.listing import Listed
from caprun.batch.progress import Progress, counted
from caprun.batch.results import Results
from caprun.batch.rows import FORMATS, captions_of
from caprun.bundle.manifest import MODEL_CARD
from caprun.caption import ROW_FORMAT, Caption, as_row
from caprun.commands.options import Many
from caprun.engine import Captioner, default_batch_size
from caprun.errors import ImageError, OutputError, UsageError
from caprun.metadata.sidecars import Sidecars
from caprun.metadata.xmp import Mark
from caprun.search.options import SearchOptions

ROWS = "captions.jsonl"
"""The file of rows in a folder of text files."""


class OutputFiles(NamedTuple):
    """The files to write results to."""

    file: Path
    """The file of rows."""
    texts: list[Path] | None
    """A text file for the captions of each photo; None for no text files."""


def plan_output(output: str, photos: Sequence[Listed]) -> OutputFiles:
    """Plans the files that `--output` names: a file of rows, or a folder of text files and a file of rows.

    Raises:
        UsageError: The output is neither, or two photos would have the same text file.
        OutputError: The folder cannot be created.
    """
    path = Path(output)
    if not (os.path.isdir(path) or output.endswith(("/", os.sep))):  # noqa: PTH112  (never an error)
        if path.suffix.lower() not in FORMATS:
            raise UsageError(
                f"--output {output} is neither a {' nor a '.join(FORMATS)} file nor a folder (which ends with /)."
            )
        return OutputFiles(path, None)
    texts = []
    owner: dict[str, str] = {}
    for photo in photos:
        text = f"{os.path.splitext(photo.relative)[0]}.txt"  # noqa: PTH122  (a name may consist of dots)
        if owner.setdefault(text, photo.path) != photo.path:
            raise UsageError(
                f"The captions of {owner[text]} and {photo.path} would both be in {path / text}; rename one, or give a "
                ".jsonl or .csv file as --output."
            )
        texts.append(path / text)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"The folder {path} cannot be created ({error.strerror}); give another --output.") from error
    return OutputFiles(path / ROWS, texts)


def write_captions(
    captioner: Captioner,
    photos: Sequence[Listed],
    options: SearchOptions,
    output: OutputFiles,
    *,
    min_confidence: float | None = None,
    batch_size: int | None,
    decoders: int | None,
    overwrite: bool,
    sidecars: Sidecars | None = None,
) -> int:
    """Writes a row for each photo, or resumes where a run stopped; returns the exit code.

    Batches are cut by position in the whole list, so the rows do not depend on where a run stopped.

    Raises:
        UsageError: The output belongs to another run, or its rows cannot hold `n_best` captions.
        OutputError: The output cannot be written, or the disk is full.
    """
    if options.n_best > 1 and output.file.suffix.lower() == ".csv":
        raise UsageError(
            "A .csv row holds one caption; with --n-best above 1, give a .jsonl file or a folder as --output."
        )
    size = batch_size or default_batch_size(captioner)
    paths = [photo.path for photo in photos]
    identity = rows_identity(captioner, options, min_confidence) | {
        "batch_size": size,
        "photos": f"{len(paths):,} {_digest(paths)}",
        "text files": "no" if output.texts is None else "yes",
    }
    why = "; their rows say why"
    with Results(output.file, paths, identity, texts=output.texts, overwrite=overwrite) as results:
        total, before = len(paths), results.done
        if sidecars:
            for entry in results.rows():  # from a stopped run, or one without sidecars
                sidecars.write(entry)
        if results.finished:
            click.echo(f"{output.file} is already finished; --overwrite starts over.", err=True)
            return max(end_of_run(results.failed, results.abstained, total, why), end_of_sidecars(sidecars))
        if before:
            click.echo(f"{output.file} has {before:,} of {total:,} photos; resuming.", err=True)
        first = before - before % size
        found = captioner.caption_many(paths[first:], options, batch_size=size, decoders=decoders)
        try:
            # closed here, since the garbage collector can run in one of its threads, which cannot wait for itself
            with closing(found), Progress("captioning", total, "photos", done=before) as progress:
                entries = entries_of(paths[first:], found, min_confidence)
                for entry in itertools.islice(entries, before - first, None):
                    if sidecars:
                        sidecars.write(entry)
                    results.add(entry)
                    progress.advance()
        except KeyboardInterrupt:
            click.echo(f"\n{results.done:,} of {total:,} photos are done; the same command resumes.", err=True)
            raise
        click.echo(f"{counted(total)} in {output.file}, {progress.rate:.1f} photos/s.", err=True)
        return max(end_of_run(results.failed, results.abstained, total, why), end_of_sidecars(sidecars))


def plan_sidecars(
    captioner: Captioner,
    photos: Sequence[Listed],
    options: SearchOptions,
    many: Many,
    min_confidence: float | None,
) -> Sidecars:
    """Plans the sidecar of each photo.

    Raises:
        UsageError: Two photos would have the same sidecar.
    """
    identity = model_identity(captioner, options) | {"min confidence": min_confidence}
    mark = Mark(
        f"caprun {caprun.__version__}",
        captioner.spec.name,
        hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12],
    )
    sidecars = Sidecars(mark, captioner.spec.language, many.xmp_name, many.xmp_alt, many.overwrite)
    for photo in photos:
        sidecars.add(photo.path)
    return sidecars


def print_captions(
    captioner: Captioner,
    photos: Sequence[Listed],
    options: SearchOptions,
    *,
    as_json: bool,
    min_confidence: float | None = None,
    batch_size: int | None,
    decoders: int | None,
    sidecars: Sidecars | None = None,
) -> int:
    """Prints a line for each photo, in order, as soon as it is captioned; returns the exit code.

    A caption whose confidence is below `min_confidence` is replaced by a sentence on standard error. With sidecars,
    only photos whose sidecars need a caption are captioned, and only JSON rows are printed.

    Raises:
        OutputError: The disk of the sidecars is full.
    """
    paths = [photo.path for photo in photos if sidecars is None or sidecars.needs(photo.path)]
    found = captioner.caption_many(paths, options, batch_size=batch_size, decoders=decoders)
    failed = abstained = 0
    quiet = sys.stdout.isatty() and (as_json or sidecars is None)  # captions on a terminal are progress enough
    before = len(photos) - len(paths)
    with closing(found), Progress("captioning", len(photos), "photos", done=before, quiet=quiet) as progress:
        for entry in entries_of(paths, found, min_confidence):
            failed += "error" in entry
            abstained += "abstained" in entry
            if sidecars:
                sidecars.write(entry)
            if as_json:
                click.echo(json.dumps(entry, ensure_ascii=False))
            elif "caption" in entry and not sidecars:
                for caption in captions_of(entry):
                    click.echo(f"{entry['image']}: {caption}")
            if "error" in entry:
                progress.say(f"Error: {entry['error']}")
            if "abstained" in entry and not sidecars:
                progress.say(f"{entry['image']}: {entry['abstained']}")
            progress.advance()
    return max(end_of_run(failed, abstained, len(photos), ""), end_of_sidecars(sidecars))


def entries_of(
    paths: Iterable[str], found: Iterable[Caption | ImageError], least: float | None
) -> Iterator[dict[str, Any]]:
    """Yields the row of each photo: `image`, and the keys of `as_row`."""
    for path, result in zip(paths, found, strict=True):
        yield {"image": path, **as_row(result, least)}


def end_of_run(failed: int, abstained: int, total: int, where: str) -> int:
    """Prints how many photos have no caption; returns the exit code."""
    if abstained:
        click.echo(f"The model abstained from {abstained:,} of {counted(total)}{where}.", err=True)
    if failed:
        click.echo(f"Error: {failed:,} of {counted(total)} could not be captioned{where}.", err=True)
    return 1 if failed else 0


def end_of_sidecars(sidecars: Sidecars | None) -> int:
    """Prints how many sidecars were written, kept or failed; returns the exit code."""
    if sidecars is None:
        return 0
    click.echo(f"Captions written to sidecars: {sidecars.written:,}.", err=True)
    if sidecars.kept:
        click.echo(f"Sidecars kept as a person wrote them: {sidecars.kept:,}; --overwrite replaces the text.", err=True)
    if sidecars.failed:
        click.echo(f"Error: Sidecars that could not be read or written: {sidecars.failed:,}.", err=True)
    return 1 if sidecars.failed else 0


def _digest(paths: Sequence[str]) -> str:
    # the same relative path names another photo in another folder
    here = os.fsencode(os.getcwd())  # noqa: PTH109
    names = hashlib.sha256()
    for path in paths:
        names.update(os.path.join(here, os.fsencode(path)) + b"\0")  # noqa: PTH118
    return names.hexdigest()[:12]


def rows_identity(captioner: Captioner, options: SearchOptions, min_confidence: float | None) -> dict[str, Any]:
    """Describes everything that a row depends on besides the photo, by human-readable names."""
    return {
        "rows": ROW_FORMAT,
        **model_identity(captioner, options),
        "min confidence": "none" if min_confidence is None else min_confidence,
    }


def model_identity(captioner: Captioner, options: SearchOptions) -> dict[str, Any]:
    """Describes everything that a caption depends on besides the photo, by human-readable names."""
    spec = captioner.spec
    files = {name: entry.sha256 for name, entry in getattr(spec, "files", {}).items() if name != MODEL_CARD}
    model = [captioner.digest, files, asdict(spec.image), asdict(spec.special), spec.attention_grid]
    if spec.confidence is not None:
        model.append(asdict(spec.confidence))
    if options.neutral and spec.neutral is not None:
        model.append(asdict(spec.neutral))
    return {
        "model": f"{spec.name} {hashlib.sha256(json.dumps(model, sort_keys=True).encode()).hexdigest()[:12]}",
        "precision": getattr(captioner.backend, "precision", "fp32"),
        "device": getattr(captioner.backend, "device", "pytorch"),
        **asdict(options),
    }
