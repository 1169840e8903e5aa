"""`captioner data`: what is in a folder of captioned photos."""

from __future__ import annotations

from pathlib import Path

import click

from captioner.commands.console import FILE


@click.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR")
@click.option(
    "--splits", type=float, nargs=3, metavar="TRAIN DEV TEST", help="Parts, where the dataset has no splits: 60 30 10."
)
@click.option("--split-seed", type=click.IntRange(0), default=0, show_default=True, help="Of that draw.")
@click.option("--json", "json_file", type=FILE, metavar="FILE", help="Write the report, with every problem.")
@click.option("--quick", is_flag=True, help="Do not open the photos.")
def data(
    directory: Path,
    splits: tuple[float, float, float] | None,
    split_seed: int,
    json_file: Path | None,
    quick: bool,
) -> None:
    """Print what is in DIR, a folder of captioned photos, and what is wrong with it.

    Counts, splits, lengths of captions and frequent words; photos that are missing, cannot be read, have no caption, or
    are in two splits under different names.
    """
    from captioner.datasets.inspection import inspect
    from captioner.datasets.splitting import PARTS

    report = inspect(directory, splits=splits or PARTS, seed=split_seed, photos=not quick)
    click.echo("\n".join(report.lines()))
    if json_file:
        report.write(json_file)
