"""The command line: train, export, evaluate, caption. Imports what a command needs when it is run, and not before."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from caprun.cli import (
    ErrorsAsSentences,
    caption_photos,
    output_options,
    photos_argument,
    search_options,
    with_search_options,
)
from captioner.errors import CaptionerError

if TYPE_CHECKING:
    from captioner.config import Config

_DEVICES = click.Choice(["auto", "cpu", "cuda"])
_file = click.Path(path_type=Path)


def say(line: str) -> None:
    """Tell the person at the terminal; standard output is for results alone."""
    click.echo(line, err=True)


@click.group(cls=ErrorsAsSentences, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="captioner")
def main() -> None:
    """Train an image captioner, export it, and measure it. What it exports runs with `caprun`, without torch."""


@main.command()
@click.option("--data", type=_file, default=Path("dataset"), show_default=True, help="Folder of captioned photos.")
@click.option("--output", type=_file, help="Folder for the checkpoints.  [default: runs/DATE-TIME]")
@click.option("--encoder", help="efficientnet_lite2, a torchvision CNN, or timm/NAME.  [default: efficientnet_lite2]")
@click.option("--encoder-weights", metavar="FILE|default|none", help="Where the encoder starts from.")
@click.option("--epochs", type=click.IntRange(1), help="Passes over the training photos.")
@click.option("--batch-size", type=click.IntRange(1), help="Photos a step, each with all its captions.")
@click.option("--lr", type=float, help="Highest learning rate.")
@click.option("--seed", type=click.IntRange(0), help="Of initialisation, dropout and order.")
@click.option("--config", "config_file", type=_file, help="TOML file of settings.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="One setting; may be repeated.")
@click.option("--device", type=_DEVICES, default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(1), help="CPU threads.  [default: all cores]")
@click.option("--cache", type=_file, help="Folder for the encoder's features.  [default: ~/.cache/captioner]")
@click.option("--allow-missing", is_flag=True, help="Go on without photos that are missing or cannot be read.")
@click.option("--resume", is_flag=True, help="Go on with the training in --output, or with the newest run.")
def train(
    data: Path,
    output: Path | None,
    encoder: str | None,
    encoder_weights: str | None,
    epochs: int | None,
    batch_size: int | None,
    lr: float | None,
    seed: int | None,
    config_file: Path | None,
    settings: tuple[str, ...],
    device: str,
    threads: int | None,
    cache: Path | None,
    allow_missing: bool,
    resume: bool,
) -> None:
    """Learn to caption photos from captioned photos, and write checkpoints.

    Settings are taken from --config, then --set, then the options; the README lists them.
    """
    import torch

    from captioner.config import load_config
    from captioner.datasets import load_dataset
    from captioner.inference import torch_device
    from captioner.training.checkpoint import load_checkpoint
    from captioner.training.loop import LAST
    from captioner.training.train import Job
    from captioner.training.train import train as run

    options = {
        "model.encoder": encoder,
        "model.encoder_weights": encoder_weights,
        "train.epochs": epochs,
        "train.batch_size": batch_size,
        "train.lr": lr,
        "train.seed": seed,
    }
    given = [f"{key}={json.dumps(value)}" for key, value in options.items() if value is not None]
    resumed = None
    if resume:
        last = output / LAST if output else newest(Path("runs"), LAST)
        output = last.parent
        resumed = load_checkpoint(last)
        if resumed.training is None:
            raise CaptionerError(f"{last} cannot be resumed: it holds no optimiser.")
        config = resumed.config
        _refuse_changes(config, load_config(config_file, [*settings, *given], base=config))
    else:
        config = load_config(config_file, [*settings, *given])
        output = output or Path("runs") / time.strftime("%Y%m%d-%H%M%S")
        if (output / LAST).exists():
            raise CaptionerError(
                f"{output} holds a training already; go on with it (--resume), or name another --output."
            )
    if threads:
        torch.set_num_threads(threads)
    job = Job(
        dataset=load_dataset(data, allow_missing=allow_missing),
        config=config,
        output=output,
        cache=cache or _default_cache(),
        device=torch_device(device),
        command=shlex.join(["captioner", *sys.argv[1:]]),
        allow_missing=allow_missing,
        resumed=resumed,
    )
    try:
        run(job, say)
    except KeyboardInterrupt:
        raise CaptionerError(
            f"Interrupted; what the last whole epoch left is in {output}, and `captioner train --resume --output "
            f"{shlex.quote(str(output))}` goes on from there."
        ) from None


def _refuse_changes(config: Config, asked: Config) -> None:
    changed = [
        f"{section}.{key}"
        for section, settings in vars(asked).items()
        for key, value in vars(settings).items()
        if value != getattr(getattr(config, section), key)
    ]
    if changed:
        raise CaptionerError(
            f"A training is resumed with the settings it began with; leave out {', '.join(changed)}, or begin another."
        )


def newest(runs: Path, name: str) -> Path:
    """The newest file of that name in a folder of runs.

    Raises:
        CaptionerError: there is none.
    """
    found = sorted(runs.glob(f"*/{name}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise CaptionerError(
            f"There is no {runs}/*/{name}; train a model first with `captioner train`, or name a checkpoint."
        )
    return found[-1]


@main.command()
@photos_argument
@click.option("--model", required=True, type=_file, help="A TorchScript or ONNX bundle, or a checkpoint.")
@click.option("--device", type=_DEVICES, default="auto", show_default=True)
@search_options
@output_options
def caption(photos: tuple[str, ...], model: Path, device: str, **options: Any) -> int:
    """Print a caption for every PHOTO, with PyTorch: what `caprun` does, for checkpoints and TorchScript bundles."""
    from captioner.inference import load_captioner

    return caption_photos(lambda: load_captioner(model, device), photos, **options)


@main.command()
@click.argument("model", type=_file, metavar="CHECKPOINT|BUNDLE")
@click.option("--data", type=_file, default=Path("dataset"), show_default=True, help="Folder of captioned photos.")
@click.option("--split", type=click.Choice(["train", "dev", "test"]), default="dev", show_default=True)
@click.option("--device", type=_DEVICES, default="auto", show_default=True)
@click.option("--json", "json_file", type=_file, metavar="FILE", help="Write the scores and every caption.")
@click.option("--allow-missing", is_flag=True, help="Go on without photos that are missing or cannot be read.")
@search_options
def evaluate(
    model: Path,
    data: Path,
    split: str,
    device: str,
    json_file: Path | None,
    allow_missing: bool,
    beam_size: int | None,
    max_length: int | None,
    length_penalty: float | None,
) -> None:
    """Caption a split, photos to words, and score the captions against all references."""
    from captioner.datasets import load_dataset
    from captioner.evaluation.report import evaluate as run
    from captioner.inference import load_captioner

    captioner = load_captioner(model, device)
    options = with_search_options(captioner.spec.search, beam_size, max_length, length_penalty)
    dataset = load_dataset(data, allow_missing=allow_missing)
    report = run(captioner, dataset.split(split), options, split, allow_missing=allow_missing, say=say)
    click.echo(report.table())
    if json_file:
        report.write(json_file)


@main.command()
@click.argument("checkpoint", type=_file, required=False)
@click.option("--format", "kind", type=click.Choice(["onnx", "torchscript"]), default="onnx", show_default=True)
@click.option("--output", type=_file, help="Folder of the bundle.  [default: weights/RUN]")
@click.option("--name", help="The model's name.  [default: the folder's]")
@click.option("--licence", default="unknown", show_default=True, help="Licence of the weights, for the model card.")
@click.option("--card", type=_file, metavar="FILE.md", help="Text to begin the model card with.")
@click.option("--data", type=_file, help="Prove it on this dataset's dev photos too.")
@click.option("--data-photos", type=click.IntRange(1), default=200, show_default=True, help="How many of them.")
def export(
    checkpoint: Path | None,
    kind: Any,
    output: Path | None,
    name: str | None,
    licence: str,
    card: Path | None,
    data: Path | None,
    data_photos: int,
) -> None:
    """Write a bundle from CHECKPOINT (the newest run's best), and prove that it says the same as PyTorch."""
    from capexport.export import Request
    from capexport.export import export as run
    from captioner.training.loop import BEST

    checkpoint = checkpoint or newest(Path("runs"), BEST)
    run_name = checkpoint.resolve().parent.name
    output = output or Path("weights") / (run_name if kind == "onnx" else f"{run_name}-{kind}")
    photos = _photos(data, data_photos) if data else []
    run(Request(checkpoint, kind, output, name or output.resolve().name, licence, card, photos), say)
    program = "caprun" if kind == "onnx" else "captioner caption"
    click.echo(f"{program} --model {shlex.quote(str(output))} PHOTO")


def _photos(data: Path, count: int) -> list[Path]:
    from captioner.datasets import load_dataset

    return [example.image for example in load_dataset(data).split("dev")[:count]]


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "captioner"
