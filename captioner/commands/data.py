"""`captioner data`: describes datasets of captioned photos."""

from __future__ import annotations

from pathlib import Path

import click

from captioner.commands.options import FILE, DatasetPath, cache_option, setting_option


@click.command()
@click.argument("datasets", type=DatasetPath(exists=True, path_type=Path), metavar="DATASET", nargs=-1, required=True)
@setting_option("data.splits")
@setting_option("data.split_seed")
@click.option("--json", "json_file", type=FILE, metavar="FILE", help="Write the report, with every problem.")
@click.option("--quick", is_flag=True, help="Do not open the photos.")
@cache_option
def data(
    datasets: tuple[Path, ...],
    splits: tuple[float, float, float],
    split_seed: int,
    json_file: Path | None,
    quick: bool,
    cache: Path | None,
) -> None:
    """Describe DATASET, captioned photos in a folder or a Parquet file, or hf:OWNER/NAME, and list its problems.

    Prints counts, splits, caption lengths and frequent words; photos that are missing, cannot be read, have no caption,
    or are in two splits under different names. Several datasets are described one by one, then compared.
    """
    from captioner.datasets import DataSource, load_datasets
    from captioner.datasets.inspection import inspect, write_reports

    reports = [inspect(one, splits=splits, seed=split_seed, photos=not quick, cache=cache) for one in datasets]
    click.echo("\n\n".join("\n".join(report.lines()) for report in reports))
    if len(datasets) > 1:
        sources = [DataSource(dataset) for dataset in datasets]
        together = load_datasets(sources, allow_missing=True, splits=splits, seed=split_seed, cache=cache)
        click.echo("\n".join(["", f"together: {len(together.examples)} photos", *together.notes]))
    if json_file:
        write_reports(reports, json_file)
