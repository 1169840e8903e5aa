"""A CSV table of a training that grows row by row and survives a kill: a resumed training has each row once."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from caprun.atomic_write import flush
from captioner.output_files import refusals, write_whole

Row = tuple[float | None, ...]
"""One value per column; None is an empty cell."""


class Table:
    """Holds numbers in columns; the first columns are integers that number the rows in ascending order.

    Args:
        path: the CSV file.
        columns: the titles of the columns.
        numbering: how many columns number the rows.
    """

    def __init__(self, path: Path, columns: Sequence[str], numbering: int) -> None:
        self.path, self.columns = path, tuple(columns)
        self._numbering = numbering
        self._file: IO[str] | None = None

    def open(self, last: tuple[int, ...] | None) -> list[Row]:
        """Opens the file for new rows.

        Args:
            last: the number of the last row to keep; later rows are removed. None removes all rows.

        Returns:
            The rows kept.

        Raises:
            CaptionerError: the file cannot be read or written.
        """
        self.close()
        rows = [] if last is None else list(self.read(last))
        text = "".join(f"{line}\n" for line in [",".join(self.columns), *map(self._line, rows)])
        # the file is replaced, not truncated: a kill during truncation could leave half a line
        write_whole("The table", self.path, text)
        with refusals("The table", self.path):
            self._file = self.path.open("a", encoding="utf-8", buffering=1)
        return rows

    def read(self, last: tuple[int, ...] | None = None) -> Iterator[Row]:
        """Yields the rows up to number `last` (None for all) that are complete and in order; none without a file."""
        if not self.path.exists():
            return
        with refusals("The table", self.path):
            text = self.path.read_bytes().decode(errors="replace")
        # a kill may leave an incomplete line at the end
        header, *rows = csv.reader(text[: text.rfind("\n") + 1].splitlines() or [""])
        if tuple(header) != self.columns:
            return
        number: tuple[float, ...] = ()
        for cells in rows:
            try:
                row = tuple(float(cell) if cell else None for cell in cells)
            except ValueError:
                return
            before, number = number, tuple(value for value in row[: self._numbering] if value is not None)
            whole = len(row) == len(self.columns) and len(number) == self._numbering
            if not whole or number <= before or (last is not None and number > last):
                return
            yield row

    def add(self, row: Row) -> Row:
        """Writes a row.

        Returns:
            The row as `read` returns it, with six significant digits, so that a resumed training continues with the
            same numbers.

        Raises:
            CaptionerError: the file cannot be written.
        """
        assert self._file is not None, "open the table first"
        with refusals("The table", self.path):
            self._file.write(self._line(row) + "\n")
        return tuple(None if value is None else float(f"{value:.6g}") for value in row)

    def flush(self) -> None:
        """Syncs all rows to the disk."""
        if self._file is not None:
            with refusals("The table", self.path):
                self._file.flush()
                flush(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        file, self._file = self._file, None
        if file is not None:
            with refusals("The table", self.path):
                file.close()

    def _line(self, row: Row) -> str:
        numbers = (str(int(value)) for value in row[: self._numbering] if value is not None)
        return ",".join([*numbers, *("" if value is None else f"{value:.6g}" for value in row[self._numbering :])])
