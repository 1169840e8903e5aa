"""Writes the JSON Schema of a bundle's manifest, generated from its dataclasses and the docstrings of their fields.

python scripts/bundle_schema.py
"""

import ast
import dataclasses
import inspect
import itertools
import json
import textwrap
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import caprun.bundle
from caprun.bundle.manifest import FORMAT_VERSION, Manifest

SCHEMA = Path(caprun.bundle.__file__).with_name("model.schema.json")
_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def schema() -> dict[str, Any]:
    """Describes `model.json` as JSON Schema, draft 2020-12."""
    definitions: dict[str, Any] = {}
    top = _object(Manifest, definitions)
    digest = {"type": "string", "description": "SHA-256 of the canonical JSON of this object without `digest`."}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Manifest of a caprun bundle, format version {FORMAT_VERSION}",
        **top,
        "properties": top["properties"] | {"digest": digest},
        "required": [*top["required"], "format_version", "digest"],
        "$defs": dict(sorted(definitions.items())),
    }


def _object(cls: type[Any], definitions: dict[str, Any]) -> dict[str, Any]:
    hints, described = get_type_hints(cls), _docstrings(cls)
    fields = dataclasses.fields(cls)
    missing = dataclasses.MISSING
    return {
        "type": "object",
        "properties": {
            field.name: _value(hints[field.name], definitions) | described.get(field.name, {}) for field in fields
        },
        "required": [one.name for one in fields if one.default is missing and one.default_factory is missing],
        "additionalProperties": False,
    }


def _value(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return {}
    if dataclasses.is_dataclass(hint):
        name = hint.__name__
        if name not in definitions:
            definitions[name] = {}  # a class may contain itself
            definitions[name] = {"description": _sentence(hint.__doc__ or "")} | _object(hint, definitions)
        return {"$ref": f"#/$defs/{name}"}
    if origin is Literal:
        return {"const": arguments[0]} if len(arguments) == 1 else {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_value(argument, definitions) for argument in arguments]}
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return {"type": "array", "items": _value(arguments[0], definitions)}
        items = [_value(argument, definitions) for argument in arguments]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
    if origin is not None:  # a mapping from text
        return {"type": "object", "additionalProperties": _value(arguments[1], definitions)}
    return {"type": _TYPES[hint]}


def _docstrings(cls: type[Any]) -> dict[str, dict[str, str]]:
    """Finds the docstring below each field of a dataclass and of the dataclasses it extends."""
    found: dict[str, dict[str, str]] = {}
    for each in reversed(cls.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(each))).body[0].body  # type: ignore[attr-defined]
        for field, below in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
                found[field.target.id] = {"description": _sentence(ast.literal_eval(below.value))}
    return found


def _sentence(docstring: str) -> str:
    return " ".join(docstring.split("\n\n")[0].split())


def text() -> str:
    """Returns the content of `model.schema.json`."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(text(), encoding="utf-8", newline="\n")
