"""Which numbers a setting may be."""

from __future__ import annotations

from caprun.errors import UsageError


def check_ranges(config: object, **ranges: tuple[float, float]) -> None:
    """Refuse an attribute that is not within (lowest, highest), given by its name.

    Raises:
        UsageError: names the first that is not.
    """
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if not low <= value <= high:
            raise UsageError(f"{name} is {value}; it must lie between {low} and {high}.")
