"""Writes the generated parts of the reference pages: command lines, configuration and bundle manifest.

    python scripts/reference.py build/reference

The pages in docs/reference/ include these files. Each is generated from the code that it describes: options from click,
settings and manifest fields from dataclasses and the docstrings below their fields.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
import textwrap
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import click

import caprun.cli
import captioner.cli
from caprun.bundle.manifest import Manifest
from caprun.search.options import SEARCH_OPTIONS, SearchOptions
from captioner.config import FEW, FEW_PHOTOS, SELF_CRITICAL, Config
from captioner.config.ranges import field_types

Row = tuple[str, ...]


def command_line(name: str, group: click.Group) -> str:
    """Describes every command of a program, as `--help` does."""
    parts = [f"{_paragraphs(group.help or '')}\n"]
    with click.Context(group, info_name=name) as parent:
        for command in (group.commands[key] for key in group.list_commands(parent)):
            with click.Context(command, info_name=command.name, parent=parent) as context:
                parts.append(_command(command, context))
    return "\n".join(parts)


def _command(command: click.Command, context: click.Context) -> str:
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    options = [option for option in command.params if isinstance(option, click.Option)]
    records = [record for option in options if (record := option.get_help_record(context))]
    rows = [(f"`{names}`", *_meaning(text)) for names, text in records]
    return "\n".join(
        [
            f"## {context.command_path}\n",
            f"```text\n{usage}\n```\n",
            f"{_paragraphs(command.help or '')}\n",
            _table(("option", "meaning", "default and range"), rows),
        ]
    )


def _meaning(text: str) -> tuple[str, str]:
    """Separates the help of an option from the brackets at its end."""
    limits: list[str] = []
    while found := re.fullmatch(r"(.*?)\s*\[([^\[\]]*)\]", text, re.DOTALL):
        text = found[1]
        limits.insert(0, found[2])
    return _cell(text), _cell("; ".join(limits))


def configuration() -> str:
    """Describes every training setting, with a table for each section."""
    parts = []
    for section, kind in _sections(Config):
        rows = _search_options() if kind is SearchOptions else _fields(kind, f"{section}.")
        parts.append(f"## {section}\n\n{_summary(kind)}\n\n{_table(('setting', 'values', 'default', 'meaning'), rows)}")
        if isinstance(SELF_CRITICAL, kind):
            parts.append(f"The self-critical stage has other defaults:\n\n{_other_defaults(section, SELF_CRITICAL)}")
            few = f"Training from a trained model on fewer than {FEW_PHOTOS:,} training photos also has other defaults:"
            defaults = [
                (f"`{part}.{name}`", f"`{_toml(value)}`")
                for part, values in FEW.items()
                for name, value in values.items()
            ]
            parts.append(f"{few}\n\n{_table(('setting', 'default'), defaults)}")
    return "\n".join(parts)


def _other_defaults(section: str, config: Any) -> str:
    """Returns a table of the fields in which a configuration differs from the defaults."""
    usual = type(config)()
    rows = [
        (f"`{section}.{field.name}`", f"`{_toml(value)}`")
        for field in dataclasses.fields(config)
        if (value := getattr(config, field.name)) != getattr(usual, field.name) and field.name != "stage"
    ]
    return _table(("setting", "default"), rows)


def _search_options() -> list[Row]:
    """Returns a row for each search option, with its range, from the table of search options."""
    names = {"integer": "integer", "number": "number", "words": "list of text", "flag": "true or false"}
    rows = list[Row]()
    for name, option in SEARCH_OPTIONS.items():
        values = names[option.kind]
        if option.kind in ("integer", "number"):
            values += f", {option.low:g} to {option.high:g}"
        rows.append((f"`search.{name}`", values, f"`{_toml(option.default)}`", _cell(option.help)))
    return rows


def _sections(config: type[Any]) -> Iterator[tuple[str, type[Any]]]:
    for name, hint in get_type_hints(config).items():
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield name, hint


def manifest() -> str:
    """Describes every field of `model.json` except the search options, which the configuration describes."""
    return _table(("field", "values", "default", "meaning"), _fields(Manifest, "", {SearchOptions: ""}))


def _fields(kind: type[Any], prefix: str, described: dict[type[Any], str] | None = None) -> list[Row]:
    """Returns a row for each field of a dataclass, and for those of the dataclasses in it.

    Args:
        kind: the dataclass.
        prefix: path of its fields.
        described: paths of the dataclasses that have rows already; empty for those described elsewhere.
    """
    described = {} if described is None else described
    documented, hints, rows = _docstrings(kind), field_types(kind), list[Row]()
    for field in dataclasses.fields(kind):
        (hint, allowed), name = hints[field.name], f"{prefix}{field.name}"
        limits = f", {allowed.shown}" if allowed else ""
        meaning = _cell(documented.get(field.name, ""))
        inner = list(_nested(hint))
        if same := next((described[one] for one, _ in inner if described.get(one)), None):
            meaning = f"{meaning} Same fields as `{same}`.".strip()
        rows.append((f"`{name}`", f"{_values(hint)}{limits}", _default(field), meaning))
        for one, suffix in inner:
            if one not in described:
                described[one] = f"{name}{suffix}"
                rows += _fields(one, f"{name}{suffix}.", described)
    return rows


def _nested(hint: Any) -> Iterator[tuple[type[Any], str]]:
    """Yields the dataclasses in a type, each with the mark of its container."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        yield hint, ""
        return
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple:
        marks = [(argument, "[]") for argument in arguments]
    elif inspect.isclass(origin) and issubclass(origin, Mapping):
        marks = [(arguments[1], ".NAME")]
    else:
        marks = [(argument, "") for argument in arguments]
    for argument, mark in marks:
        for inner, suffix in _nested(argument):
            yield inner, mark + suffix


def _docstrings(kind: type[Any]) -> dict[str, str]:
    """Returns the texts below the fields of a class and of the classes that it extends."""
    found: dict[str, str] = {}
    for base in reversed([base for base in kind.__mro__ if dataclasses.is_dataclass(base)]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, below in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
                found[field.target.id] = inspect.cleandoc(ast.literal_eval(below.value))
    return found


def _values(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join("none" if part is type(None) else _values(part) for part in arguments)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"list of {_values(arguments[0])}"
        return f"list of {len(arguments)} {_values(arguments[0])}"
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return "table"
    if dataclasses.is_dataclass(hint):
        return "table"
    return _NAMES.get(hint, "any")


_NAMES = {str: "text", int: "integer", float: "number", bool: "true or false"}


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "" if field.default_factory is dataclasses.MISSING or dataclasses.is_dataclass(field.type) else "empty"
    return "none" if field.default is None else f"`{_toml(field.default)}`"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value[:_SHOWN]))}{', ...' if len(value) > _SHOWN else ''}]"
    return f'"{value}"' if isinstance(value, str) else f"{value}"


_SHOWN = 4  # items of a list


def _summary(kind: type[Any]) -> str:
    return inspect.cleandoc(kind.__doc__ or "").partition("\n\nRaises:")[0]


def _paragraphs(text: str) -> str:
    """Returns a help text as Markdown, with placeholders such as <folder> kept as text."""
    return inspect.cleandoc(text).replace("\b", "").replace("<", "&lt;")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _table(head: Row, rows: Sequence[Row]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main(folder: Path) -> None:
    """Writes all files to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        "caprun": command_line("caprun", caprun.cli.main),
        "captioner": command_line("captioner", captioner.cli.main),
        "configuration": configuration(),
        "manifest": manifest(),
    }
    for name, text in parts.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
