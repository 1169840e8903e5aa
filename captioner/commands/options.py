"""Options that several commands share; the option of a setting takes type, range and default from its field."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
from click.core import ParameterSource

from caprun.commands.click_types import Integer, Number
from caprun.errors import UsageError
from captioner.config import SELF_CRITICAL, Config, ExportSettings, merged, parse_settings
from captioner.config.ranges import field_types

Decorator = Callable[[Callable[..., Any]], Any]

FILE = click.Path(path_type=Path)

device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Device to run on."
)
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
    "--cache", type=FILE, metavar="DIR", show_default="~/.cache/captioner", help="Cache of the encoder's features."
)


def data_option(help_text: str, *, required: bool = False, default: str | None = "dataset") -> Decorator:
    """Declares `--data DIR[=WEIGHT]`; the command receives a tuple of `DataSource` as `data`."""
    return click.option(
        "--data",
        multiple=True,
        callback=_sources,
        required=required,
        default=None if default is None else (default,),
        show_default=default is not None,
        metavar="DIR[=WEIGHT]",
        help=f"{help_text} May be repeated.",
    )


def _sources(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[Any, ...]:
    from captioner.datasets import DataSource

    try:
        return tuple(DataSource.parse(one) for one in value)
    except UsageError as error:
        raise click.BadParameter(str(error), ctx, param) from None


def field_option(config: object, name: str, option: str, help_text: str, **changes: Any) -> Decorator:
    """Declares an option with the type, range and default of a dataclass field.

    Args:
        config: an instance with the defaults.
        name: name of the field, and of the command's parameter.
        option: the option as users type it.
        help_text: help of the option, without range and default.
        changes: further arguments of `click.option`, which take precedence.
    """
    kind, allowed = field_types(type(config))[name]
    settings: dict[str, Any] = {"default": getattr(config, name), "show_default": True}
    if get_origin(kind) is tuple and get_args(kind)[-1] is Ellipsis:
        settings |= {"multiple": True}
        kind = get_args(kind)[0]
    elif get_origin(kind) is tuple:
        settings |= {"nargs": len(get_args(kind))}
        kind = get_args(kind)[0]
    if get_origin(kind) is Literal:
        settings["type"] = click.Choice(get_args(kind))
    elif allowed is not None:
        limits: Any = (allowed.low, allowed.shown_high)
        settings["type"] = Integer(*limits) if kind is int else Number("number", *limits)
    else:
        settings["type"] = kind
    return click.option(option, name, help=help_text, **{**settings, **changes})


_SPLITS = "Relative sizes of the splits, where the dataset has none."
_TRAINING: dict[str, tuple[str, dict[str, Any]]] = {
    "train.stage": ("Training objective.", {}),
    "model.encoder": ("CNN: efficientnet_lite2, a torchvision model, or timm/NAME.", {}),
    "model.encoder_weights": ("Initial weights of the encoder.", {"metavar": "FILE|default|none"}),
    "model.regions": ("Pool the encoder's grid to N x N regions; 0: no pooling.", {"metavar": "N"}),
    "model.fine_tune": ("Train the encoder from its child module N on; -1: do not train it.", {"metavar": "N"}),
    "model.decoder": ("How the photo enters the LSTM.", {}),
    "model.layers": ("Number of stacked LSTM layers.", {"option": "--decoder-layers", "metavar": "N"}),
    "data.tokenizer": ("Tokenizer of captions.", {"metavar": "word|bpe|wordpiece:VOCAB.TXT|spacy[:LANG]"}),
    "data.splits": (_SPLITS, {"metavar": "TRAIN DEV TEST"}),
    "data.split_seed": ("Seed for drawing the splits.", {}),
    "train.epochs": ("Passes over the training photos.", {}),
    "train.batch_size": ("Photos in a step, each with all its captions.", {}),
    "train.lr": (f"Highest learning rate; with --stage self-critical the default is {SELF_CRITICAL.lr}.", {}),
    "train.seed": ("Seed for initialisation, dropout, augmentation and the order of photos.", {}),
}
"""Settings with an option of their own: help, and what differs from the field."""


def setting_option(name: str, **changes: Any) -> Decorator:
    """Declares the option of one setting, such as `train.epochs`."""
    section, _, key = name.partition(".")
    help_text, own = _TRAINING[name]
    options = {"option": f"--{key.replace('_', '-')}", **own, **changes}
    return field_option(getattr(Config(), section), key, options.pop("option"), help_text, **options)


def training_options(*names: str, **changes: Any) -> Decorator:
    """Declares `--set` and the options of settings; the command receives what was given as `settings`, by section.

    Args:
        names: settings with an option of their own, such as `train.epochs`; all of them if there is none.
        changes: see `setting_option`.
    """
    names = names or tuple(_TRAINING)

    def decorate(command: Callable[..., Any]) -> Any:
        @wraps(command)
        def collecting(assignments: tuple[str, ...], **parameters: Any) -> Any:
            settings: dict[str, Any] = parse_settings(assignments)
            for name in names:
                section, _, key = name.partition(".")
                value = parameters.pop(key)
                if _given(key):
                    settings = merged(settings, {section: {key: value}})
            return command(settings=settings, **parameters)

        decorated: Any = click.option(
            "--set", "assignments", multiple=True, metavar="SECTION.KEY=VALUE", help="Any setting; may be repeated."
        )(collecting)
        for name in reversed(names):
            decorated = setting_option(name, **changes)(decorated)
        return decorated

    return decorate


_EXPORT: dict[str, tuple[str, str, dict[str, Any]]] = {
    "precisions": (
        "--precision",
        "Precision besides fp32: int8 for CPUs, fp16 for GPUs. May be repeated.",
        {},
    ),
    "calibration": ("--calibration", "How int8 determines its ranges, on training photos.", {}),
    "name": ("--name", "Name of the model.", {"show_default": "the bundle's folder"}),
    "licence": ("--licence", "Licence of the weights, for the model card.", {}),
    "card": ("--card", "Introductory text for the model card.", {"metavar": "FILE.md", "show_default": False}),
    "data_photos": ("--data-photos", "Number of dev photos to prove the export on.", {}),
}


def export_options(**changes: Any) -> Decorator:
    """Declares the options of an export; the command receives those that were given as `export`, by field name."""

    def decorate(command: Callable[..., Any]) -> Any:
        @wraps(command)
        def collecting(**parameters: Any) -> Any:
            values = {name: parameters.pop(name) for name in _EXPORT}
            return command(export={name: value for name, value in values.items() if _given(name)}, **parameters)

        decorated: Any = collecting
        for name, (option, help_text, own) in reversed(_EXPORT.items()):
            decorated = field_option(ExportSettings(), name, option, help_text, **{**own, **changes})(decorated)
        return decorated

    return decorate


def _given(parameter: str) -> bool:
    return click.get_current_context().get_parameter_source(parameter) is not ParameterSource.DEFAULT


@dataclass(frozen=True)
class RunOptions:
    """Options of a command that trains which do not change what it learns."""

    device: str
    threads: int | None
    cache: Path | None
    allow_missing: bool

    @property
    def cache_folder(self) -> Path:
        """The folder for the encoder's features, by default in the user's cache."""
        return self.cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "captioner"


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Declares the options of `RunOptions`; the command receives them as `run`."""

    @wraps(command)
    def collecting(device: str, threads: int | None, cache: Path | None, allow_missing: bool, **parameters: Any) -> Any:
        return command(run=RunOptions(device, threads, cache, allow_missing), **parameters)

    for option in (allow_missing_option, cache_option, threads_option, device_option):
        collecting = option(collecting)
    return collecting


def set_threads(threads: int | None) -> None:
    """Sets the number of CPU threads: as asked for, or a fair share of the cores for each process of torchrun."""
    # oneDNN compiles a bf16 product for every number of captions that are not finished at a step; its default cache of
    # 1,024 products is too small for all of them
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "4096")

    import torch

    if threads:
        torch.set_num_threads(threads)
    elif "LOCAL_WORLD_SIZE" in os.environ:  # torchrun gives each process a single thread
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ["LOCAL_WORLD_SIZE"])))
