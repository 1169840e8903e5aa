"""Writes the files of a run while it trains.

train_results.csv                           a row per step: loss and accuracy, or reward and form of sampled captions
validation_results.csv                      a row per epoch
tensorboard/                                the same values
config.toml, model.txt                      configuration and model size
curves.png                                  after every epoch
caption.png, attention.png                  a validation photo, after the newest epoch
pictures/epoch-001-caption.png, ...         the same, after every epoch
report.html                                 at the end
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from PIL import Image
from torch import nn

from caprun.drawing.pictures import attention_picture, caption_picture
from caprun.engine import Captioner
from caprun.errors import ImageError, UsageError
from caprun.photos.preprocessing import seen_box
from caprun.photos.reading import open_photo
from captioner.config import Config, Stage
from captioner.datasets import Example
from captioner.evaluation.metrics import TEACHER_FORCED_TITLES, TITLES
from captioner.output_files import refusals, write_whole
from captioner.reports.curves import curves_png
from captioner.reports.events import Events
from captioner.reports.page import Content, write_report
from captioner.reports.summary import config_toml, model_summary
from captioner.reports.table import Table

REPORT = "report.html"
_STEP_COLUMNS: dict[Stage, tuple[str, ...]] = {
    "cross-entropy": ("Loss", "Accuracy"),
    "self-critical": ("Reward", "Words", "Bad endings"),
}
_SCORES = TEACHER_FORCED_TITLES | TITLES
_VALIDATION_COLUMNS = ("Epoch", *_SCORES.values())
_PICTURES = "pictures"


class History:
    """The values of a training run so far, in the tables of its folder.

    Args:
        directory: the folder of the run.
        stage: determines the columns of the step table.
    """

    def __init__(self, directory: Path, stage: Stage) -> None:
        self.titles = _STEP_COLUMNS[stage]
        self.steps = Table(directory / "train_results.csv", ("Epoch", "Batch", *self.titles), numbering=2)
        self.epochs = Table(directory / "validation_results.csv", _VALIDATION_COLUMNS, numbering=1)

    @classmethod
    def read(cls, directory: Path) -> History:
        """Reads the tables in the folder of a run; missing tables have no rows.

        Raises:
            CaptionerError: a file cannot be read.
        """
        histories = [cls(directory, stage) for stage in _STEP_COLUMNS]
        for history in histories:
            history.steps.read()
            history.epochs.read()
        # a table of another stage has another header, so it yields no rows
        return max(histories, key=lambda history: len(history.steps.rows))

    def by_title(self) -> list[dict[str, float | None]]:
        """Returns the row of each epoch by column title."""
        return [dict(zip(_VALIDATION_COLUMNS, row, strict=True)) for row in self.epochs.rows]

    def curves(self) -> bytes | None:
        """Draws the curves as a PNG; None if no epoch is complete."""
        numbers = [[value or 0.0 for value in row] for row in self.steps.rows]
        batches = max((batch for _, batch, *_ in numbers), default=1.0)
        places = [(epoch - 1 + batch / batches, *values) for epoch, batch, *values in numbers]
        return curves_png(places, self.by_title(), self.titles)


class RunReports:
    """Writes the reports of one training run; call `open` first and `close` at the end.

    Every method raises a CaptionerError if a file cannot be written.

    Args:
        directory: the folder of the run.
        config: the configuration of the training.
        examples: the validation photos.
        say: prints a warning, once, if pictures cannot be drawn.
    """

    def __init__(
        self, directory: Path, config: Config, examples: Sequence[Example], say: Callable[[str], None]
    ) -> None:
        self._directory, self._config, self._examples, self._say = directory, config, examples, say
        self._history = History(directory, config.train.stage)
        self._events = Events(directory / "tensorboard")
        self._draws = True

    def open(self, resume_at: tuple[int, int] | None, model: nn.Module) -> None:
        """Writes configuration and model summary, and opens the tables for the next step.

        Args:
            resume_at: numbers of complete epochs and of complete steps in the next epoch; later rows are removed,
                because they will be computed again. None starts a new run.
            model: the model to summarise.
        """
        directory = self._directory
        write_whole("The configuration", directory / "config.toml", config_toml(self._config))
        write_whole("The model summary", directory / "model.txt", model_summary(model))
        epochs, batches = resume_at or (0, 0)
        self._history.steps.open(None if resume_at is None else (epochs + 1, batches))
        self._history.epochs.open(None if resume_at is None else (epochs,))
        self._remove_pictures_after(epochs)
        self._events.open()
        for number, row in enumerate(self._history.steps.rows, 1):
            self._events.add("train", self._history.titles, row[2:], number)
        for row in self._history.epochs.rows:
            self._events.add("validation", _VALIDATION_COLUMNS[1:], row[1:], int(row[0] or 0))

    def step(self, epoch: int, batch: int, *values: float) -> None:
        """Records a training step.

        Args:
            epoch, batch: the number of the epoch and of the step within it, both from 1.
            values: with cross-entropy, the loss (nats per piece, not smoothed) and the accuracy (in 0..1); in the
                self-critical stage, the samples' mean reward, mean number of words and share of bad endings.
        """
        row = self._history.steps.add((float(epoch), float(batch), *values))
        self._events.add("train", self._history.titles, row[2:], len(self._history.steps.rows))

    def epoch(self, row: Mapping[str, float], captioner: Captioner) -> None:
        """Records an epoch, draws curves and pictures, and syncs the tables to the disk.

        Args:
            row: `epoch` (from 1), and scores by their keys in `TEACHER_FORCED_TITLES` and `TITLES`; other keys are
                ignored.
            captioner: the current model, in eval mode.
        """
        number = int(row["epoch"])
        values = self._history.epochs.add((float(number), *(row.get(key) for key in _SCORES)))
        self._events.add("validation", _VALIDATION_COLUMNS[1:], values[1:], number)
        if (curves := self._history.curves()) is not None:
            write_whole("The picture", self._directory / "curves.png", curves)
        self._draw(number, captioner)
        self.flush()

    def finish(self, captioner: Captioner, captions: Sequence[str], metrics: Mapping[str, object]) -> Path:
        """Writes `report.html` and returns its path.

        Args:
            captioner: the best model of the training.
            captions: its caption of each validation photo.
            metrics: split, numbers of photos and references, and its scores by key.
        """
        content = Content(
            f"Training {self._directory.resolve().name}",
            metrics,
            captioner,
            captioner.spec.search,
            self._examples,
            captions,
            self._history.by_title(),
            self._history.curves(),
            config_toml(self._config),
        )
        write_report(self._directory / REPORT, content)
        return self._directory / REPORT

    def flush(self) -> None:
        """Syncs the tables to the disk; call it before writing a checkpoint."""
        self._history.steps.flush()
        self._history.epochs.flush()

    def close(self) -> None:
        """Closes all files. Idempotent."""
        with ExitStack() as stack:
            for part in (self._history.steps, self._history.epochs, self._events):
                stack.callback(part.close)

    def _draw(self, epoch: int, captioner: Captioner) -> None:
        """Draws the first validation photo with its caption and its attention."""
        if not self._draws or not self._examples:
            return
        try:
            photo = open_photo(self._examples[0].image, at_least=captioner.spec.image.at_least)
            attends = captioner.spec.attention_grid is not None
            caption = captioner.caption(photo, alpha=attends)
            pictures = {"caption": caption_picture(photo, caption.text)}
            if attends:
                seen = [(word.text, word.alpha) for word in caption.words if word.alpha is not None]
                box = seen_box(photo.size, captioner.spec.image)
                pictures["attention"] = attention_picture(photo, seen, region_box=box)
        except (ImageError, UsageError) as error:  # the photo is missing, or no font has the glyphs
            self._draws = False
            self._say(f"warning: validation photos are not drawn: {error}")
            return
        for name, picture in pictures.items():
            content = _png(picture)
            write_whole("The picture", self._directory / _PICTURES / f"epoch-{epoch:03d}-{name}.png", content)
            write_whole("The picture", self._directory / f"{name}.png", content)

    def _remove_pictures_after(self, epochs: int) -> None:
        with refusals("The folder", self._directory / _PICTURES):
            for picture in (self._directory / _PICTURES).glob("epoch-*.png"):
                number = picture.name.split("-")[1]
                if number.isdecimal() and int(number) > epochs:
                    picture.unlink()


def _png(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, format="PNG")
    return content.getvalue()
