"""The captions in a row of a table or an object of JSON: by the names of columns, and as lists in one value."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from captioner.datasets.example import caption_in

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


def references_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the captions of a row, from the first column that has any."""
    numbered = {int(match[1]): value for key, value in row.items() if (match := NUMBERED_COLUMN.fullmatch(key))}
    for value in (*(row.get(column) for column in CAPTION_COLUMNS), [numbered[key] for key in sorted(numbered)]):
        captions = [caption_in(one) for one in _listed(value)]
        references = tuple(caption for caption in captions if caption is not None)
        if references:
            return references
    return ()


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
