"""Reads settings from TOML files and the command line, and merges them with the defaults or a trained model's."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from captioner.config.data import DataConfig
from captioner.config.model import ModelConfig
from captioner.config.train import OF_CROSS_ENTROPY, SELF_CRITICAL, TrainConfig
from captioner.config.training import Config, config_from_dict
from captioner.errors import CaptionerError

Settings = Mapping[str, Any]
"""Settings by section, `{"train": {"lr": 0.001}}`; not yet checked."""

GIVEN = "the options given"

FEW_PHOTOS = 1000
FEW: Settings = {
    "data": {"views": 4},
    "model": {"fine_tune": -1, "word_dropout": 0.1},
    "train": {"epochs": 4, "rehearse": True, "select_by": "epoch"},
}
"""Defaults for training from a trained model (--init) on a dataset with fewer than `FEW_PHOTOS` training photos."""


def load_config(settings: Settings | None = None, *, base: Config | None = None, source: str = GIVEN) -> Config:
    """Returns a configuration in which settings replace the defaults.

    Args:
        settings: settings by section.
        base: configuration to use instead of the defaults, which are `SELF_CRITICAL` for the self-critical stage.
        source: origin of the settings, named in errors.

    Raises:
        CaptionerError: a key is unknown, or a value has a wrong type or is out of range.
    """
    settings = settings or {}
    return _over(base or Config(train=_stage_defaults(settings)), settings, source)


def load_second_config(
    settings: Settings,
    first: Config,
    *,
    new_vocabulary: bool = False,
    few: bool = False,
    source: str = GIVEN,
) -> Config:
    """Returns a configuration in which settings replace those of a trained model to start from.

    Args:
        settings: settings by section.
        first: the configuration that the model was trained with; `data`, `model` and `search` are taken from it.
        new_vocabulary: whether to keep only the settings of the encoder and its input from `first`.
        few: whether a dataset has few photos; the defaults are then `FEW`.
        source: origin of the settings, named in errors.

    Raises:
        CaptionerError: as for `load_config`, or a setting contradicts the trained model.
    """
    train = _stage_defaults(settings)
    if new_vocabulary and train.stage == SELF_CRITICAL.stage:
        raise CaptionerError(
            f"In the configuration ({source}): the self-critical stage needs a trained decoder; leave out the new "
            "vocabulary, or train with cross-entropy first."
        )
    base = Config(first.data, first.model, train, search=first.search)
    if new_vocabulary:
        seen = first.data
        data = DataConfig(image_size=seen.image_size, fit=seen.fit, resample=seen.resample)
        model = ModelConfig(first.model.encoder, first.model.encoder_weights, normalise=first.model.normalise)
        base = Config(data, model, train)
    elif few and train.stage != SELF_CRITICAL.stage:
        base = _over(base, FEW, source)
    config = _over(base, settings, source)
    contradicting = [
        f"{name} ({now!r}, but {before!r} in the checkpoint)"
        for name, (before, now) in changed_settings(first, config).items()
        if name.startswith(("data.", "model.")) and (name in _ENCODER if new_vocabulary else name not in _FREE)
    ]
    if contradicting:
        raise CaptionerError(
            f"In the configuration ({source}): a trained model (--init) keeps its settings; leave out "
            f"{', '.join(contradicting)}, or train a new model."
        )
    return config


_ENCODER = {
    *("data.image_size", "data.fit", "data.resample"),
    *("model.encoder", "model.encoder_weights", "model.normalise"),
}
"""Data and model settings that an encoder keeps with a new vocabulary."""

_FREE = {
    *("data.language", "data.views", "data.augment", "data.sided_words", "data.max_length"),
    *("data.min_count", "data.vocabulary_size"),
    *("model.dropout", "model.word_dropout", "model.fine_tune"),
}
"""Data and model settings that can differ from those of the trained model."""


def changed_settings(before: Config, now: Config) -> dict[str, tuple[Any, Any]]:
    """Returns the old and the new value of each changed setting, by a name such as `train.lr`."""
    return {
        f"{section}.{key}": (old, value)
        for section, settings in vars(now).items()
        for key, value in vars(settings).items()
        if value != (old := getattr(getattr(before, section), key))
    }


def read_toml(file: Path, what: str = "configuration") -> dict[str, Any]:
    """Reads a TOML file.

    Args:
        file: path of the file.
        what: noun for the file's content, used in errors.

    Raises:
        CaptionerError: the file cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CaptionerError(f"The {what} {file} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CaptionerError(f"The {what} {file} is not TOML: {error}.") from None


def parse_settings(assignments: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Parses `section.key=value` assignments; a later one replaces an earlier one.

    A value is TOML, such as `0.001`, `true` or `["a", "the"]`; anything else is a string without quotes.

    Raises:
        CaptionerError: an assignment does not have that form.
    """
    settings: dict[str, dict[str, Any]] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        section, _, key = name.strip().partition(".")
        if not (equals and section and key):
            raise CaptionerError(f"--set {assignment!r} is not of the form section.key=value, such as train.lr=0.001.")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        settings.setdefault(section, {})[key] = value
    return settings


def merged(*layers: Settings) -> dict[str, Any]:
    """Merges settings section by section; later layers take precedence."""
    result: dict[str, Any] = {}
    for layer in layers:
        for section, values in layer.items():
            below = result.get(section, {})
            if isinstance(below, Mapping):  # other values are invalid, and kept so that they are reported later
                result[section] = {**below, **values} if isinstance(values, Mapping) else values
    return result


def used_settings(settings: Settings, stage: str) -> dict[str, Any]:
    """Returns the settings without those that only the other training objective uses; `stage` is a `Stage`."""
    if stage != SELF_CRITICAL.stage:
        return {section: values for section, values in settings.items() if section != "self_critical"}
    train = {key: value for key, value in settings.get("train", {}).items() if key not in OF_CROSS_ENTROPY}
    return {**settings, "train": train}


def _stage_defaults(settings: Settings) -> TrainConfig:
    train = settings.get("train")
    return SELF_CRITICAL if isinstance(train, Mapping) and train.get("stage") == SELF_CRITICAL.stage else TrainConfig()


def _over(base: Config, settings: Settings, source: str) -> Config:
    result = merged(asdict(base), settings)
    model, given = result["model"], settings.get("model", {})
    if isinstance(model, dict) and model.get("decoder") != base.model.decoder and "projection" not in given:
        model["projection"] = 0  # its default depends on the decoder
    return config_from_dict(result, source)
