"""Columns of tables with photos in their cells."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import Any

from captioner.datasets.references import CAPTION_COLUMNS, is_caption_column
from captioner.datasets.table import NAME_COLUMNS
from captioner.errors import CaptionerError

_PHOTO = re.compile(r"image|img|photo|picture|jpe?g|png|webp")


def library(module: str, dataset: str) -> Any:
    """Imports a module that the extra `hub` installs.

    Raises:
        CaptionerError: it is not installed; the message names the dataset that needs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise CaptionerError(
            f'{dataset} needs the package {package}, which is not installed; run `pip install "captioner[hub]"`.'
        ) from error


def photo_column(schema: Any, dataset: str, *, paths: bool) -> str:
    """Returns the name of the column with the photos.

    Args:
        schema: a pyarrow schema. Photo cells are bytes, or `{bytes, path}` as in Hugging Face's datasets.
        dataset: name of the table, for errors.
        paths: whether a column of photo paths is accepted.

    Raises:
        CaptionerError: there is no photo column or no caption column, or two caption columns differ only in case.
    """
    captions = [name for name in schema.names if is_caption_column(name.lower())]
    if len({name.lower() for name in captions}) < len(captions):
        raise CaptionerError(
            f"{dataset} has caption columns whose names differ only in case: {', '.join(captions)}; rename one."
        )
    types = library("pyarrow.types", dataset)
    ranks: dict[str, tuple[bool, int]] = {}  # the lowest is the most likely
    for name, kind in zip(schema.names, schema.types, strict=True):
        lower = name.lower()
        fields = [kind.field(i).name for i in range(kind.num_fields)] if types.is_struct(kind) else []
        if types.is_binary(kind) or types.is_large_binary(kind) or "bytes" in fields:
            ranks[name] = (lower != "image", 0 if _PHOTO.search(lower) else 2)
        elif paths and lower in NAME_COLUMNS and (types.is_string(kind) or types.is_large_string(kind)):
            ranks[name] = (lower != "image", 1)
    if ranks and captions:
        return min(ranks, key=lambda name: ranks[name])
    known = f"captions ({', '.join(CAPTION_COLUMNS[:4])} ...)" if ranks else "photos (bytes, or {bytes, path})"
    raise CaptionerError(f"{dataset} has no column for {known}; its columns are {', '.join(schema.names) or 'none'}.")


def photo_in(cell: Any) -> tuple[bytes | None, str]:
    """Returns the encoded photo in a cell or None, and the path that comes with it or replaces it, possibly empty."""
    if isinstance(cell, Mapping):
        return cell.get("bytes") or None, cell.get("path") or ""
    return (None, cell) if isinstance(cell, str) else (cell or None, "")
