"""The captions in a row of a table or an object of JSON: by the names of columns, and as lists in one value."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from captioner.datasets.example import caption_in, such_as

CAPTION_COLUMNS = (
    "text",
    "texts",
    "caption",
    "captions",
    "sentence",
    "sentences",
    "sentences_raw",
    "description",
    "alt_text",
    "comment",
    "prompt",
    "txt",
)
"""Names of columns with a caption or a list of captions; the first that a row has is taken."""
NUMBERED_COLUMN = re.compile(r"(?:text|caption)_?(\d+)")
"""Names of columns with a caption each."""


class References:
    """Takes the captions from rows, and notes from which of their columns.

    Args:
        others: Columns that are used for something else.
    """

    def __init__(self, *others: str) -> None:
        self._others = others
        self._taken: dict[str, None] = {}
        self._seen: dict[str, None] = {}

    def of(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Returns the captions of a row."""
        columns, captions = captions_in(row)
        self._seen |= dict.fromkeys(row)
        self._taken |= dict.fromkeys(columns)
        return captions

    def __str__(self) -> str:
        """Describes the columns in a phrase."""
        unused = [column for column in self._seen if column and column not in (*self._taken, *self._others)]
        taken = f"captions from {such_as(list(self._taken)) or 'none'}"
        return f"{taken}; not used: {such_as(unused)}" if unused else taken


def captions_in(row: Mapping[str, Any]) -> tuple[list[str], tuple[str, ...]]:
    """Returns the first column of a row that has captions, or the numbered ones, and the captions."""
    numbered = sorted((int(match[1]), key) for key in row if (match := NUMBERED_COLUMN.fullmatch(key)))
    for columns in (*([column] for column in CAPTION_COLUMNS), [key for _, key in numbered]):
        values = [value for column in columns for value in _listed(row.get(column))]
        captions = tuple(caption for value in values if (caption := caption_in(value)) is not None)
        if captions:
            return columns, captions
    return [], ()


def _listed(value: Any) -> list[Any]:
    """Returns the captions of a value: a single caption or a list, which may be written as JSON or in Python.

    A caption may be an object with its text, and a list of objects may be an object of lists.
    """
    if isinstance(value, Mapping):
        return _listed(next((value[key] for key in ("raw", *CAPTION_COLUMNS) if key in value), None))
    if isinstance(value, list):
        return [text for one in value for text in (_listed(one) if isinstance(one, Mapping) else [one])]
    text = value.strip() if isinstance(value, str) else ""
    if text.startswith("[") and text.endswith("]"):
        for parse in (json.loads, ast.literal_eval):
            try:
                found = parse(text)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            if isinstance(found, list) and found and all(isinstance(one, str) for one in found):
                return found
    return [value]
