"""`captioner evaluate`: how good a model is on a split, number by number and photo by photo."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from caprun.commands.search_options import search_options, with_search_options
from captioner.commands.console import DEVICES, FILE, data_option, say

if TYPE_CHECKING:
    from caprun.engine import Captioner
    from captioner.config import Config
    from captioner.datasets import DataSource
    from captioner.evaluation.report import Evaluation


@click.command()
@click.argument("model", type=FILE, metavar="CHECKPOINT|BUNDLE")
@data_option("Folder of captioned photos; several are scored each and together.")
@click.option("--split", type=click.Choice(["train", "dev", "test"]), default="dev", show_default=True)
@click.option(
    "--splits",
    type=float,
    nargs=3,
    metavar="TRAIN DEV TEST",
    help="Parts to draw, where the dataset has no splits.  [default: those of the training]",
)
@click.option("--split-seed", type=click.IntRange(0), help="Of that draw.  [default: that of the training]")
@click.option("--device", type=DEVICES, default="auto", show_default=True)
@click.option("--json", "json_file", type=FILE, metavar="FILE", help="Write the scores and every caption.")
@click.option("--report", "page", type=FILE, metavar="FILE.html", help="Write a page with scores and photos.")
@click.option("--samples", type=click.IntRange(0), default=0, metavar="N", help="Print N photos' captions, references.")
@click.option("--allow-missing", is_flag=True, help="Go on without photos that are missing or cannot be read.")
@click.option("--precision", help="Of a bundle, such as fp32.  [default: the fastest measured on such hardware]")
@search_options
def evaluate(
    model: Path,
    data: tuple[DataSource, ...],
    split: str,
    splits: tuple[float, float, float] | None,
    split_seed: int | None,
    device: str,
    json_file: Path | None,
    page: Path | None,
    samples: int,
    allow_missing: bool,
    precision: str | None,
    search: Mapping[str, Any],
) -> None:
    """Caption a split, photos to words, and score the captions against all references.

    Of a checkpoint it also says how well each word is guessed by who knows the words before (teacher-forced).
    """
    from captioner.datasets import load_datasets
    from captioner.evaluation.meteor import Meteor
    from captioner.evaluation.report import evaluate as run

    captioner, config = _open(model, device, precision)
    options = with_search_options(captioner.spec, search)
    dataset = load_datasets(
        data,
        allow_missing=allow_missing,
        splits=splits or config.data.splits,
        seed=config.data.split_seed if split_seed is None else split_seed,
    )
    examples = dataset.split(split)
    with Meteor.find(say) or nullcontext() as meteor:
        report = run(captioner, examples, options, split, allow_missing=allow_missing, say=say, meteor=meteor)
    click.echo(report.table(samples))
    if json_file:
        report.write(json_file)
    if page:
        _write_page(page, report, captioner, config, None if model.is_dir() else model.parent)


def _open(model: Path, device: str, precision: str | None) -> tuple[Captioner, Config]:
    """A captioner, and the configuration of its training; a bundle knows of it how the splits were drawn."""
    from caprun.errors import UsageError
    from captioner.backends.loading import load_captioner, splits_of
    from captioner.backends.pytorch import torch_device
    from captioner.config import Config
    from captioner.evaluation.report import Taught
    from captioner.models.checkpoint import checkpoint_file, load_checkpoint
    from captioner.text.build import restore_tokenizer

    model = checkpoint_file(model)
    if model.is_dir():
        return load_captioner(model, device, precision), Config(data=splits_of(model))
    if precision is not None:
        raise UsageError(f"{model} is no ONNX bundle and has one precision; leave out --precision.")
    checkpoint = load_checkpoint(model)
    config = checkpoint.config
    tokenizer = restore_tokenizer(config.data, checkpoint.vocabulary, checkpoint.tokenizer)
    return Taught(checkpoint, tokenizer.encode, torch_device(device)).captioner(model.stem), config


def _write_page(page: Path, report: Evaluation, captioner: Captioner, config: Config, run: Path | None) -> None:
    """The report; `run` is the folder of the training, where it is known."""
    from captioner.reports.page import Content, write_report
    from captioner.reports.run import History
    from captioner.reports.summary import config_toml

    history = History.read(run) if run else History([], [])
    content = Content(
        f"{report.model} on {report.split}",
        report.metrics,
        captioner,
        report.options,
        report.examples,
        [caption.text for caption in report.captions],
        history.by_title(),
        history.curves(),
        config_toml(config) if run else None,
    )
    write_report(page, content)
