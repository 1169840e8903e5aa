"""Training configuration: frozen dataclasses, read from TOML and from `--set section.key=value`."""

from captioner.config.data import AUTO, DataConfig
from captioner.config.export import ExportSettings
from captioner.config.loading import (
    FEW,
    FEW_PHOTOS,
    changed_settings,
    load_config,
    load_second_config,
    merged,
    parse_settings,
    read_toml,
    used_settings,
)
from captioner.config.model import DECODERS, ModelConfig, decoder_names
from captioner.config.self_critical import SelfCriticalConfig
from captioner.config.train import SELF_CRITICAL, Stage, TrainConfig
from captioner.config.training import Config, config_from_dict

__all__ = [
    "AUTO",
    "DECODERS",
    "FEW",
    "FEW_PHOTOS",
    "SELF_CRITICAL",
    "Config",
    "DataConfig",
    "ExportSettings",
    "ModelConfig",
    "SelfCriticalConfig",
    "Stage",
    "TrainConfig",
    "changed_settings",
    "config_from_dict",
    "decoder_names",
    "load_config",
    "load_second_config",
    "merged",
    "parse_settings",
    "read_toml",
    "used_settings",
]
