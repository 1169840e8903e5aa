"""TensorBoard's event files, in step with the tables."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

from captioner.output_files import refusals

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event

_SECONDS = 30  # how long events are held back, at most
_VERSION = "brain.Event:2"  # of the format, as TensorBoard knows it


class Events:
    """The event files of one training.

    TensorBoard's own writer has a thread for it, which ends with a traceback where the disk is full.

    Args:
        directory: for these files alone.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file: IO[bytes] | None = None
        self._flushed = 0.0

    def open(self) -> None:
        """Remove what is there, and begin anew: an event file cannot be cut, and two tell a resumed step twice.

        Raises:
            CaptionerError: it cannot be written; the same holds for the others.
        """
        from tensorboard.compat.proto.event_pb2 import Event

        self.close()
        with refusals("The folder", self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
            for file in self._directory.glob("events.out.tfevents.*"):
                file.unlink()
            name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}.0"
            self._file = (self._directory / name).open("wb")
        self._write(Event(wall_time=time.time(), file_version=_VERSION))
        self.flush()

    def add(self, values: Mapping[str, float | None], step: int) -> None:
        """Numbers by their tags, at a step; None is left out."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        numbers = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items() if value is not None]
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=numbers)))
        if time.monotonic() - self._flushed > _SECONDS:
            self.flush()

    def flush(self) -> None:
        """Have everything in the file before this returns."""
        self._flushed = time.monotonic()
        if self._file is not None:
            with refusals("TensorBoard's file in", self._directory):
                self._file.flush()

    def close(self) -> None:
        """No more events."""
        file, self._file = self._file, None
        if file is not None:
            with refusals("TensorBoard's file in", self._directory):
                file.close()

    def _write(self, event: Event) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        assert self._file is not None, "the events are open"
        with refusals("TensorBoard's file in", self._directory):
            RecordWriter(self._file).write(event.SerializeToString())
