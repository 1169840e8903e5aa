"""`caprun bulk`: caption on several machines."""

import sys
from pathlib import Path
from typing import Any

import click

from caprun.batch.progress import counted
from caprun.commands.options import min_confidence_option
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
@click.option("--engine", type=click.Choice(["ray"]), default="ray", show_default=True, help="What distributes it.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Folder for Parquet files, such as captions.parquet. The same command goes on where it was stopped.",
)
@click.option("--overwrite", is_flag=True, help="Give up what another or a finished run wrote to --output.")
@click.option("--recursive", is_flag=True, help="Look into the folders in a folder too.")
@click.option("--image-column", default="image", show_default=True, help="Parquet: of photos' bytes, or paths.")
@click.option("--id-column", default="id", show_default=True, help="Parquet: of what tells the rows apart.")
@click.option("--address", help="A Ray cluster's; auto: the one here.  [default: one of its own, on this machine]")
@click.option("--workers", callback=_workers, metavar="N|MIN:MAX", help="Models at work.  [default: one a core or GPU]")
@click.option("--rows-per-file", type=click.IntRange(1), default=500, show_default=True, help="Photos kept together.")
@click.option("--batch-size", type=click.IntRange(1, 1024), help="Photos computed together.  [default: 8; on CUDA 64]")
@click.option("--model", envvar="CAPRUN_MODEL", help="Bundle to use, else $CAPRUN_MODEL, else the packaged one.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--precision", help="One of the bundle's, such as fp32.  [default: the fastest measured here]")
@click.option("--threads", type=click.IntRange(1), help="CPUs of a worker.  [default: 1; on CUDA an equal share]")
@min_confidence_option
@search_options
def bulk(
    photos: tuple[str, ...],
    engine: str,  # noqa: ARG001  (there is one)
    output: Path,
    overwrite: bool,
    recursive: bool,
    image_column: str,
    id_column: str,
    model: str | None,
    min_confidence: float | None,
    search: dict[str, Any],
    **options: Any,
) -> int:
    """Caption photos on several machines, with Ray Data.

    INPUT is as for `caprun caption`: photos, folders, - for paths on standard input. Or it is Parquet files, or a
    folder of them, that hold photos. Files, model and output are read and written by the machines that do the work:
    give folders that all of them see. A photo that cannot be read is a row with its error, and the exit code is 1.
    """
    from caprun.bulk.job import BulkOptions, caption_in_bulk

    summary = caption_in_bulk(
        photos,
        output,
        standard_input=sys.stdin.buffer,
        model=model,
        min_confidence=min_confidence,
        search=search,
        recursive=recursive,
        image_column=image_column,
        id_column=id_column,
        overwrite=overwrite,
        options=BulkOptions(**options),
    )
    total = counted(summary.photos)
    if summary.before == summary.photos:
        click.echo(f"{output} is finished already; --overwrite begins anew.", err=True)
    else:
        earlier = f", {summary.before:,} of them by an earlier run" if summary.before else ""
        click.echo(f"{total} in {output}{earlier}.", err=True)
    if summary.abstained:
        click.echo(f"The model abstained from {summary.abstained:,} of {total}; their rows say why.", err=True)
    if summary.failed:
        click.echo(f"Error: {summary.failed:,} of {total} could not be captioned; their rows say why.", err=True)
    return 1 if summary.failed else 0
