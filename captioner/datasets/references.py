"""The captions in a row of a table or an object of JSON: by the names of columns, and as lists in one value."""

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

from captioner.datasets.example import caption_in, such_as
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
"""Names of columns with a caption or a list of captions; a number may follow. The first that a row has is taken."""
_COLUMN = re.compile(rf"({'|'.join(CAPTION_COLUMNS)})[_#-]*(\d*)")
# how a list of texts or objects begins, also as an array of NumPy or a tuple; or brackets around all
_LIST = re.compile(r"""\s*([\[{]+\s*(u?['"]|[\]}])|(array\(\[|\(\s*u?['"]).*\)\s*$|\[[^\[\]]*\]\s*$)""", re.DOTALL)


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


def is_caption_column(column: str) -> bool:
    """Tells whether a column, named in lower case, has captions."""
    return _COLUMN.fullmatch(column) is not None


def captions_in(row: Mapping[str, Any]) -> tuple[list[str], tuple[str, ...]]:
    """Returns the first column of a row that has captions, or those of one name and a number, and the captions.

    A row has none if a list or a part of one cannot be read.
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
    """Returns the captions of a value: a single caption or a list, which may be written as JSON or in Python.

    A caption may be an object with its text, and a list of objects may be an object of lists.

    Raises:
        ValueError: the value looks like a list and cannot be read.
        LookupError: an object has two values of a key.
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
    """Reads a list or a tuple in Python, also an array as NumPy writes it, with or without commas between its strings.

    Raises:
        ValueError, SyntaxError, TokenError: the text is something else.
    """
    tokens = [token for token in generate_tokens(io.StringIO(text).readline) if token.string.strip()]
    touching = any(one.end == other.start for one, other in pairwise(t for t in tokens if t.type == STRING))
    others = "".join(token.string for token in tokens if token.type != STRING)
    if touching:  # an apostrophe that is written twice
        raise ValueError("strings without a space between them")
    if "{" in others:
        return ast.literal_eval(text)
    if not re.fullmatch(r"([\[\](),]|None|nan|array|np\.str_|dtype=object)*", others):
        raise ValueError("more than strings")
    return [ast.literal_eval(token.string) for token in tokens if token.type == STRING]
