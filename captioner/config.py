"""How a training is configured: frozen dataclasses, read from TOML and from `--set section.key=value`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from caprun.decoding import SearchOptions
from caprun.errors import UsageError
from caprun.schema import from_dict
from captioner.errors import CaptionerError


def _check_ranges(config: object, **ranges: tuple[float, float]) -> None:
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if not low <= value <= high:
            raise UsageError(f"{name} is {value}; it must lie between {low} and {high}.")


@dataclass(frozen=True)
class DataConfig:
    """What the photos and captions are turned into."""

    image_size: int = 224
    """Height and width in pixels of what the encoder sees."""
    fit: Literal["squash", "crop"] = "squash"
    """How a photo becomes a square: `squash` ignores its aspect, `crop` cuts its long side."""
    resample: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"
    """Filter of the resizing: bilinear, bicubic or lanczos."""
    min_count: int = 5
    """Words seen fewer times than this in the training captions become the unknown word."""
    views: int = 2
    """Views of a training photo to learn from: itself, mirrored, then crops; features of each are cached."""
    sided_words: tuple[str, ...] = ("left", "right")
    """Photos are never mirrored if a caption has one of these words."""
    max_length: int = 30
    """Training captions are cut after this many pieces."""

    def __post_init__(self) -> None:
        _check_ranges(self, image_size=(1, 4096), views=(1, 100), min_count=(1, 10**9), max_length=(1, 1000))


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the network."""

    encoder: str = "efficientnet_lite2"
    """Name of the CNN: efficientnet_lite2, any of torchvision's, or timm/NAME."""
    encoder_weights: str = "default"
    """`default` (those pretrained on ImageNet), `none`, or a file."""
    projection: int = 512
    """Length of a region after projection."""
    embedding: int = 256
    """Length of a word vector."""
    units: int = 512
    """Length of the LSTM's hidden and cell vectors."""
    attention: int = 256
    """Length of the space in which attention compares regions with the hidden vector."""
    tie_words: bool = True
    """One matrix for the words read and the words said (Press and Wolf, 2017)."""
    layers: int = 1
    """Stacked LSTM layers."""
    dropout: float = 0.5
    """Share dropped of regions, embedded words and output layer in training."""
    word_dropout: float = 0.0
    """Share of the words read in training that are hidden behind the unknown word."""

    def __post_init__(self) -> None:
        sizes = dict.fromkeys(("projection", "embedding", "units", "attention"), (1, 2**16))
        _check_ranges(self, **sizes, layers=(1, 100), dropout=(0, 1), word_dropout=(0, 1))


@dataclass(frozen=True)
class TrainConfig:
    """How the network is trained."""

    epochs: int = 8
    """Passes over the training photos."""
    batch_size: int = 16
    """Photos a step; each comes with all its captions."""
    lr: float = 1e-3
    """Highest learning rate of the one-cycle schedule (Smith and Topin, 2017)."""
    warm_up: float = 0.1
    """Share of the steps in which the rate rises."""
    weight_decay: float = 1e-2
    """AdamW's."""
    clip_norm: float = 5.0
    """Largest norm of a step's gradient."""
    label_smoothing: float = 0.1
    """Share of the probability spread over the whole vocabulary (Szegedy et al., 2016)."""
    attention_penalty: float = 1.0
    """Weight of the doubly stochastic regularisation (Xu et al., 2015, equation 14)."""
    average: float = 0.999
    """Decay of the moving average of the weights, which is what is validated and kept; 0 for none."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: mixed precision, faster on processors that multiply it natively (AVX512-BF16, AMX, GPUs)."""
    seed: int = 0
    """Of initialisation, dropout and the order of photos."""

    def __post_init__(self) -> None:
        shares = dict.fromkeys(("warm_up", "label_smoothing", "average"), (0, 1))
        weights = dict.fromkeys(("weight_decay", "attention_penalty"), (0, 1000))
        counts = dict.fromkeys(("epochs", "batch_size"), (1, 10**9))
        _check_ranges(self, **shares, **weights, **counts, lr=(1e-9, 10), clip_norm=(1e-9, 1e9), seed=(0, 2**63 - 1))


@dataclass(frozen=True)
class Config:
    """Everything about a training that is worth keeping in its checkpoint."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    search: SearchOptions = field(default_factory=SearchOptions)
    """How validation writes its captions; an exported bundle takes these as its defaults."""


def load_config(file: Path | None, settings: Sequence[str] = (), base: Config | None = None) -> Config:
    """Defaults (or `base`), then the TOML file, then `section.key=value` settings, each over the one before.

    Raises:
        CaptionerError: no such file, not TOML, an unknown key, or a value of the wrong type.
    """
    data: dict[str, Any] = {}
    if file is not None:
        try:
            data = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise CaptionerError(f"The configuration {file} cannot be read: {error.strerror}.") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise CaptionerError(f"The configuration {file} is not TOML: {error}.") from None
    for setting in settings:
        _apply(data, setting)
    if base is not None:
        below = asdict(base)
        data = below | {
            key: {**below[key], **table} if key in below and isinstance(table, dict) else table
            for key, table in data.items()
        }
    return config_from_dict(data, str(file) if file else "--set")


def config_from_dict(data: Mapping[str, Any], source: str) -> Config:
    """Check and build a configuration; `source` is named where something is wrong."""
    try:
        return from_dict(Config, data)
    except (ValueError, UsageError) as error:
        raise CaptionerError(f"In the configuration ({source}): {str(error).rstrip('.')}.") from None


def _apply(data: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    section, dot, name = key.strip().partition(".")
    if not equals or not dot or not section or not name:
        raise CaptionerError(f"--set {setting!r} is not of the form section.key=value, such as train.lr=0.001.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is text
    table = data.setdefault(section, {})
    if not isinstance(table, dict):
        raise CaptionerError(f"In the configuration, {section!r} must be a table of keys and values.")
    table[name] = value
