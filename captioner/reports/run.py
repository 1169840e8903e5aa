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
from collections.abc import Callable, Iterable, Mapping, Sequence
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

REPORT = "report.html"
_STEP_COLUMNS: dict[Stage, tuple[str, ...]] = {
    "cross-entropy": ("Loss", "Accuracy"),
    "self-critical": ("Reward", "Words", "Bad endings"),
}
_SCORES = TEACHER_FORCED_TITLES | TITLES
_VALIDATION_COLUMNS = ("Epoch", *_SCORES.values())
_PICTURES = "pictures"


class RunReports:
    """Writes the reports of one training run; call `open` first and `close` at the end.

    Every method raises a CaptionerError if a file cannot be written. The files are outputs only: a resumed training
    reads its steps and epochs from `last.pt`.

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
        self._titles = _STEP_COLUMNS[config.train.stage]
        self._steps: list[tuple[float, ...]] = []
        self._lines = [",".join(("Epoch", "Batch", *self._titles))]  # formatted once, because steps can be a million
        self._epochs: list[dict[str, float | None]] = []
        self._events: Events | None = None
        self._draws = True

    def open(self, steps: Iterable[tuple[float, ...]], epochs: Sequence[Mapping[str, float]], model: nn.Module) -> None:
        """Writes configuration, model summary, tables and events.

        Args:
            steps, epochs: what a resumed training has done, as for `step` and `epoch`; all else is removed, because it
                will be computed again.
            model: the model to summarise.
        """
        directory = self._directory
        write_whole("The configuration", directory / "config.toml", config_toml(self._config))
        write_whole("The model summary", directory / "model.txt", model_summary(model))
        self._remove_pictures_after(len(epochs))
        self._events = Events(directory / "tensorboard")
        for step in steps:
            self.step(step)
        for epoch in epochs:
            self._note(epoch)
        self.write_tables()

    def step(self, row: tuple[float, ...]) -> None:
        """Records a training step.

        Args:
            row: the number of the epoch and of the step within it, both from 1; then, with cross-entropy, the loss
                (nats per piece, not smoothed) and the accuracy (in 0..1), or in the self-critical stage the samples'
                mean reward, mean number of words and share of bad endings.
        """
        assert self._events is not None, "open the reports first"
        epoch, batch, *values = row
        self._steps.append(row)
        self._lines.append(",".join([f"{epoch:.0f}", f"{batch:.0f}", *(f"{value:.6g}" for value in values)]))
        self._events.add("train", self._titles, values, len(self._steps))

    def epoch(self, row: Mapping[str, float], captioner: Captioner) -> None:
        """Records an epoch, and draws curves and pictures.

        Args:
            row: `epoch` (from 1), and scores by their keys in `TEACHER_FORCED_TITLES` and `TITLES`; other keys are
                ignored.
            captioner: the averaged model, in eval mode.
        """
        self._note(row)
        if (curves := self._curves()) is not None:
            write_whole("The picture", self._directory / "curves.png", curves)
        self._draw(int(row["epoch"]), captioner)

    def write_tables(self) -> None:
        """Writes the tables of all steps and epochs so far; training calls it with every checkpoint."""
        write_whole("The table", self._directory / "train_results.csv", "\n".join([*self._lines, ""]))
        cells = [["" if value is None else f"{value:.6g}" for value in row.values()] for row in self._epochs]
        lines = [",".join(row) for row in (_VALIDATION_COLUMNS, *cells)]
        write_whole("The table", self._directory / "validation_results.csv", "\n".join([*lines, ""]))

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
            self._epochs,
            self._curves(),
            config_toml(self._config),
        )
        write_report(self._directory / REPORT, content)
        return self._directory / REPORT

    def close(self) -> None:
        """Closes the events. Idempotent."""
        if self._events is not None:
            self._events.close()

    def _note(self, row: Mapping[str, float]) -> None:
        assert self._events is not None, "open the reports first"
        values = {title: row.get(key) for key, title in _SCORES.items()}
        self._epochs.append({"Epoch": row["epoch"], **values})
        self._events.add("validation", list(values), list(values.values()), int(row["epoch"]))

    def _curves(self) -> bytes | None:
        """Draws the curves as a PNG; None if no epoch is complete."""
        batches = max((batch for _, batch, *_ in self._steps), default=1.0)
        places = [(epoch - 1 + batch / batches, *values) for epoch, batch, *values in self._steps]
        return curves_png(places, self._epochs, self._titles)

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
