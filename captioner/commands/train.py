"""`captioner train`: trains a model, or resumes a training run."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from captioner.commands.console import own_command, say
from captioner.commands.options import (
    FILE,
    TRAINING,
    RunOptions,
    data_option,
    init_options,
    run_options,
    set_option,
    set_threads,
    setting_options,
)
from captioner.config import (
    FEW_PHOTOS,
    Config,
    changed_settings,
    load_config,
    load_second_config,
    merged,
    parse_settings,
    read_toml,
)
from captioner.errors import CaptionerError

if TYPE_CHECKING:
    from captioner.datasets import Dataset, DataSource
    from captioner.models.checkpoint import Checkpoint


@click.command()
@data_option("Captioned photos; WEIGHT is how often each photo is shown in an epoch.")
@click.option("--output", type=FILE, metavar="DIR", show_default="runs/DATE-TIME", help="Folder for the checkpoints.")
@init_options("Model to start from; needed for --stage self-critical.")
@setting_options(*TRAINING)
@set_option
@click.option("--config", "config_file", type=FILE, metavar="FILE.toml", help="File with settings.")
@run_options
@click.option("--resume", is_flag=True, help="Resume the training run in --output, or the newest one.")
def train(
    data: tuple[DataSource, ...],
    output: Path | None,
    init: Path | None,
    new_vocabulary: bool,
    assignments: tuple[str, ...],
    given: Mapping[str, Any],
    config_file: Path | None,
    run: RunOptions,
    resume: bool,
) -> None:
    """Train a captioner on captioned photos, and write checkpoints.

    Options take precedence over --set, and --set over --config. Under torchrun, all processes train one model. --stage
    self-critical improves a trained model (--init): it samples captions from the model and rewards those that agree
    with the reference captions.
    """
    from captioner.datasets import load_datasets
    from captioner.models.checkpoint import LAST, load_checkpoint
    from captioner.training.processes import join_processes, leave_processes
    from captioner.training.train import Job
    from captioner.training.train import train as run_training

    source = str(config_file or "the options given")
    settings = merged(read_toml(config_file) if config_file else {}, parse_settings(assignments), given)
    resumed = first = None
    if resume:
        if init is not None or new_vocabulary:
            option = "--init" if init is not None else "--new-vocabulary"
            raise CaptionerError(f"--resume continues a training run from its own checkpoint; leave out {option}.")
        output, resumed = _to_resume(output)
        config = _allowed_changes(resumed.config, load_config(settings, base=resumed.config, source=source))
    elif init is not None:
        first = load_checkpoint(init).config
        config = load_second_config(settings, first, new_vocabulary=new_vocabulary, source=source)
    elif new_vocabulary:
        raise CaptionerError("--new-vocabulary keeps the encoder of a trained model; name its checkpoint with --init.")
    else:
        config = load_config(settings, source=source)
    set_threads(run.threads)
    processes = join_processes(run.device)
    try:
        output = processes.from_first(output or Path("runs") / time.strftime("%Y%m%d-%H%M%S"))
        if not resume and (output / LAST).exists():
            raise CaptionerError(f"{output} already holds a training run; add --resume, or name another --output.")
        dataset = load_datasets(data, config.data, allow_missing=run.allow_missing, cache=run.cache)
        if first is not None and _has_few_photos(dataset):
            config = load_second_config(settings, first, new_vocabulary=new_vocabulary, few=True, source=source)
        job = Job(
            dataset,
            config,
            output,
            run.cache_folder,
            own_command(),
            processes,
            allow_missing=run.allow_missing,
            resumed=resumed,
            init=init,
            new_vocabulary=new_vocabulary,
        )
        run_training(job, say if processes.first else lambda _: None)
    except KeyboardInterrupt:
        leave_processes()
        if not processes.first:
            raise click.exceptions.Exit(1) from None
        if output is None or not (output / LAST).exists():
            raise CaptionerError("Interrupted before the first checkpoint; start again.") from None
        program = f"torchrun --nproc-per-node {processes.count} -m captioner" if processes.count > 1 else "captioner"
        raise CaptionerError(
            f"Interrupted; `{program} train --resume {_arguments(data, output, run)}` continues from the last "
            f"checkpoint in {output}."
        ) from None
    leave_processes()  # not after a failure, because it waits for the other processes


def _has_few_photos(dataset: Dataset) -> bool:
    """Returns whether the smallest dataset has few training photos."""
    from captioner.datasets.joining import split_sizes

    return min(counts.get("train", 0) for counts in split_sizes(dataset).values()) < FEW_PHOTOS


def _arguments(data: tuple[DataSource, ...], output: Path, run: RunOptions) -> str:
    """Returns the options to resume a training run with."""
    words = [word for source in data for word in ("--data", str(source))] + ["--output", str(output)]
    for name, value in (("--threads", run.threads), ("--cache", run.cache)):
        words += [name, str(value)] if value is not None else []
    words += ["--device", run.device] * (run.device != "auto") + ["--allow-missing"] * run.allow_missing
    return shlex.join(words)


def _to_resume(output: Path | None) -> tuple[Path, Checkpoint]:
    from captioner.models.checkpoint import LAST, load_checkpoint, newest_checkpoint

    last = output / LAST if output else newest_checkpoint(LAST)
    resumed = load_checkpoint(last)
    if resumed.training is None:
        raise CaptionerError(f"{last} cannot be resumed: it holds no optimiser state.")
    return last.parent, resumed


def _allowed_changes(config: Config, asked: Config) -> Config:
    """Returns `asked` if a training run with `config` can be resumed with it.

    Raises:
        CaptionerError: a setting was changed that must stay the same.
    """
    free = {"train.early_stop", "train.keep_epochs", "train.save_minutes"}
    if config.train.schedule in ("plateau", "constant") and not config.train.scheduled_sampling:
        free.add("train.epochs")  # with other schedules, the first step depends on the number of epochs
    changed = [name for name in changed_settings(config, asked) if name not in free]
    if changed:
        raise CaptionerError(
            f"A resumed training run keeps all its settings except {', '.join(sorted(free))}; leave out "
            f"{', '.join(changed)}, or start a new run."
        )
    return asked
