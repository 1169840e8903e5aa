"""`captioner train`: options to a configuration, and a training from it."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from captioner.commands.console import DEVICES, FILE, data_option, say
from captioner.commands.files import newest
from captioner.errors import CaptionerError

if TYPE_CHECKING:
    from captioner.config import Config, TrainConfig
    from captioner.datasets import DataSource
    from captioner.models.checkpoint import Checkpoint

_SETTINGS = {
    "stage": "train.stage",
    "encoder": "model.encoder",
    "encoder_weights": "model.encoder_weights",
    "regions": "model.regions",
    "fine_tune": "model.fine_tune",
    "decoder": "model.decoder",
    "decoder_layers": "model.layers",
    "tokenizer": "data.tokenizer",
    "splits": "data.splits",
    "split_seed": "data.split_seed",
    "epochs": "train.epochs",
    "batch_size": "train.batch_size",
    "lr": "train.lr",
    "seed": "train.seed",
}
"""Options that are short for a setting."""
_DECODERS = ["soft-attention", "hard-attention", "rnetvi", "rnetvh", "rnetvhc", "rnetvhcattention"]


@click.command()
@data_option("Folder of captioned photos; WEIGHT is how often each of its photos is shown in an epoch.")
@click.option("--output", type=FILE, help="Folder for the checkpoints.  [default: runs/DATE-TIME]")
@click.option(
    "--stage",
    type=click.Choice(["cross-entropy", "self-critical"]),
    help="What is learnt from.  [default: cross-entropy]",
)
@click.option("--init", type=FILE, metavar="CHECKPOINT", help="Begin with its model; --stage self-critical needs it.")
@click.option("--encoder", help="efficientnet_lite2, a torchvision CNN, or timm/NAME.  [default: efficientnet_lite2]")
@click.option("--encoder-weights", metavar="FILE|default|none", help="Where the encoder starts from.")
@click.option("--regions", type=click.IntRange(0), metavar="N", help="Pool the photo to N x N regions.")
@click.option("--fine-tune", type=click.IntRange(-1), metavar="N", help="Train the encoder too, from its child N on.")
@click.option(
    "--decoder", type=click.Choice(_DECODERS), help="How the photo enters the LSTM.  [default: soft-attention]"
)
@click.option("--decoder-layers", type=click.IntRange(1), metavar="N", help="Stacked LSTM layers.")
@click.option("--tokenizer", metavar="word|bpe|wordpiece:VOCAB.TXT|spacy[:LANG]", help="What captions are cut into.")
@click.option(
    "--splits", type=float, nargs=3, metavar="TRAIN DEV TEST", help="Parts, where the dataset has no splits: 60 30 10."
)
@click.option("--split-seed", type=click.IntRange(0), help="Of that draw.")
@click.option("--epochs", type=click.IntRange(1), help="Passes over the training photos.")
@click.option("--batch-size", type=click.IntRange(1), help="Photos a step, each with all its captions.")
@click.option("--lr", type=float, help="Highest learning rate.")
@click.option("--seed", type=click.IntRange(0), help="Of initialisation, dropout, augmentation and order.")
@click.option("--config", "config_file", type=FILE, help="TOML file of settings.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="One setting; may be repeated.")
@click.option("--device", type=DEVICES, default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(1), help="CPU threads of each process.  [default: all cores]")
@click.option("--cache", type=FILE, help="Folder for the encoder's features.  [default: ~/.cache/captioner]")
@click.option("--allow-missing", is_flag=True, help="Go on without photos that are missing or cannot be read.")
@click.option("--resume", is_flag=True, help="Go on with the training in --output, or with the newest run.")
def train(
    data: tuple[DataSource, ...],
    output: Path | None,
    init: Path | None,
    config_file: Path | None,
    settings: tuple[str, ...],
    device: str,
    threads: int | None,
    cache: Path | None,
    allow_missing: bool,
    resume: bool,
    **options: Any,
) -> None:
    """Learn to caption photos from captioned photos, and write checkpoints.

    Settings are taken from --config, then --set, then the options; captioner/config.py documents each. Started by
    torchrun, all processes train one model. --stage self-critical makes a trained model (--init) better by drawing
    captions from it and preferring those that people's captions agree with.
    """

    from captioner.config import load_config, load_second_config
    from captioner.datasets import load_datasets
    from captioner.models.checkpoint import LAST, load_checkpoint
    from captioner.training.processes import join_processes, leave_processes
    from captioner.training.train import Job
    from captioner.training.train import train as run

    given = [f"{_SETTINGS[key]}={_toml(value)}" for key, value in options.items() if value is not None]
    resumed = None
    if resume:
        if init is not None:
            raise CaptionerError("--resume goes on with a training, whatever it began with; leave out --init.")
        output, resumed = _to_resume(output)
        config = resumed.config
        config = _allowed_changes(config, load_config(config_file, [*settings, *given], base=config))
    elif init is not None:
        config = load_second_config(config_file, [*settings, *given], load_checkpoint(init).config)
    else:
        config = load_config(config_file, [*settings, *given])
    set_threads(threads)
    processes = join_processes(device)
    try:
        output = processes.from_first(output or Path("runs") / time.strftime("%Y%m%d-%H%M%S"))
        if not resume and (output / LAST).exists():
            raise CaptionerError(
                f"{output} holds a training already; go on with it (--resume), or name another --output."
            )
        splits, seed = config.data.splits, config.data.split_seed
        dataset = load_datasets(data, allow_missing=allow_missing, splits=splits, seed=seed)
        command = shlex.join(["captioner", *sys.argv[1:]])
        job = Job(dataset, config, output, cache or default_cache(), command, processes, allow_missing, resumed, init)
        run(job, say if processes.first else lambda _: None)
    except KeyboardInterrupt:
        leave_processes()
        if not processes.first:
            raise click.exceptions.Exit(1) from None
        if output is None or not (output / LAST).exists():
            raise CaptionerError("Interrupted before the first checkpoint; begin again.") from None
        same = {"--output": output, "--threads": threads, "--cache": cache}
        words = [word for source in data for word in ("--data", str(source))]
        words += [str(word) for name, value in same.items() if value is not None for word in (name, value)]
        words += ["--device", device] * (device != "auto") + ["--allow-missing"] * allow_missing
        program = f"torchrun --nproc-per-node {processes.count} -m captioner" if processes.count > 1 else "captioner"
        raise CaptionerError(
            f"Interrupted; what was learnt is in {output}, and `{program} train --resume {shlex.join(words)}` goes on "
            "from there."
        ) from None
    leave_processes()  # not where one of them failed: taking leave waits for the others


def set_threads(threads: int | None) -> None:
    """Sets the number of CPU threads: as asked for, or a fair share of the cores for each process of torchrun."""
    # oneDNN compiles a bf16 product for every number of captions that still go on at a step; the 1,024 products that it
    # keeps by default are not enough for all of them
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "4096")

    import torch

    if threads:
        torch.set_num_threads(threads)
    elif "LOCAL_WORLD_SIZE" in os.environ:  # torchrun leaves each a single thread
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ["LOCAL_WORLD_SIZE"])))


def _toml(value: str | float | tuple[float, ...]) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(repr, value))}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _to_resume(output: Path | None) -> tuple[Path, Checkpoint]:
    from captioner.models.checkpoint import LAST, load_checkpoint

    last = output / LAST if output else newest(Path("runs"), LAST)
    resumed = load_checkpoint(last)
    if resumed.training is None:
        raise CaptionerError(f"{last} cannot be resumed: it holds no optimiser.")
    return last.parent, resumed


def _allowed_changes(config: Config, asked: Config) -> Config:
    """What is asked for, if a training that began with `config` can go on with it.

    Raises:
        CaptionerError: it cannot; says which settings may change.
    """
    free = _changeable(config.train)
    changed = [
        name
        for section, settings in vars(asked).items()
        for key, value in vars(settings).items()
        if value != getattr(getattr(config, section), key) and (name := f"{section}.{key}") not in free
    ]
    if changed:
        raise CaptionerError(
            f"A training is resumed with the settings it began with, all but {', '.join(sorted(free))}; "
            f"leave out {', '.join(changed)}, or begin another."
        )
    return asked


def _changeable(train: TrainConfig) -> set[str]:
    """Settings that what was learnt so far does not depend on."""
    free = {"train.early_stop", "train.keep_epochs", "train.save_minutes"}
    if train.schedule in ("plateau", "constant") and not train.scheduled_sampling:
        free.add("train.epochs")  # elsewhere the first step already depended on how many there would be
    return free


def default_cache() -> Path:
    """Where the encoder's features are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "captioner"
