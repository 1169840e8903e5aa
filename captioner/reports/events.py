"""Writes the values of the tables to TensorBoard event files."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.output_files import refusals

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event

_VERSION = "brain.Event:2"  # the version of the file format


class Events:
    """Writes a new event file, and removes existing ones, because two files would show a resumed step twice.

    `torch.utils.tensorboard.SummaryWriter` writes in a thread that prints a traceback when the disk is full; this class
    writes the same records directly.

    Args:
        directory: the folder of the event file.

    Raises:
        CaptionerError: the file cannot be written; `add` and `close` raise it too.
    """

    def __init__(self, directory: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._directory = directory
        with refusals("The folder", directory):
            directory.mkdir(parents=True, exist_ok=True)
            for file in directory.glob("events.out.tfevents.*"):
                file.unlink()
            name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}.0"
            self._file = (directory / name).open("wb")
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
        with refusals("TensorBoard's file in", self._directory):
            self._file.close()

    def _write(self, event: Event) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        with refusals("TensorBoard's file in", self._directory):
            RecordWriter(self._file).write(event.SerializeToString())
            self._file.flush()
