"""`captioner export`: exports a checkpoint to a bundle, and verifies it."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from captioner.commands.console import say
from captioner.commands.options import EXPORT, FILE, allow_missing_option, cache_option, data_option, setting_options
from captioner.config import ExportSettings

if TYPE_CHECKING:
    from captioner.datasets import Dataset, DataSource

Format = Literal["onnx", "torchscript"]


@click.command()
@click.argument("checkpoint", type=FILE, required=False)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["onnx", "torchscript"]),
    default="onnx",
    show_default=True,
    help="Format of the graphs.",
)
@click.option(
    "--output", type=FILE, metavar="DIR", show_default="weights/RUN or weights/FILE", help="Folder of the bundle."
)
@setting_options(*EXPORT)
@data_option(
    "Training dataset, to verify the export on dev photos too and to fit the confidence; needed for int8 and fp16.",
    default=None,
)
@cache_option
@allow_missing_option
def export(
    checkpoint: Path | None,
    kind: Format,
    output: Path | None,
    given: Mapping[str, Any],
    data: tuple[DataSource, ...],
    cache: Path | None,
    allow_missing: bool,
) -> None:
    """Export CHECKPOINT to a bundle, and verify that it generates the same captions as PyTorch.

    Without CHECKPOINT, exports the best checkpoint of the newest training run.
    """
    from captioner.datasets import load_datasets
    from captioner.models.checkpoint import BEST, LAST, checkpoint_file, load_checkpoint, newest_checkpoint

    checkpoint = checkpoint_file(checkpoint or newest_checkpoint(BEST))
    name = checkpoint.resolve().parent.name if checkpoint.name in (BEST, LAST) else checkpoint.stem
    output = output or Path("weights") / (name if kind == "onnx" else f"{name}-{kind}")
    settings = ExportSettings(**given.get("export", {}))
    if kind != "onnx" and (other := next((one for one in settings.precisions if one != "fp32"), None)):
        raise click.UsageError(f"--precision {other} needs --format onnx; leave out one of the two.")
    dataset = None
    if data:
        check_bundle(output, settings)  # before all photos are opened
        drawn = load_checkpoint(checkpoint).config.data  # the same splits, so that dev photos are unseen
        dataset = load_datasets(data, drawn, allow_missing=allow_missing, cache=cache)
    write_bundle(checkpoint, output, dataset, settings, kind=kind, allow_missing=allow_missing)


def write_bundle(
    checkpoint: Path,
    output: Path,
    dataset: Dataset | None,
    settings: ExportSettings,
    *,
    kind: Format = "onnx",
    allow_missing: bool,
) -> None:
    """Exports a checkpoint, and prints a command that uses the bundle.

    Raises:
        CaprunError: see `capexport.export.export`; or a photo cannot be read and `allow_missing` is false.
    """
    from capexport.examples import from_each_dataset
    from capexport.export import ExportRequest
    from capexport.export import export as run

    if dataset is not None:
        dataset = _readable(dataset, allow_missing=allow_missing)
    dev = dataset.split("dev") if dataset else []
    request = ExportRequest(
        checkpoint,
        kind,
        output,
        settings,
        photos=[example.image for example in from_each_dataset(dev, settings.data_photos)],
        train=[example for example in dataset.examples if example.split == "train"] if dataset else [],
        dev=dev,
    )
    run(request, say)
    program = "caprun" if kind == "onnx" else "captioner caption"
    click.echo(f"{program} --model {shlex.quote(str(output))} PHOTO")


def _readable(dataset: Dataset, *, allow_missing: bool) -> Dataset:
    """Returns the dataset without the train and dev photos that cannot be read."""
    from captioner.training.inputs.sources import report_unreadable, unreadable_photos

    problems = unreadable_photos([example.image for example in dataset.examples if example.split != "test"])
    report_unreadable(list(problems.values()), say, allow_missing=allow_missing)
    return dataset.without(problems)


def check_bundle(output: Path, settings: ExportSettings) -> None:
    """Checks that a bundle can be written; called before a long training run.

    Raises:
        CaprunError: the exporter is not installed, the folder cannot be written or holds something else, or the card's
            text cannot be read.
    """
    from capexport.export import read_introduction  # fails unless its requirements are installed
    from caprun.bundle.writing import replaced_bundle

    if settings.card:
        read_introduction(Path(settings.card))
    with contextlib.suppress(_NothingToWrite), replaced_bundle(output):
        raise _NothingToWrite  # a replacement that fails leaves the folder unchanged


class _NothingToWrite(Exception):  # noqa: N818  (not an error)
    """Aborts a replacement that only checks whether it is possible."""
