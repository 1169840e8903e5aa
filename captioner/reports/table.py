"""A CSV file that grows a row at a time and survives a kill: a resumed training has each row in it once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from caprun.atomic_write import flush
from captioner.output_files import refusals, write_whole

Row = tuple[float | None, ...]
"""A value a column; None is an empty cell."""


class Table:
    """Numbers in columns, of which the first few are whole numbers that number the rows, ascending.

    Args:
        path: of the file.
        columns: their titles.
        numbering: how many columns number the rows.
    """

    def __init__(self, path: Path, columns: Sequence[str], numbering: int) -> None:
        self.path, self.columns = path, tuple(columns)
        self._numbering = numbering
        self._file: IO[str] | None = None

    def open(self, last: tuple[int, ...] | None) -> list[Row]:
        """Cut the file off after the row of that number, or empty it where that is None; then rows can be added.

        Returns:
            the rows that stay.

        Raises:
            CaptionerError: it cannot be read or written.
        """
        self.close()
        rows = [] if last is None else list(self.read(last))
        text = "".join(f"{line}\n" for line in [",".join(self.columns), *map(self._line, rows)])
        # lines that are to go are not cut off in place: killed in the middle of that, a line would be half
        write_whole("The table", self.path, text)
        with refusals("The table", self.path):
            self._file = self.path.open("a", encoding="utf-8", buffering=1)
        return rows

    def read(self, last: tuple[int, ...] | None = None) -> Iterator[Row]:
        """The rows up to that number (or all), as far as they are whole and in order; none where there is no file."""
        if not self.path.exists():
            return
        with refusals("The table", self.path):
            content = self.path.read_bytes()
        # what is behind the last line's end was torn off by a kill
        header, *lines = content.split(b"\n")[:-1] or [b""]
        if header != ",".join(self.columns).encode():
            return
        number: tuple[float, ...] = ()
        for line in lines:
            row = self._parse(line)
            if row is None:
                return
            before, number = number, tuple(value for value in row[: self._numbering] if value is not None)
            if len(number) < self._numbering or number <= before or (last is not None and number > last):
                return
            yield row

    def add(self, row: Row) -> Row:
        """Write a row.

        Returns:
            the row as a reader finds it: with six digits, so that a resumed training goes on with the same numbers.

        Raises:
            CaptionerError: it cannot be written.
        """
        assert self._file is not None, "the table is open"
        with refusals("The table", self.path):
            self._file.write(self._line(row) + "\n")
        return tuple(None if value is None else float(f"{value:.6g}") for value in row)

    def flush(self) -> None:
        """Have the rows on the disk before this returns."""
        if self._file is not None:
            with refusals("The table", self.path):
                self._file.flush()
                flush(self._file.fileno())

    def close(self) -> None:
        """No more rows."""
        file, self._file = self._file, None
        if file is not None:
            with refusals("The table", self.path):
                file.close()

    def _line(self, row: Row) -> str:
        numbers = (str(int(value)) for value in row[: self._numbering] if value is not None)
        return ",".join([*numbers, *("" if value is None else f"{value:.6g}" for value in row[self._numbering :])])

    def _parse(self, line: bytes) -> Row | None:
        cells = line.split(b",")
        if len(cells) != len(self.columns):
            return None
        try:
            return tuple(float(cell) if cell else None for cell in cells)
        except ValueError:
            return None
