"""The complete configuration of a training run, as stored in its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from caprun.bundle.plain_data import from_dict
from caprun.errors import UsageError
from caprun.search.options import SearchOptions
from captioner.config.data import AUTO, DataConfig
from captioner.config.model import ModelConfig
from captioner.config.self_critical import SelfCriticalConfig
from captioner.config.train import SELF_CRITICAL, TrainConfig
from captioner.errors import CaptionerError


@dataclass(frozen=True)
class Config:
    """The complete configuration of a training run, as stored in its checkpoint."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    search: SearchOptions = field(default_factory=SearchOptions)
    """Search options for validation; they become the defaults of an exported bundle."""
    self_critical: SelfCriticalConfig = field(default_factory=SelfCriticalConfig)

    def __post_init__(self) -> None:
        if self.train.stage != SELF_CRITICAL.stage and self.self_critical != SelfCriticalConfig():
            raise UsageError(
                "self_critical has no effect unless train.stage is self-critical; set it, or leave out self_critical."
            )

    def with_tokenizer(self, chosen: str) -> Config:
        """Returns this configuration with the chosen tokenizer in place of `auto`."""
        return replace(self, data=replace(self.data, tokenizer=chosen)) if self.data.tokenizer == AUTO else self


def config_from_dict(data: Mapping[str, Any], source: str) -> Config:
    """Builds a configuration from nested mappings.

    Args:
        data: a mapping of settings for each section.
        source: origin of the settings, named in errors.

    Raises:
        CaptionerError: a key is unknown, or a value has a wrong type or is out of range.
    """
    try:
        return from_dict(Config, data)
    except (ValueError, UsageError) as error:
        raise CaptionerError(f"In the configuration ({source}): {str(error).rstrip('.')}.") from None
