"""`captioner data`: describes datasets of captioned photos."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from captioner.commands.options import FILE, DatasetPath, cache_option, set_option, setting_options
from captioner.config import load_config, merged, parse_settings, read_toml


@click.command()
@click.argument("datasets", type=DatasetPath(exists=True, path_type=Path), metavar="DATASET", nargs=-1, required=True)
@setting_options("data.tokenizer", "data.splits", "data.split_seed")
@set_option
@click.option("--config", "config_file", type=FILE, metavar="FILE.toml", help="File with training settings.")
@click.option("--json", "json_file", type=FILE, metavar="FILE", help="Write the report as JSON, with every problem.")
@click.option("--quick", is_flag=True, help="Do not open the photos.")
@cache_option
def data(
    datasets: tuple[Path, ...],
    given: Mapping[str, Any],
    assignments: tuple[str, ...],
    config_file: Path | None,
    json_file: Path | None,
    quick: bool,
    cache: Path | None,
) -> None:
    """Describe DATASET (a folder or Parquet file with captioned photos, or hf:OWNER/NAME), and list its problems.

    Prints counts, splits, caption lengths and frequent words; photos that are missing, cannot be read, have no caption,
    or are in two splits under different names; and captions that training with these settings would cut. Several
    datasets are described one by one, then compared.
    """
    from captioner.datasets import DataSource, load_datasets
    from captioner.datasets.inspection import inspect
    from captioner.output_files import write_whole

    settings = merged(read_toml(config_file) if config_file else {}, parse_settings(assignments), given)
    config = load_config(settings, source=str(config_file or "the options given")).data
    reports = [inspect(one, config, photos=not quick, cache=cache) for one in datasets]
    click.echo("\n\n".join("\n".join(report.lines()) for report in reports))
    if len(datasets) > 1:
        sources = [DataSource(dataset) for dataset in datasets]
        together = load_datasets(sources, config, allow_missing=True, cache=cache)
        click.echo("\n".join(["", f"together: {len(together.examples)} photos", *together.notes]))
    if json_file:
        found = [asdict(report) for report in reports]
        content = json.dumps(found if len(found) > 1 else found[0], ensure_ascii=False, indent=1)
        write_whole("The report", json_file, f"{content}\n")
