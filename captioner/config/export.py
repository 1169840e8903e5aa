"""The `[export]` table of a recipe; its fields are also options of `captioner export`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from captioner.config.data import check_language
from captioner.config.ranges import Count, check_ranges

Calibration = Literal["mse", "minmax"]
"""Methods that find the ranges of int8 activations; see `capexport.quantization.ranges.find_ranges`."""


@dataclass(frozen=True)
class ExportSettings:
    """Settings of an export."""

    precisions: tuple[Literal["fp32", "int8", "fp16"], ...] = ("fp32",)
    """Precisions of the graphs; fp32 is always written."""
    calibration: Calibration = "mse"
    """Method that finds the ranges of int8 activations on training photos."""
    name: str = ""
    """Name of the model; empty: the name of the bundle's folder."""
    licence: str = "unknown"
    """Licence of the weights."""
    language: str = ""
    """Language of the captions as a BCP 47 code; empty: the training's `data.language`."""
    card: str = ""
    """File with introductory text for the model card, relative to the recipe; empty: none."""
    data_photos: Count = 200
    """Number of dev photos on which the graphs are compared with PyTorch."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_language(self.language)
