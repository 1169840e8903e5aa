"""`captioner export`: a checkpoint to a bundle, proved."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from captioner.commands.console import FILE, data_option, say
from captioner.commands.files import newest
from captioner.errors import CaptionerError

if TYPE_CHECKING:
    from captioner.datasets import Dataset, DataSource


@click.command()
@click.argument("checkpoint", type=FILE, required=False)
@click.option("--format", "kind", type=click.Choice(["onnx", "torchscript"]), default="onnx", show_default=True)
@click.option("--output", type=FILE, help="Folder of the bundle.  [default: weights/RUN]")
@click.option("--name", help="The model's name.  [default: the folder's]")
@click.option("--licence", default="unknown", show_default=True, help="Licence of the weights, for the model card.")
@click.option("--card", type=FILE, metavar="FILE.md", help="Text to begin the model card with.")
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["fp32", "int8", "fp16"]),
    multiple=True,
    default=["fp32"],
    show_default=True,
    help="Graphs to write; those of fp32 always are. int8 is for CPUs, fp16 for GPUs. Needs --data.",
)
@click.option(
    "--calibration",
    type=click.Choice(["minmax", "entropy", "percentile"]),
    default="minmax",
    show_default=True,
    help="How int8 chooses its ranges, on training photos.",
)
@data_option(
    "Dataset it was trained on: proves the export on dev photos too, and fits the confidence.",
    default=None,
)
@click.option("--data-photos", type=click.IntRange(1), default=200, show_default=True, help="To prove it on.")
@click.option("--allow-missing", is_flag=True, help="Go on without photos that are missing or cannot be read.")
def export(
    checkpoint: Path | None,
    kind: Any,
    output: Path | None,
    name: str | None,
    licence: str,
    card: Path | None,
    precisions: tuple[str, ...],
    calibration: Any,
    data: tuple[DataSource, ...],
    data_photos: int,
    allow_missing: bool,
) -> None:
    """Write a bundle from CHECKPOINT (the newest run's best), and prove that it says the same as PyTorch."""
    from captioner.datasets import load_datasets
    from captioner.models.checkpoint import BEST, checkpoint_file, load_checkpoint

    checkpoint = checkpoint_file(checkpoint or newest(Path("runs"), BEST))
    run_name = checkpoint.resolve().parent.name
    output = output or Path("weights") / (run_name if kind == "onnx" else f"{run_name}-{kind}")
    if kind != "onnx" and (other := next((one for one in precisions if one != "fp32"), None)):
        raise click.UsageError(f"--precision {other} is for --format onnx; leave one of the two out")
    dataset = None
    if data:
        check_bundle(output, card)  # before all photos are opened
        drawn = load_checkpoint(checkpoint).config.data  # what it learnt from must not pass for what it has not seen
        dataset = load_datasets(data, allow_missing=allow_missing, splits=drawn.splits, seed=drawn.split_seed)
    write_bundle(
        checkpoint,
        kind,
        output,
        dataset,
        name,
        licence,
        card,
        precisions,
        calibration,
        data_photos=data_photos,
        allow_missing=allow_missing,
    )


def write_bundle(
    checkpoint: Path,
    kind: Any,
    output: Path,
    dataset: Dataset | None,
    name: str | None,
    licence: str,
    card: Path | None,
    precisions: Sequence[str],
    calibration: Any,
    *,
    data_photos: int,
    allow_missing: bool,
) -> None:
    """Export, and print the line that uses the bundle; the arguments are the command's.

    Raises:
        CaprunError: see `capexport.export.export`; or a photo cannot be read and none may be left out.
    """
    from capexport.export import Request
    from capexport.export import export as run

    if dataset is not None:
        dataset = _readable(dataset, allow_missing=allow_missing)
    others: Any = tuple(dict.fromkeys(precision for precision in precisions if precision != "fp32"))
    dev = dataset.split("dev") if dataset else []
    train = [example for example in dataset.examples if example.split == "train"] if dataset else []
    photos = [example.image for example in dev[:data_photos]]
    name = name or output.resolve().name
    run(Request(checkpoint, kind, output, name, licence, card, photos, others, calibration, train, dev), say)
    program = "caprun" if kind == "onnx" else "captioner caption"
    click.echo(f"{program} --model {shlex.quote(str(output))} PHOTO")


def _readable(dataset: Dataset, *, allow_missing: bool) -> Dataset:
    """Without the photos of train and dev that cannot be read; found out before anything is written."""
    from captioner.training.inputs.sources import report_unreadable, unreadable_photos

    problems = unreadable_photos([example.image for example in dataset.examples if example.split != "test"])
    report_unreadable(list(problems.values()), say, allow_missing=allow_missing)
    return dataset.without(problems)


def check_bundle(output: Path, card: Path | None) -> None:
    """Find out before a long training whether a bundle can be written there.

    Raises:
        CaprunError: it cannot, something else is there, or the card's text cannot be read.
    """
    import capexport.export  # noqa: F401  (what it needs is installed)
    from caprun.bundle.writing import Replacement

    if card is not None:
        try:
            card.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CaptionerError(f"The text {card} for the model card cannot be read ({error}).") from None
    with contextlib.suppress(_SoonerThanLater), Replacement(output):
        raise _SoonerThanLater  # what fails leaves what is there alone


class _SoonerThanLater(Exception):  # noqa: N818  (nothing is wrong)
    """A bundle could be written."""
