"""Converts plain data from JSON or TOML to frozen dataclasses, and checks its keys and types."""

import dataclasses
import functools
import math
import reprlib
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def from_dict(cls: type[T], data: object, where: str = "") -> T:
    """Builds the dataclass `cls` from a mapping.

    Fields may be dataclasses, str, int, float, bool, Literal, tuple, Mapping, `X | None`, or Any. An int is
    accepted for a float; nothing else is converted.

    Raises:
        ValueError: A key is unknown or missing, or a value has the wrong type; the message names its path, which starts
            with `where`.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{where or 'the top level'} must be a table of keys and values")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = _hints(cls)  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            raise ValueError(f"unknown key {_path(where, key)!r}; the known keys are {', '.join(fields)}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in data:
            raise ValueError(f"key {_path(where, name)!r} is missing")
    return cls(**{key: _value(hints[key], value, _path(where, key)) for key, value in data.items()})


_hints = functools.cache(get_type_hints)


def _value(hint: Any, value: object, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value, where)  # type: ignore[arg-type]
    if origin is Literal:
        # `in` would accept True for 1
        if any(type(value) is type(choice) and value == choice for choice in arguments):
            return value
        raise ValueError(f"{where} is {shown(value)}; it must be one of {', '.join(map(str, arguments))}")
    if origin in (Union, types.UnionType):
        return _union(arguments, value, where)
    if origin is tuple:
        return _tuple(arguments, value, where)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise ValueError(f"{where} must be a table of keys and values")
        return {key: _value(arguments[1], item, _path(where, key)) for key, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) <= sys.float_info.max else math.inf
    if type(value) is not hint or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"{where} is {shown(value)}; it must be {_names.get(hint, hint)}")
    return value


def _union(arguments: tuple[Any, ...], value: object, where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    problem = ""  # not the error, whose traceback would keep the locals of all callers alive
    for argument in arguments:
        if argument is not type(None):
            try:
                return _value(argument, value, where)
            except ValueError as error:
                problem = problem or str(error)
    raise ValueError(problem)


def _tuple(arguments: tuple[Any, ...], value: object, where: str) -> tuple[Any, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise ValueError(f"{where} must be a list")
    if arguments == (str, Ellipsis) and all(type(item) is str for item in value):
        return tuple(value)  # shortcut: a vocabulary has thousands
    if arguments == (float, Ellipsis) and all(type(item) is float and math.isfinite(item) for item in value):
        return tuple(value)  # shortcut: a confidence has thousands
    if arguments[-1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise ValueError(f"{where} must have {len(arguments)} values, not {len(value)}")
    return tuple(_value(a, item, f"{where}[{i}]") for i, (a, item) in enumerate(zip(arguments, value, strict=True)))


def _path(where: str, key: object) -> str:
    name = key if isinstance(key, str) and key.isprintable() and len(key) <= _short.maxstring else shown(key)
    return f"{where}.{name}" if where else str(name)


def shown(value: object) -> str:
    """Shortens a value of any size to a few words on one line, for a message."""
    return _short.repr(value)


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80


_names = {str: "text", int: "a whole number", float: "a finite number", bool: "true or false"}
