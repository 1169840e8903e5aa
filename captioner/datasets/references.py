"""Finds the captions in a table row or JSON object by column name; a value can hold a list of captions."""

from __future__ import annotations

import ast
import io
import json
import re
from collections.abc import Mapping
from functools import partial
from itertools import groupby, pairwise
from operator import itemgetter
from tokenize import STRING, TokenError, generate_tokens
from typing import Any

from captioner.datasets.example import caption_in
from captioner.datasets.files import unique_keys

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
    "raw",
)
"""Names of columns with a caption or a list of captions; a number can follow. The first one in a row is used."""
_COLUMN = re.compile(rf"({'|'.join(CAPTION_COLUMNS)})[_#-]*(\d*)")
# the start of a list of strings or objects, a NumPy array or a tuple; or brackets around the whole value
_LIST = re.compile(r"""\s*([\[{]+\s*(u?['"]|[\]}])|(array\(\[|\(\s*u?['"]).*\)\s*$|\[[^\[\]]*\]\s*$)""", re.DOTALL)


def is_caption_column(column: str) -> bool:
    """Returns whether a column name, in lower case, is one for captions."""
    return _COLUMN.fullmatch(column) is not None


def captions_in(row: Mapping[str, Any]) -> tuple[list[str], tuple[str, ...]]:
    """Returns the first column of a row that has captions, or all numbered columns of one name, and the captions.

    Both are empty if a list or a part of one cannot be read.
    """
    named = [(CAPTION_COLUMNS.index(m[1]), int(m[2] or -1), m[0]) for m in map(_COLUMN.fullmatch, row) if m]
    for _, group in groupby(sorted(named), itemgetter(0)):
        columns = [column for *_, column in group]
        try:
            values = [value for column in columns for value in _listed(row[column])]
        except (ValueError, LookupError):
            break
        captions = tuple(caption for value in values if (caption := caption_in(value)) is not None)
        if captions and any(value == value and not isinstance(value, str | None) for value in values):
            break  # NaN stands for None
        if captions:
            return columns, captions
    return [], ()


def _listed(value: Any) -> list[Any]:
    """Returns the captions of a value: a single caption or a list, which can be written as JSON or in Python.

    A caption can be an object with its text, and a list of objects can be an object of lists.

    Raises:
        ValueError: the value looks like a list but cannot be read.
        LookupError: an object has two values for a key.
    """
    if isinstance(value, Mapping):
        key = next((key for key in ("raw", *CAPTION_COLUMNS) if key in value), None)
        return [value] if key is None else _listed(value[key])
    if isinstance(value, list):
        return [text for one in value for text in (_listed(one) if isinstance(one, Mapping | list) else [one])]
    if not isinstance(value, str) or not _LIST.match(value):
        return [value]
    for parse in (partial(json.loads, object_pairs_hook=unique_keys), _python_list):
        try:
            return _listed(parse(value.strip()))
        except (ValueError, SyntaxError, TokenError, RecursionError, MemoryError):
            continue
    raise ValueError("a list that cannot be read")


def _python_list(text: str) -> Any:
    """Reads a Python list or tuple, or a NumPy array as printed, with or without commas between its strings.

    Raises:
        ValueError, SyntaxError, TokenError: the text is something else.
    """
    tokens = [token for token in generate_tokens(io.StringIO(text).readline) if token.string.strip()]
    touching = any(one.end == other.start for one, other in pairwise(t for t in tokens if t.type == STRING))
    others = "".join(token.string for token in tokens if token.type != STRING)
    if touching:  # a doubled apostrophe
        raise ValueError("strings without a space between them")
    if "{" in others:
        return ast.literal_eval(text)
    if not re.fullmatch(r"([\[\](),]|None|nan|array|np\.str_|dtype=object)*", others):
        raise ValueError("more than strings")
    return [ast.literal_eval(token.string) for token in tokens if token.type == STRING]
