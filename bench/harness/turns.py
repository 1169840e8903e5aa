"""Timing in turns, and the statistics that the benchmarks print.

Sides that take turns share the slow moments of a machine, so ratios of the same turn depend little on its load.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def seconds(work: Callable[[], object]) -> float:
    """Returns the wall time of a call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_turns(sides: Mapping[str, Callable[[Item], Result]], items: Iterable[Item]) -> dict[str, list[Result]]:
    """Runs every side on every item and returns each side's results in the order of the items.

    All sides run on an item before any runs on the next. Every second item reverses their order, so that no side always
    comes first.
    """
    results: dict[str, list[Result]] = {name: [] for name in sides}
    for turn, item in enumerate(items):
        for name in reversed(sides) if turn % 2 else sides:
            results[name].append(sides[name](item))
    return results


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Divides the results of two sides, turn by turn."""
    return [a / b for a, b in zip(numerators, denominators, strict=True)]


def with_quartiles(values: Iterable[float], digits: int = 2) -> str:
    """Formats the median of two or more values, with the first and third quartile in brackets."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
