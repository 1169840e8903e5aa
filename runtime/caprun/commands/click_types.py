"""Kinds of values on the command line that click has not."""

import math
from typing import Any

import click


class Number(click.FloatRange):
    """A number in a range, which NaN is not; the help calls it by its name."""

    def __init__(self, name: str, low: float, high: float) -> None:
        super().__init__(low, high)
        self.name = name

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        """See `click.ParamType.convert`."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if math.isnan(number):
            self.fail(f"{value!r} is no number.", parameter, context)
        within: float = super().convert(value, parameter, context)
        return within
