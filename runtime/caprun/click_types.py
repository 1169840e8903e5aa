"""Kinds of values on the command line that click has not."""

from typing import Any

import click


class Number(click.FloatRange):
    """A number in a range, which NaN is not; the help calls it by its name."""

    def __init__(self, name: str, low: float, high: float) -> None:
        super().__init__(low, high)
        self.name = name

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        """See `click.ParamType.convert`."""
        number: float = super().convert(value, parameter, context)
        if number != number:
            self.fail(f"{value} is no number.", parameter, context)
        return number
