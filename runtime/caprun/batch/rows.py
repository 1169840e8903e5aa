"""The formats of a results file, JSON Lines and CSV: how rows are written and read back.

A file name can contain any bytes. In JSON, bytes that are not UTF-8 are escaped surrogates (`\\udcff`), which
`os.fsencode` converts back. In CSV they are unchanged, so readers open the file with `errors="surrogateescape"`.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple


class RowFormat(NamedTuple):
    """A format of a results file."""

    header: bytes
    """The first line of the file, or nothing."""
    row: Callable[[Mapping[str, Any]], bytes]
    """Writes a photo's row, which has `image` and the keys of `caprun.caption.as_row`."""
    entries: Callable[[BinaryIO], Iterator[tuple[int, Mapping[str, Any]]]]
    """Reads rows from the file's position: the size of each in bytes, and its content, which is empty if it is not a
    row of the format. An incomplete row at the end of the file is left out."""


def _json_row(entry: Mapping[str, Any]) -> bytes:
    return (json.dumps(entry, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _json_entries(file: BinaryIO) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line in file:
        if line.endswith(b"\n"):
            try:
                entry = json.loads(line)
            except ValueError:
                entry = None
            yield len(line), entry if isinstance(entry, dict) else {}


_COLUMNS = ("image", "caption", "log_prob", "error", "confidence", "abstained", "finished")


def _csv_row(entry: Mapping[str, Any]) -> bytes:
    return b",".join(_csv_field(entry.get(column, "")) for column in _COLUMNS) + b"\n"


def _csv_field(value: object) -> bytes:
    text = str(value).lower() if isinstance(value, bool) else str(value)  # as JSON spells it
    if any(mark in text for mark in ',"\r\n'):  # the csv module of Python 3.11 would not quote a carriage return
        text = '"' + text.replace('"', '""') + '"'
    return text.encode("utf-8", "surrogateescape")


def _csv_entries(file: BinaryIO) -> Iterator[tuple[int, Mapping[str, Any]]]:
    row = b""
    for line in file:
        row += line
        if row.endswith(b"\n") and row.count(b'"') % 2 == 0:  # a line can end within quotes
            try:
                (fields,) = csv.reader([row.decode("utf-8", "surrogateescape")])
            except (csv.Error, ValueError):
                fields = []
            yield len(row), {column: field for column, field in zip(_COLUMNS, fields, strict=False) if field}
            row = b""


FORMATS: Mapping[str, RowFormat] = {
    ".jsonl": RowFormat(b"", _json_row, _json_entries),
    ".csv": RowFormat(",".join(_COLUMNS).encode() + b"\n", _csv_row, _csv_entries),
}
"""The format of a results file, by extension."""


def captions_of(entry: Mapping[str, Any]) -> list[str]:
    """Returns the captions of a row, best first."""
    return [entry["caption"], *(other["caption"] for other in entry.get("alternatives", ()))]
