"""A CSV table that grows row by row during training; after a kill and a resume it has each row once."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from caprun.atomic_write import flush
from captioner.output_files import refusals, write_whole

Row = tuple[float | None, ...]
"""One value per column; None is an empty cell."""


class Table:
    """Holds numbers in columns; the first columns are integers that number the rows in ascending order.

    Every method raises a CaptionerError if the file cannot be read or written.

    Args:
        path: the CSV file.
        columns: the titles of the columns.
        numbering: how many of the first columns number the rows.
    """

    def __init__(self, path: Path, columns: Sequence[str], numbering: int) -> None:
        self.path, self.columns = path, tuple(columns)
        self.rows: list[Row] = []
        self._numbering = numbering
        self._file: IO[str] | None = None

    def open(self, last: tuple[int, ...] | None) -> None:
        """Opens the file for new rows.

        Args:
            last: the number of the last row to keep; later rows are removed. None removes all rows.
        """
        self.close()
        self.rows = []
        if last is not None:
            self.read(last)
        # the file is replaced, not truncated: a kill during truncation could leave half a line
        lines = [",".join(self.columns), *map(self._line, self.rows)]
        write_whole("The table", self.path, "".join(f"{line}\n" for line in lines))
        with refusals("The table", self.path):
            self._file = self.path.open("a", encoding="utf-8", buffering=1)

    def read(self, last: tuple[int, ...] | None = None) -> None:
        """Reads the rows up to number `last` (None: all) that are complete and in order; a missing file has no rows."""
        self.rows = []
        if not self.path.exists():
            return
        with refusals("The table", self.path):
            text = self.path.read_bytes().decode(errors="replace")
        # a kill can leave an incomplete line at the end
        header, *lines = csv.reader(text[: text.rfind("\n") + 1].splitlines() or [""])
        if tuple(header) != self.columns:
            return
        number: tuple[float, ...] = ()
        for cells in lines:
            try:
                row = tuple(float(cell) if cell else None for cell in cells)
            except ValueError:
                return
            before, number = number, tuple(value for value in row[: self._numbering] if value is not None)
            is_complete = len(row) == len(self.columns) and len(number) == self._numbering
            if not is_complete or number <= before or (last is not None and number > last):
                return
            self.rows.append(row)

    def add(self, row: Row) -> Row:
        """Writes a row.

        Returns:
            The row as `read` reads it, with six significant digits, so that a resumed run continues with the same
            values.
        """
        assert self._file is not None, "open the table first"
        with refusals("The table", self.path):
            self._file.write(self._line(row) + "\n")
        self.rows.append(tuple(None if value is None else float(f"{value:.6g}") for value in row))
        return self.rows[-1]

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
