"""How a training is configured: frozen dataclasses, read from TOML and from `--set section.key=value`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from caprun.bundle.plain_data import from_dict
from caprun.errors import UsageError
from caprun.search.options import SearchOptions
from captioner.errors import CaptionerError
from captioner.ranges import check_ranges
from captioner.self_critical_config import SelfCriticalConfig


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
    """Words seen fewer times than this in the training captions become the unknown word; bpe does not join such pairs,
    and wordpiece spells such pieces with smaller ones."""
    views: int = 2
    """Views of a training photo to learn from: itself, mirrored, then crops; what the frozen part of the encoder
    gives of each is cached, where that is no more than the photo; else photos are read again every epoch."""
    sided_words: tuple[str, ...] = ("left", "right")
    """Photos are never mirrored if a caption has one of these words."""
    max_length: int = 30
    """Training captions are cut after this many pieces."""
    augment: bool = False
    """Show crops, mirror images and other colours, drawn anew every epoch; features cannot be cached then."""
    tokenizer: str = "word"
    """What captions are cut into: `word`, `wordpiece:vocab.txt` (BERT's), `bpe`, `spacy` or `spacy:LANG`."""
    vocabulary_size: int = 0
    """Most pieces in the vocabulary, the special ones among them; 0: as many as `min_count` leaves (bpe: 8,000)."""
    lower_case: bool = True
    """Captions are learnt in lower case."""
    punctuation: bool = False
    """Punctuation marks are pieces too; without, they are left out."""
    splits: tuple[float, float, float] = (80, 10, 10)
    """Parts of the photos drawn for train, dev and test, where a dataset has no splits of its own."""
    split_seed: int = 0
    """Of that draw."""

    def __post_init__(self) -> None:
        check_ranges(
            self,
            image_size=(1, 4096),
            views=(1, 100),
            min_count=(1, 10**9),
            max_length=(1, 1000),
            vocabulary_size=(0, 10**6),
            split_seed=(0, 2**63 - 1),
        )
        if min(self.splits) < 0 or min(self.splits[:2]) == 0:
            raise UsageError(f"splits are {self.splits}; train and dev need a part each, and none is negative.")


Decoder = Literal["soft-attention", "hard-attention", "rnetvi", "rnetvh", "rnetvhc", "rnetvhcattention"]
"""How the photo enters the LSTM.

- `rnetvi`: its projection is the first input (Vinyals et al., 2015).
- `rnetvh`: it is the initial hidden state; the cell begins at zero.
- `rnetvhc`: it is the initial hidden and cell state.
- `soft-attention`, which CaRNet calls `rnetvhcattention`: as rnetvhc, and every step looks at all regions, weighted (Xu
  et al., 2015, section 4.2).
- `hard-attention`: every step looks at one region (section 4.1).
"""


_PROJECTION = 512


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the network."""

    encoder: str = "efficientnet_lite2"
    """Name of the CNN: efficientnet_lite2, any of torchvision's, or timm/NAME."""
    encoder_weights: str = "default"
    """`default` (those pretrained on ImageNet), `none`, or a file."""
    regions: int = 0
    """Regions a side that the encoder's grid is pooled to; 0: its own grid, 1: one vector a photo."""
    fine_tune: int = -1
    """The CNN's children from this one on are trained too (5 is a ResNet's second stage); -1: none. What
    those before it give is cached, where that is no more than the photo."""
    decoder: Decoder = "soft-attention"
    """How the photo enters the LSTM: see `Decoder`."""
    gate: bool = True
    """Attention's beta gate (Xu et al., 2015, section 4.2.1)."""
    initial_state: Literal["learned", "projection"] = "learned"
    """A layer each for hidden and cell, or the projection of the mean region itself (CaRNet), as long as `units`."""
    projection: int = 0
    """Length of a region after projection; 0 is 512, or with rnetvi the length of a word vector."""
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
        if self.projection == 0:
            object.__setattr__(self, "projection", self.embedding if self.decoder == "rnetvi" else _PROJECTION)
        sizes = dict.fromkeys(("projection", "embedding", "units", "attention"), (1, 2**16))
        shares = dict.fromkeys(("dropout", "word_dropout"), (0, 1))
        check_ranges(self, **sizes, **shares, layers=(1, 100), regions=(0, 256), fine_tune=(-1, 1000))
        if self.decoder == "rnetvhcattention":
            object.__setattr__(self, "decoder", "soft-attention")
        if self.decoder == "rnetvi" and self.projection != self.embedding:
            raise UsageError(
                f"With rnetvi the photo is read like a word: model.projection ({self.projection}) and model.embedding "
                f"({self.embedding}) must be equal; leave out model.projection."
            )
        if self.decoder != "rnetvi" and self.initial_state == "projection" and self.projection != self.units:
            raise UsageError(
                f"With initial_state=projection the projection is the LSTM's state: projection ({self.projection}) "
                f"and units ({self.units}) must be equal."
            )

    @property
    def attends(self) -> bool:
        """Whether the decoder looks at regions."""
        return self.decoder in ("soft-attention", "hard-attention")


Stage = Literal["cross-entropy", "self-critical"]
"""What a training learns from.

- `cross-entropy`: people's captions, word by word.
- `self-critical`: the model's own captions, by what they are worth beside people's (Rennie et al., 2017).
"""


@dataclass(frozen=True)
class TrainConfig:
    """How the network is trained."""

    stage: Stage = "cross-entropy"
    """What is learnt from: see `Stage`."""
    epochs: int = 8
    """Passes over the training photos."""
    batch_size: int = 16
    """Photos a step, of all processes together; each comes with all its captions."""
    accumulate: int = 1
    """Parts that a step's photos are computed in, one after another: less memory, the same gradient."""
    optimizer: Literal["adamw", "adam"] = "adamw"
    """AdamW (Loshchilov and Hutter, 2019), or Adam, whose weight decay is in the gradient."""
    lr: float = 1e-3
    """Highest learning rate."""
    encoder_lr: float = 1e-4
    """Highest learning rate of a fine-tuned encoder."""
    schedule: Literal["one-cycle", "cosine", "linear", "plateau", "constant"] = "one-cycle"
    """How the rate goes after the warm-up: one-cycle (Smith and Topin, 2017) falls to nothing, cosine and linear to
    `last_rate`, plateau where `plateau_on` gets no better."""
    last_rate: float = 0.0
    """Share of the highest rate that cosine and linear fall to."""
    warm_up: float = 0.1
    """Share of the steps in which the rate rises."""
    plateau_on: Literal["dev_loss", "cider", "bleu_4"] = "cider"
    """What `plateau` watches."""
    plateau_patience: int = 1
    """Epochs without a better value that `plateau` bears."""
    plateau_factor: float = 0.5
    """What `plateau` multiplies the rate by."""
    weight_decay: float = 1e-2
    """The optimiser's."""
    clip_norm: float = 5.0
    """Largest norm of a step's gradient; 0: any."""
    clip_value: float = 0.0
    """Largest absolute value in a step's gradient; 0: any."""
    label_smoothing: float = 0.1
    """Share of the probability spread over the whole vocabulary (Szegedy et al., 2016)."""
    attention_penalty: float = 1.0
    """Weight of the doubly stochastic regularisation (Xu et al., 2015, equation 14)."""
    attention_entropy: float = 0.01
    """Weight of the entropy of hard attention's choice (lambda_e in section 4.1)."""
    attention_reward: float = 1.0
    """Weight of hard attention's REINFORCE term (lambda_r in section 4.1)."""
    scheduled_sampling: float = 0.0
    """Share of words read that are the model's own in the last epoch, rising from none (Bengio et al., 2015)."""
    average: float = 0.999
    """Decay of the moving average of the weights, which is what is validated and kept; 0 for none."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Mixed precision: bf16 on GPUs and on processors that multiply it natively (AVX512-BF16, AMX), fp16 on GPUs."""
    select_by: str = "cider"
    """The dev score that makes an epoch the best: the highest `cider` or `bleu_4`, or the lowest `dev_loss`. With
    several datasets it is over all dev photos together, or over those of one: `cider@NAME`."""
    balance: float = 0.5
    """Makes up for photos with few captions in cross-entropy: 0 gives every caption the same weight, 1 every photo. One
    caption is a noisier target than the mean of five, so the middle is the default."""
    early_stop: int = 0
    """Epochs without a better score after which training stops; 0: never."""
    keep_epochs: bool = False
    """Keep a checkpoint of every epoch."""
    save_minutes: float = 10.0
    """Minutes between checkpoints within an epoch."""
    seed: int = 0
    """Of initialisation, dropout, augmentation and the order of photos."""

    def __post_init__(self) -> None:
        shares = dict.fromkeys(
            ("warm_up", "last_rate", "label_smoothing", "average", "plateau_factor", "scheduled_sampling", "balance"),
            (0, 1),
        )
        weights = dict.fromkeys(
            ("weight_decay", "attention_penalty", "attention_entropy", "attention_reward"), (0, 1000)
        )
        counts = dict.fromkeys(("epochs", "batch_size", "accumulate"), (1, 10**9))
        none_or_more = dict.fromkeys(
            ("early_stop", "plateau_patience", "clip_norm", "clip_value", "save_minutes"), (0, 1e9)
        )
        rates = dict.fromkeys(("lr", "encoder_lr"), (1e-9, 10))
        check_ranges(self, **shares, **weights, **counts, **none_or_more, **rates, seed=(0, 2**63 - 1))
        if self.stage == "self-critical" and (idle := [name for name in _OF_CROSS_ENTROPY if getattr(self, name)]):
            raise UsageError(
                f"{', '.join(f'train.{name}' for name in idle)} is of cross-entropy; in the self-critical stage it "
                "must be 0, as it is if left out."
            )
        score, at, dataset = self.select_by.partition("@")
        if score not in ("cider", "bleu_4", "dev_loss") or bool(at) != bool(dataset):
            raise UsageError(
                f"train.select_by is {self.select_by!r}; it must be cider, bleu_4 or dev_loss, or of one dataset as in "
                "cider@NAME."
            )
        if score == "dev_loss" and dataset:
            raise UsageError("train.select_by=dev_loss is over all datasets; leave out the dataset, or choose cider.")
        if self.accumulate > self.batch_size:
            raise UsageError(f"accumulate is {self.accumulate}; a step has {self.batch_size} photos to divide.")


_OF_CROSS_ENTROPY = (
    "label_smoothing",
    "attention_penalty",
    "attention_entropy",
    "attention_reward",
    "scheduled_sampling",
)
"""Settings that the self-critical stage does not look at."""

SELF_CRITICAL = TrainConfig(
    stage="self-critical",
    epochs=8,
    lr=2e-4,
    encoder_lr=1e-5,
    schedule="cosine",
    last_rate=0.1,
    warm_up=0.05,
    weight_decay=0.0,
    clip_norm=1.0,
    **dict.fromkeys(_OF_CROSS_ENTROPY, 0.0),  # type: ignore[arg-type]
)
"""The defaults of that stage."""


@dataclass(frozen=True)
class Config:
    """Everything about a training that is worth keeping in its checkpoint."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    search: SearchOptions = field(default_factory=SearchOptions)
    """How validation writes its captions; an exported bundle takes these as its defaults."""
    self_critical: SelfCriticalConfig = field(default_factory=SelfCriticalConfig)

    def __post_init__(self) -> None:
        if self.train.stage != SELF_CRITICAL.stage and self.self_critical != SelfCriticalConfig():
            raise UsageError(
                "self_critical is set, and train.stage is not self-critical; set it, or leave the rest out."
            )


def load_config(file: Path | None, settings: Sequence[str] = (), base: Config | None = None) -> Config:
    """Defaults (or `base`), then the TOML file, then `section.key=value` settings, each over the one before.

    The self-critical stage has defaults of its own, `SELF_CRITICAL`; a `base` is taken as it is.

    Raises:
        CaptionerError: no such file, not TOML, an unknown key, or a value of the wrong type.
    """
    data = _read(file, settings)
    if base is None:
        base = Config(train=_stage_defaults(data))
    return _over(base, data, file)


def load_second_config(file: Path | None, settings: Sequence[str], first: Config) -> Config:
    """The configuration of a training that goes on from a model: as `load_config`, but for what the model is.

    Args:
        file, settings: as for `load_config`.
        first: the configuration that the model was trained with, which decides what photos and words are to it.

    Raises:
        CaptionerError: as there; or a setting contradicts the model.
    """
    data = _read(file, settings)
    config = _over(Config(first.data, first.model, _stage_defaults(data), search=first.search), data, file)
    contradicting = [
        f"{section}.{key} ({value!r}, and {mine!r} in the checkpoint)"
        for section in ("data", "model")
        for key, value in vars(getattr(config, section)).items()
        if value != (mine := getattr(getattr(first, section), key)) and f"{section}.{key}" not in _FREE
    ]
    if contradicting:
        raise CaptionerError(
            f"A training that begins with --init keeps what its model is; leave out {', '.join(contradicting)}, or "
            "train without --init."
        )
    return config


_FREE = {
    *("data.views", "data.augment", "data.sided_words", "data.max_length"),
    *("model.dropout", "model.word_dropout", "model.fine_tune"),
}
"""Settings of data and model that a model does not depend on once it is trained."""


def _stage_defaults(data: Mapping[str, Any]) -> TrainConfig:
    train = data.get("train")
    asked = isinstance(train, dict) and train.get("stage") == SELF_CRITICAL.stage
    return SELF_CRITICAL if asked else TrainConfig()


def _read(file: Path | None, settings: Sequence[str]) -> dict[str, Any]:
    """What a file and settings say, the settings over the file."""
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
    return data


def _over(base: Config, data: Mapping[str, Any], file: Path | None) -> Config:
    below = asdict(base)
    merged = below | {
        key: {**below[key], **table} if key in below and isinstance(table, dict) else table
        for key, table in data.items()
    }
    model, given = merged.get("model"), data.get("model", {})
    if isinstance(model, dict) and model.get("decoder") != base.model.decoder and "projection" not in given:
        model["projection"] = 0  # its default depends on the decoder
    return config_from_dict(merged, str(file) if file else "the options given")


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
