"""A photo's row in a file of results: as JSON Lines or as CSV, and how to tell whose row it is.

A file's name may be any bytes. In JSON, those that are no UTF-8 are escapes of surrogates (`\\udcff`), which
`os.fsencode` turns back; in CSV, they stand as they are, so that a file is read with `errors="surrogateescape"`.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, Protocol


class RowFormat(Protocol):
    """How results are written, a row a photo."""

    header: bytes
    """What the file begins with."""

    def row(self, entry: Mapping[str, Any]) -> bytes:
        """A row, its line's end included, of `image` and `caption` and `log_prob`, or `abstained`, or `error`."""
        ...

    def beginning(self, image: str) -> bytes:
        """How the row of that photo begins, and no other's."""
        ...

    def failed(self, rest: bytes) -> bool:
        """Whether a row that goes on so after its beginning is an error's."""
        ...

    def abstained(self, rest: bytes) -> bool:
        """Whether a row that goes on so after its beginning is of a photo from which the model abstained."""
        ...

    def split(self, file: BinaryIO) -> Iterator[bytes]:
        """The rows from where the file stands, with the line's end; one that was cut off is left out."""
        ...


class JsonLines:
    """One JSON object a line: all that is known of a photo."""

    header = b""

    def row(self, entry: Mapping[str, Any]) -> bytes:
        """See `RowFormat`."""
        return (json.dumps(entry, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")

    def beginning(self, image: str) -> bytes:
        """See `RowFormat`."""
        return self.row({"image": image})[: -len("}\n")] + b", "

    def failed(self, rest: bytes) -> bool:
        """See `RowFormat`."""
        return rest.startswith(b'"error": ')

    def abstained(self, rest: bytes) -> bool:
        """See `RowFormat`."""
        return rest.startswith(b'"abstained": ')

    def split(self, file: BinaryIO) -> Iterator[bytes]:
        """See `RowFormat`."""
        return (line for line in file if line.endswith(b"\n"))


class Csv:
    """image, caption, log_prob and the rest of `header`, quoted as RFC 4180 says; lines end in a line feed."""

    _columns = ("image", "caption", "log_prob", "error", "confidence", "abstained", "finished")
    header = ",".join(_columns).encode() + b"\n"

    def row(self, entry: Mapping[str, Any]) -> bytes:
        """See `RowFormat`."""
        return b",".join(_field(entry.get(column, "")) for column in self._columns) + b"\n"

    def beginning(self, image: str) -> bytes:
        """See `RowFormat`."""
        return _field(image) + b","

    def failed(self, rest: bytes) -> bool:
        """See `RowFormat`."""
        return rest.startswith(b",,") and not self.abstained(rest)  # a caption may be empty, its log-probability not

    def abstained(self, rest: bytes) -> bool:
        """See `RowFormat`."""
        return rest.startswith(b",,,")  # nor is an error

    def split(self, file: BinaryIO) -> Iterator[bytes]:
        """See `RowFormat`."""
        row = b""
        for line in file:
            row += line
            if row.endswith(b"\n") and row.count(b'"') % 2 == 0:  # no line's end within quotes
                yield row
                row = b""


FORMATS: Mapping[str, RowFormat] = {".jsonl": JsonLines(), ".csv": Csv()}
"""By the ending of the file's name."""


def captions_of(entry: Mapping[str, Any]) -> list[str]:
    """A row's captions, the best first."""
    return [entry["caption"], *(other["caption"] for other in entry.get("alternatives", ()))]


def _field(value: object) -> bytes:
    text = str(value).lower() if isinstance(value, bool) else str(value)  # as JSON spells it
    if any(mark in text for mark in ',"\r\n'):
        text = '"' + text.replace('"', '""') + '"'
    return text.encode("utf-8", "surrogateescape")
