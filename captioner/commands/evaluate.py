"""`captioner evaluate`: scores a model on a split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from caprun.commands.click_types import Integer
from caprun.commands.options import device_option
from caprun.commands.search_options import search_options, with_search_options
from captioner.commands.console import say
from captioner.commands.options import (
    FILE,
    allow_missing_option,
    cache_option,
    data_option,
    precision_option,
    setting_option,
)
from captioner.datasets.example import SPLITS

if TYPE_CHECKING:
    from caprun.engine import Captioner
    from captioner.datasets import DataSource
    from captioner.evaluation.report import Evaluation
    from captioner.models.checkpoint import Checkpoint
    from captioner.text.metric_words import Segmenter


@click.command()
@click.argument("model", type=FILE, metavar="CHECKPOINT|BUNDLE")
@data_option("Captioned photos; several datasets are scored separately and together.")
@click.option("--split", type=click.Choice(SPLITS), default="dev", show_default=True, help="Split to caption.")
@setting_option("data.splits", default=None, show_default="as in training")
@setting_option("data.split_seed", default=None, show_default="as in training")
@device_option
@cache_option
@click.option("--json", "json_file", type=FILE, metavar="FILE", help="Write the scores and all captions as JSON.")
@click.option("--report", "page", type=FILE, metavar="FILE.html", help="Write an HTML page with scores and photos.")
@click.option(
    "--samples",
    type=Integer(0),
    default=0,
    show_default=True,
    metavar="N",
    help="Number of photos to print with captions and references.",
)
@click.option(
    "--segmenter",
    type=click.Choice(["jieba"]),
    show_default="characters",
    help="Package that segments words in scripts without spaces, for comparison with papers.",
)
@allow_missing_option
@precision_option
@search_options
def evaluate(
    model: Path,
    data: tuple[DataSource, ...],
    split: str,
    splits: tuple[float, float, float] | None,
    split_seed: int | None,
    device: str,
    cache: Path | None,
    json_file: Path | None,
    page: Path | None,
    samples: int,
    segmenter: Segmenter | None,
    allow_missing: bool,
    precision: str | None,
    search: Mapping[str, Any],
) -> None:
    """Caption the photos of a split, and score the captions against all references.

    For a checkpoint, also measures how well it predicts each word of a reference from the words before it
    (teacher-forced).
    """
    from captioner.backends.loading import load_captioner, splits_of
    from captioner.datasets import load_datasets
    from captioner.evaluation.meteor import find_meteor
    from captioner.evaluation.report import evaluate as run
    from captioner.models.checkpoint import checkpoint_file, load_checkpoint

    model = checkpoint_file(model)
    captioner = load_captioner(model, device, precision)
    checkpoint = None if model.is_dir() else load_checkpoint(model)
    drawn = splits_of(model) if checkpoint is None else checkpoint.config.data
    options = with_search_options(captioner.spec, captioner.vocabulary, search)
    drawn = replace(
        drawn,
        splits=splits or drawn.splits,
        split_seed=drawn.split_seed if split_seed is None else split_seed,
    )
    dataset = load_datasets(data, drawn, allow_missing=allow_missing, cache=cache)
    examples = dataset.split(split)
    report = run(
        captioner,
        examples,
        options,
        split,
        allow_missing=allow_missing,
        say=say,
        meteor=find_meteor(say),
        segment_with=segmenter,
        checkpoint=checkpoint,
    )
    click.echo(report.table(samples))
    if json_file:
        report.write(json_file)
    if page:
        _write_page(page, report, captioner, checkpoint)


def _write_page(page: Path, report: Evaluation, captioner: Captioner, checkpoint: Checkpoint | None) -> None:
    from captioner.reports.page import Content, write_report
    from captioner.reports.summary import config_toml

    content = Content(
        f"{report.model} on {report.split}",
        report.metrics,
        captioner,
        report.options,
        report.examples,
        [caption.text for caption in report.captions],
        config=None if checkpoint is None else config_toml(checkpoint.config),
    )
    write_report(page, content)
