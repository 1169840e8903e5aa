"""`caprun bulk`: captions photos on several machines."""

import sys
from pathlib import Path
from typing import Any

import click

from caprun.batch.progress import counted
from caprun.commands.options import device_option, min_confidence_option, model_option, precision_option
from caprun.commands.search_options import search_options


def _workers(_context: click.Context, _parameter: click.Parameter, given: str | None) -> tuple[int, int] | None:
    if given is None:
        return None
    fewest, colon, most = given.partition(":")
    most = most if colon else fewest
    if not (fewest.isdecimal() and most.isdecimal() and 1 <= int(fewest) <= int(most)):
        raise click.BadParameter(f"{given} is neither a number such as 4 nor a range such as 2:8.")
    return int(fewest), int(most)


@click.command("bulk")
@click.argument("photos", nargs=-1, required=True, metavar="INPUT...")
@click.option("--engine", type=click.Choice(["ray"]), default="ray", show_default=True, help="Distribution engine.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Folder for Parquet files, such as captions.parquet. The same command resumes a stopped job.",
)
@click.option("--overwrite", is_flag=True, help="Replace the --output of another job or a finished one.")
@click.option("--recursive", is_flag=True, help="Look into subfolders too.")
@click.option("--image-column", default="image", show_default=True, help="Parquet column of photos or their paths.")
@click.option("--id-column", default="id", show_default=True, help="Parquet column that identifies the rows.")
@click.option("--address", help="Ray cluster; auto: the one on this machine.  [default: start a new one here]")
@click.option("--workers", callback=_workers, metavar="N|MIN:MAX", help="Worker count.  [default: one per core or GPU]")
@click.option("--rows-per-file", type=click.IntRange(1), default=500, show_default=True, help="Photos per output file.")
@click.option("--batch-size", type=click.IntRange(1, 1024), help="Photos per batch.  [default: 8; 64 on CUDA]")
@model_option
@device_option
@precision_option
@click.option("--threads", type=click.IntRange(1), help="CPUs per worker.  [default: 1; an equal share on CUDA]")
@min_confidence_option
@search_options
def bulk(
    photos: tuple[str, ...],
    engine: str,  # noqa: ARG001  (there is only one)
    output: Path,
    **options: Any,
) -> int:
    """Caption photos on several machines, with Ray Data.

    INPUT is photos, folders, or - for paths on standard input, as for `caprun caption`; or Parquet files with photos,
    or folders of such files. The workers read the photos and the model and write the output, so use folders that every
    machine can access. A photo that cannot be read yields a row with its error, and the exit code is 1.
    """
    from caprun.bulk.job import caption_in_bulk
    from caprun.bulk.worker import BulkOptions
    from caprun.commands.many_photos import end_of_run

    summary = caption_in_bulk(photos, output, sys.stdin.buffer, BulkOptions(**options))
    total = counted(summary.photos)
    if summary.before == summary.photos:
        click.echo(f"{output} is already finished; --overwrite starts over.", err=True)
    else:
        earlier = f", {summary.before:,} of them by an earlier run" if summary.before else ""
        click.echo(f"{total} in {output}{earlier}.", err=True)
    return end_of_run(summary.failed, summary.abstained, summary.photos, "; their rows say why")
