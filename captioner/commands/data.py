"""`captioner data`: describes folders of captioned photos."""

from __future__ import annotations

from pathlib import Path

import click

from captioner.commands.options import FILE, setting_option


@click.command()
@click.argument(
    "directories", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR", nargs=-1, required=True
)
@setting_option("data.splits")
@setting_option("data.split_seed")
@click.option("--json", "json_file", type=FILE, metavar="FILE", help="Write the report, with every problem.")
@click.option("--quick", is_flag=True, help="Do not open the photos.")
def data(
    directories: tuple[Path, ...],
    splits: tuple[float, float, float],
    split_seed: int,
    json_file: Path | None,
    quick: bool,
) -> None:
    """Describe DIR, a folder of captioned photos, and list its problems.

    Prints counts, splits, caption lengths and frequent words; photos that are missing, cannot be read, have no caption,
    or are in two splits under different names. Several folders are described one by one, then compared.
    """
    from captioner.datasets import DataSource, load_datasets
    from captioner.datasets.inspection import inspect, write_reports

    reports = [inspect(one, splits=splits, seed=split_seed, photos=not quick) for one in directories]
    click.echo("\n\n".join("\n".join(report.lines()) for report in reports))
    if len(directories) > 1:
        sources = [DataSource(directory) for directory in directories]
        together = load_datasets(sources, allow_missing=True, splits=splits, seed=split_seed)
        click.echo("\n".join(["", f"together: {len(together.examples)} photos", *together.notes]))
    if json_file:
        write_reports(reports, json_file)
