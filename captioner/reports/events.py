"""Writes the values of the tables to TensorBoard event files."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from captioner.output_files import refusals

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event

_VERSION = "brain.Event:2"  # the version of the file format


class Events:
    """Writes the event files of one training run.

    `torch.utils.tensorboard.SummaryWriter` writes in a thread that prints a traceback when the disk is full; this class
    writes the same records directly.

    Args:
        directory: the folder of the event files.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file: IO[bytes] | None = None

    def open(self) -> None:
        """Removes existing event files and starts a new one, because two files would show a resumed step twice.

        Raises:
            CaptionerError: the file cannot be written; `add` and `close` raise it too.
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

    def add(self, group: str, titles: Sequence[str], values: Sequence[float | None], step: int) -> None:
        """Writes the values of a step under tags such as `train/Loss`, except None."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        numbers = [
            Summary.Value(tag=f"{group}/{title}", simple_value=value)
            for title, value in zip(titles, values, strict=True)
            if value is not None
        ]
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=numbers)))

    def close(self) -> None:
        """Closes the file. Idempotent."""
        file, self._file = self._file, None
        if file is not None:
            with refusals("TensorBoard's file in", self._directory):
                file.close()

    def _write(self, event: Event) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        assert self._file is not None, "open the events first"
        with refusals("TensorBoard's file in", self._directory):
            RecordWriter(self._file).write(event.SerializeToString())
            self._file.flush()
