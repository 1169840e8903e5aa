"""`caprun bulk`: caption on several machines."""

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
        raise click.BadParameter(f"{given} is neither a number, such as 4, nor fewest and most, such as 2:8.")
    return int(fewest), int(most)


@click.command("bulk")
@click.argument("photos", nargs=-1, required=True, metavar="INPUT...")
@click.option("--engine", type=click.Choice(["ray"]), default="ray", show_default=True, help="Distribution engine.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Folder for Parquet files, such as captions.parquet. A job that was stopped resumes with the same command.",
)
@click.option("--overwrite", is_flag=True, help="Replace what another or a finished job wrote to --output.")
@click.option("--recursive", is_flag=True, help="Look into subfolders too.")
@click.option("--image-column", default="image", show_default=True, help="Parquet column of photos or their paths.")
@click.option("--id-column", default="id", show_default=True, help="Parquet column that tells the rows apart.")
@click.option("--address", help="Ray cluster; auto is the one here.  [default: start one on this machine]")
@click.option("--workers", callback=_workers, metavar="N|MIN:MAX", help="Models at work.  [default: one a core or GPU]")
@click.option("--rows-per-file", type=click.IntRange(1), default=500, show_default=True, help="Photos kept together.")
@click.option("--batch-size", type=click.IntRange(1, 1024), help="Photos computed together.  [default: 8; on CUDA 64]")
@model_option
@device_option
@precision_option
@click.option("--threads", type=click.IntRange(1), help="CPUs of a worker.  [default: 1; on CUDA an equal share]")
@min_confidence_option
@search_options
def bulk(
    photos: tuple[str, ...],
    engine: str,  # noqa: ARG001  (there is only one)
    output: Path,
    **options: Any,
) -> int:
    """Caption photos on several machines, with Ray Data.

    INPUT is photos, folders, or - for paths on standard input, as for `caprun caption`; or Parquet files, or a folder
    of them, that hold photos. The machines that do the work read the photos and the model and write the output, so
    give folders that all of them see. A photo that cannot be read is a row with its error, and the exit code is 1.
    """
    from caprun.bulk.job import caption_in_bulk
    from caprun.bulk.worker import BulkOptions
    from caprun.commands.many_photos import end_of_run

    summary = caption_in_bulk(photos, output, sys.stdin.buffer, BulkOptions(**options))
    total = counted(summary.photos)
    if summary.before == summary.photos:
        click.echo(f"{output} is finished already; --overwrite begins anew.", err=True)
    else:
        earlier = f", {summary.before:,} of them by an earlier run" if summary.before else ""
        click.echo(f"{total} in {output}{earlier}.", err=True)
    return end_of_run(summary.failed, summary.abstained, summary.photos, "; their rows say why")
