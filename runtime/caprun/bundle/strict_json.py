"""JSON that every reader understands the same: UTF-8, no key twice, no number that is none, and not too deep."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

_DEEPEST = 32
"""Lists and tables within each other; what walks through them later must not run out of stack."""
_LONGEST = 1000  # digits of a whole number: to read and write one takes time that grows with their square
_OTHERWISE = "a number is not written as captioner writes it"


def parse(content: bytes) -> Any:
    """What it says.

    Raises:
        ValueError: it is not JSON, or not such; in a few words.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    try:
        data = json.loads(text, **_HOOKS)
    except (json.JSONDecodeError, RecursionError):
        raise ValueError("it is not JSON") from None
    _refuse_deep(data)
    return data


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a key is there twice")
    return table


def _whole_number(digits: str) -> int:
    if len(digits) > _LONGEST:
        raise ValueError("a number is too large")
    if digits == "-0":
        raise ValueError(_OTHERWISE)
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    if repr(value) != digits:  # 1E-5 is 1e-05: altered bytes would say the same
        raise ValueError(_OTHERWISE)
    return value


def _no_number(_name: str) -> NoReturn:
    raise ValueError("a number is none")


_HOOKS: Mapping[str, Any] = {
    "object_pairs_hook": _table,
    "parse_int": _whole_number,
    "parse_float": _number,
    "parse_constant": _no_number,
}


def _refuse_deep(data: Any) -> None:
    level = [data]
    for _ in range(_DEEPEST):
        level = [inner for outer in level for inner in _within(outer) if isinstance(inner, dict | list)]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def _within(data: Any) -> Iterable[Any]:
    if isinstance(data, dict):
        return data.values()
    return data if isinstance(data, list) else ()
