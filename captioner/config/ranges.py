"""Ranges of settings: declared in a field's type, checked by its dataclass, and shown by its command-line option."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple, get_type_hints

from caprun.errors import UsageError


class Range(NamedTuple):
    """The lowest and highest allowed value of a setting, both included."""

    low: float
    high: float

    @property
    def shown_high(self) -> float | None:
        """The highest value to show to users; None if it only keeps numbers representable."""
        return self.high if self.high < 10**6 else None

    @property
    def shown(self) -> str:
        """The range as text, such as `0 to 1`."""
        return f"{self.low:g} or more" if self.shown_high is None else f"{self.low:g} to {self.shown_high:g}"


Count = Annotated[int, Range(1, 10**9)]
Size = Annotated[int, Range(1, 2**16)]
"""Length of a vector."""
Seed = Annotated[int, Range(0, 2**63 - 1)]
Share = Annotated[float, Range(0, 1)]
Weight = Annotated[float, Range(0, 1000)]
"""Weight of a term in a sum."""
Rate = Annotated[float, Range(1e-9, 10)]
"""Learning rate."""
Limit = Annotated[float, Range(0, 10**9)]
"""Upper limit; 0 means no limit."""


def field_types(config: type[Any]) -> dict[str, tuple[Any, Range | None]]:
    """Returns the type of each field of a dataclass, without its annotation, and its range or None."""
    plain, annotated = get_type_hints(config), get_type_hints(config, include_extras=True)
    return {
        name: (plain[name], next((one for one in getattr(hint, "__metadata__", ()) if isinstance(one, Range)), None))
        for name, hint in annotated.items()
    }


def check_ranges(config: object) -> None:
    """Checks every field of a dataclass that declares a range.

    Raises:
        UsageError: a value is out of range; the message names the first such field.
    """
    kind: Any = type(config)
    for name, (_, allowed) in field_types(kind).items():
        value = getattr(config, name)
        if allowed and not allowed.low <= value <= allowed.high:
            raise UsageError(f"{name} is {value}; it must be between {allowed.low} and {allowed.high}.")
