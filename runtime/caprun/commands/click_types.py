"""Parameter types that click does not have."""

import math
from typing import Any

import click


class Integer(click.IntRange):
    """A whole number in a range; `click.IntRange` calls it an "integer range" in help and messages."""

    name = "integer"


class Number(click.FloatRange):
    """A number in a range, shown as `name` in the help; unlike `click.FloatRange` it rejects NaN."""

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
            self.fail(f"{value!r} is not a number.", parameter, context)
        within: float = super().convert(value, parameter, context)
        return within
