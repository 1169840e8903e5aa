"""Options that several commands share. The option for a setting has the type, range and default of its field."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import click
from click.core import ParameterSource

from caprun.commands.click_types import Integer, Number
from caprun.commands.options import collected, device_option
from caprun.errors import UsageError
from captioner.config import SELF_CRITICAL, Config, ExportSettings, decoder_names
from captioner.config.ranges import field_types
from captioner.datasets.embedded.hub import PREFIX
from captioner.output_files import cache_folder

Decorator = Callable[[Callable[..., Any]], Any]

FILE = click.Path(path_type=Path)


class DatasetPath(click.Path):
    """A dataset: an existing folder or file, or `hf:OWNER/NAME`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns the path."""
        return Path(value) if str(value).startswith(PREFIX) else super().convert(value, param, ctx)


precision_option = click.option(
    "--precision", show_default="the fastest measured on similar hardware", help="Precision of an ONNX bundle."
)
allow_missing_option = click.option(
    "--allow-missing", is_flag=True, help="Leave out photos that are missing or cannot be read."
)
threads_option = click.option(
    "--threads", type=Integer(1), show_default="all cores", help="CPU threads of each process."
)
cache_option = click.option(
    "--cache",
    type=FILE,
    metavar="DIR",
    show_default="~/.cache/captioner",
    help="Cache for the encoder's features, and for photos from Parquet files and the Hugging Face hub.",
)


def init_options(help_text: str) -> Decorator:
    """Declares `--init` and `--new-vocabulary`."""

    def decorate(command: Callable[..., Any]) -> Any:
        command = click.option(
            "--new-vocabulary", is_flag=True, help="Keep only the encoder of --init; vocabulary and decoder are new."
        )(command)
        return click.option("--init", type=FILE, metavar="CHECKPOINT|packaged", help=help_text)(command)

    return decorate


def data_option(help_text: str, *, default: str | None = "dataset") -> Decorator:
    """Declares `--data DATASET[=WEIGHT]`; the command receives a tuple of `DataSource` as `data`."""
    return click.option(
        "--data",
        multiple=True,
        callback=_sources,
        default=None if default is None else (default,),
        show_default=default is not None,
        metavar="DATASET[=WEIGHT]",
        help=f"{help_text} DATASET is a folder, a Parquet file, or hf:OWNER/NAME. Can be repeated.",
    )


def _sources(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[Any, ...]:
    from captioner.datasets import DataSource

    try:
        return tuple(DataSource.parse(one) for one in value)
    except UsageError as error:
        raise click.BadParameter(str(error), ctx, param) from None


_DEFAULTS: dict[str, Any] = {**vars(Config()), "export": ExportSettings()}
_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "train.stage": ("Training objective.", {}),
    "model.encoder": ("Image encoder: efficientnet_lite2, a torchvision CNN, or timm/NAME.", {}),
    "model.encoder_weights": ("Initial weights of the encoder.", {"metavar": "FILE|default|none"}),
    "model.regions": ("Pool the encoder's grid to N x N regions; 0: no pooling.", {"metavar": "N"}),
    "model.fine_tune": (
        "Train the encoder from child module (or transformer block) N onwards; -1: do not train it.",
        {"metavar": "N"},
    ),
    "model.decoder": ("How the photo enters the LSTM.", {"type": click.Choice(decoder_names())}),
    "model.layers": ("Number of stacked LSTM layers.", {"option": "--decoder-layers", "metavar": "N"}),
    "data.language": (
        "Language of the captions as a BCP 47 code, such as zh or pt-BR.",
        {"metavar": "CODE", "show_default": "unknown"},
    ),
    "data.tokenizer": (
        "Tokenizer for captions; auto chooses by their script.",
        {"metavar": "auto|word|bpe|wordpiece:VOCAB.TXT|spacy[:LANG]"},
    ),
    "data.splits": (
        "Relative sizes of the splits, if the dataset has none.",
        {"metavar": "TRAIN DEV TEST"},
    ),
    "data.split_seed": ("Seed for drawing the splits.", {}),
    "train.epochs": ("Passes over the training photos.", {}),
    "train.batch_size": ("Photos per step, each with all its captions.", {}),
    "train.lr": (f"Highest learning rate; with --stage self-critical the default is {SELF_CRITICAL.lr}.", {}),
    "train.seed": ("Seed for initialisation, dropout, augmentation and the order of photos.", {}),
    "export.precisions": (
        "Precision besides fp32: int8 for CPUs, fp16 for GPUs. Can be repeated.",
        {"option": "--precision"},
    ),
    "export.calibration": ("Method that finds the int8 ranges on training photos.", {}),
    "export.name": ("Name of the model.", {"show_default": "name of the bundle's folder"}),
    "export.licence": ("Licence of the weights, for the model card.", {}),
    "export.language": (
        "Language of the captions as a BCP 47 code.",
        {"metavar": "CODE", "show_default": "as in training"},
    ),
    "export.card": ("Introductory text for the model card.", {"metavar": "FILE.md", "show_default": False}),
    "export.data_photos": ("Number of dev photos to verify the export on.", {}),
}
"""Settings with an option of their own: its help, and its arguments that differ from the field."""

TRAINING = tuple(name for name in _OPTIONS if not name.startswith("export."))
EXPORT = tuple(name for name in _OPTIONS if name.startswith("export."))

set_option = click.option(
    "--set", "assignments", multiple=True, metavar="SECTION.KEY=VALUE", help="Set any setting; can be repeated."
)


def setting_option(name: str, **changes: Any) -> Decorator:
    """Declares the option for a setting, such as `train.epochs`, with the type, range and default of its field.

    Args:
        name: section and field; the command receives the field's name.
        changes: arguments of `click.option` that take precedence.
    """
    section, _, key = name.partition(".")
    kind, allowed = field_types(type(_DEFAULTS[section]))[key]
    arguments: dict[str, Any] = {"default": getattr(_DEFAULTS[section], key), "show_default": True}
    if get_origin(kind) is tuple:
        each = get_args(kind)
        arguments |= {"multiple": True} if each[-1] is Ellipsis else {"nargs": len(each)}
        kind = each[0]
    if get_origin(kind) is Literal:
        arguments["type"] = click.Choice(get_args(kind))
    elif allowed is not None:
        limits: Any = (allowed.low, allowed.shown_high)
        arguments["type"] = Integer(*limits) if kind is int else Number("number", *limits)
    else:
        arguments["type"] = kind
    help_text, own = _OPTIONS[name]
    arguments = {"option": f"--{key.replace('_', '-')}", **arguments, **own, **changes}
    return click.option(arguments.pop("option"), key, help=help_text, **arguments)


def setting_options(*names: str, **changes: Any) -> Decorator:
    """Declares options for settings; the command receives the settings that the user gave as `given`, by section.

    Args:
        names: see `setting_option`; `TRAINING` and `EXPORT` list all names.
        changes: see `setting_option`.
    """

    def decorate(command: Callable[..., Any]) -> Any:
        @wraps(command)
        def collecting(**parameters: Any) -> Any:
            given: dict[str, dict[str, Any]] = {}
            for name in names:
                section, _, key = name.partition(".")
                value = parameters.pop(key)
                if click.get_current_context().get_parameter_source(key) is not ParameterSource.DEFAULT:
                    given.setdefault(section, {})[key] = value
            return command(given=given, **parameters)

        decorated: Any = collecting
        for name in reversed(names):
            decorated = setting_option(name, **changes)(decorated)
        return decorated

    return decorate


class RunOptions(NamedTuple):
    """Options of the training commands that are not settings."""

    device: str
    threads: int | None
    cache: Path | None
    allow_missing: bool

    @property
    def cache_folder(self) -> Path:
        """The folder for the encoder's features, by default in the user's cache."""
        return cache_folder(self.cache)


run_options = collected(
    "run", RunOptions._fields, RunOptions, (device_option, threads_option, cache_option, allow_missing_option)
)
"""Adds the options of `RunOptions` to a command, which receives them as its parameter `run`."""


def set_threads(threads: int | None) -> None:
    """Sets the number of CPU threads: the given one, or an equal share of the cores for each torchrun process."""
    # oneDNN compiles a bf16 product for each number of unfinished captions in a step; its default cache of 1,024
    # products is too small for all of them
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "4096")

    import torch

    if threads:
        torch.set_num_threads(threads)
    elif "LOCAL_WORLD_SIZE" in os.environ:  # torchrun gives each process a single thread
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ["LOCAL_WORLD_SIZE"])))
