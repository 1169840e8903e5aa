"""TensorBoard's event files, in step with the tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.reports.files import refusals

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_QUEUE = 1000  # events held back, at most for as many seconds as `_SECONDS`
_SECONDS = 30


class Events:
    """The event files of one training.

    Args:
        directory: for these files alone.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writer: SummaryWriter | None = None

    def open(self) -> None:
        """Remove what is there, and begin anew: an event file cannot be cut, and two tell a resumed step twice."""
        from torch.utils.tensorboard import SummaryWriter

        self.close()
        with refusals("The folder", self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
            for file in self._directory.glob("events.out.tfevents.*"):
                file.unlink()
            self._writer = SummaryWriter(str(self._directory), max_queue=_QUEUE, flush_secs=_SECONDS)

    def add(self, values: Mapping[str, float | None], step: int) -> None:
        """Numbers by their tags, at a step; None is left out."""
        assert self._writer is not None, "the events are open"
        with refusals("TensorBoard's file in", self._directory):
            for tag, value in values.items():
                if value is not None:
                    self._writer.add_scalar(tag, value, step)

    def flush(self) -> None:
        """Have everything in the file before this returns."""
        if self._writer is not None:
            with refusals("TensorBoard's file in", self._directory):
                self._writer.flush()

    def close(self) -> None:
        """No more events."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with refusals("TensorBoard's file in", self._directory):
                writer.close()
