"""Scoring a model on a split: its captions against all references, and its guesses where it is taught, from photos."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from caprun.atomic_write import atomic_write
from caprun.caption import Caption
from caprun.engine import Captioner
from caprun.errors import ImageError
from caprun.inference.session import OnnxBackend
from caprun.photos.preprocessing import load
from caprun.search.options import SearchOptions
from captioner.backends.pytorch import ModelSteps, model_spec
from captioner.datasets import Example
from captioner.errors import CaptionerError
from captioner.evaluation.meteor import Meteor
from captioner.evaluation.metrics import Scores, score, scores_by_dataset
from captioner.evaluation.protocol import score_tables
from captioner.evaluation.teacher_forced import TeacherForced, teacher_forced
from captioner.models.caption_model import CaptionModel
from captioner.models.checkpoint import Checkpoint, build_model
from captioner.models.decoder import pad_captions
from captioner.output_files import refusals
from captioner.progress import Progress

_BATCH = 16


@dataclass(frozen=True)
class Report:
    """The captions of a split and their scores."""

    model: str
    """Its name, and of a bundle the precision of the graphs that ran."""
    split: str
    options: SearchOptions
    examples: Sequence[Example]
    captions: Sequence[Caption]
    scores: Scores
    taught: TeacherForced | None
    """None where there is no model to teach: a bundle captions, and nothing else."""

    @property
    def metrics(self) -> dict[str, Any]:
        """Split, photos, references, and every score by its key."""
        references = sum(len(example.references) for example in self.examples)
        counts = {"split": self.split, "photos": len(self.examples), "references": references}
        datasets = scores_by_dataset(
            [caption.text for caption in self.captions],
            [example.references for example in self.examples],
            [example.dataset for example in self.examples],
        )
        return counts | (self.taught.as_dict() if self.taught else {}) | self.scores.as_dict() | datasets

    def table(self, samples: int = 0) -> str:
        """For a person: a table a protocol, and before them some photos with captions and references."""
        lengths = [len(caption.words) for caption in self.captions]
        metrics = self.metrics
        head = (
            f"{self.model} on {self.split}: {metrics['photos']} photos, {metrics['references']} references, "
            f"{self.options.text.split(',')[0]}, mean length {np.mean(lengths):.1f} words"
        )
        tables = [table.text() for table in score_tables(metrics, self.options)]
        return "\n\n".join([*self._samples(samples), head, *tables])

    def _samples(self, count: int) -> list[str]:
        """As many photos, evenly from the whole split."""
        chosen = np.linspace(0, len(self.examples) - 1, min(count, len(self.examples))).astype(int)
        return [
            "\n".join(
                [
                    f"{self.examples[i].image.name}: {self.captions[i].text}",
                    *(f"    {reference}" for reference in self.examples[i].references),
                ]
            )
            for i in chosen
        ]

    def as_dict(self) -> dict[str, Any]:
        """Scores in 0..1 (CIDEr in 0..10, NIST from 0 up, loss in nats a piece), the protocols, and every caption."""
        rows = [
            {"image": e.image.name, "caption": c.text, "log_prob": c.log_prob, "references": list(e.references)}
            for e, c in zip(self.examples, self.captions, strict=True)
        ]
        taught = self.taught and {
            "teacher_forced_protocol": "each reference by itself, each piece guessed from the right ones before it",
            "teacher_forced": {
                "loss": self.taught.loss,
                "accuracy": self.taught.accuracy,
                "top_5": self.taught.top_5,
            },
        }
        return {
            "model": self.model,
            "split": self.split,
            "photos": len(self.captions),
            "references": self.metrics["references"],
            "search": self.options.as_dict(),
            "protocol": "free-running, all references, lower-cased, punctuation removed",
            "scores": self.scores.as_dict(),
            **(taught or {}),
            "captions": rows,
        }

    def write(self, path: Path) -> None:
        """Write `as_dict` as JSON.

        Raises:
            CaptionerError: it cannot be written; the file before is as it was.
        """
        text = json.dumps(self.as_dict(), ensure_ascii=False, indent=1) + "\n"
        with refusals("The report", path), atomic_write(path) as file:
            file.write(text.encode(errors="backslashreplace"))  # a name that is no UTF-8: an escape that JSON knows


class Taught:
    """A model whose photos are looked at once, for captions and for what a teacher sees: a `Backend` that remembers.

    Args:
        checkpoint: the model's.
        encode: a reference to ids, with START and END.
        device: where it computes.
    """

    def __init__(self, checkpoint: Checkpoint, encode: Callable[[str], list[int]], device: torch.device) -> None:
        self._model: CaptionModel = build_model(checkpoint).to(device)
        self._checkpoint, self._encode = checkpoint, encode
        self._features: Tensor | None = None

    def captioner(self, name: str) -> Captioner:
        """The model as the runtime's captioner."""
        return Captioner(model_spec(self._checkpoint, self._model, name), self._checkpoint.vocabulary, self)

    @torch.inference_mode()
    def encode(self, images: npt.NDArray[np.uint8], *, alpha: bool = False) -> ModelSteps:
        """See `caprun.engine.Backend`."""
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self._model.unsaid.device)
        self._features = self._model.encoder(pixels)
        return ModelSteps(self._model, self._model.start(self._features), alpha=alpha)

    def teach(self, examples: Sequence[Example]) -> TeacherForced:
        """Count the references of the photos that were captioned last."""
        assert self._features is not None, "photos are captioned before their references are counted"
        photos = [sorted(map(self._encode, example.references), key=len, reverse=True) for example in examples]
        tokens = pad_captions(photos, self._checkpoint.special.pad)
        return teacher_forced(self._model, [(self._features, tokens)])


def evaluate(
    captioner: Captioner,
    examples: Sequence[Example],
    options: SearchOptions,
    split: str,
    *,
    allow_missing: bool,
    say: Callable[[str], None],
    meteor: Meteor | None = None,
) -> Report:
    """Caption photos and score the captions.

    Args:
        captioner: of a checkpoint or a bundle; what a teacher sees is counted where its backend is a `Taught`.
        examples: the photos and their references.
        options: of the search.
        split: its name, for the report.
        allow_missing: leave photos out that cannot be read; they are not scored.
        say: is told about those.
        meteor: computes METEOR, which is left out without it.

    Raises:
        ImageError: a photo cannot be read.
        CaptionerError: none can.
    """
    kept: list[Example] = []
    captions: list[Caption] = []
    taught = captioner.backend if isinstance(captioner.backend, Taught) else None
    total = TeacherForced()
    with Progress("evaluate", len(examples), "photos") as progress:
        for first in range(0, len(examples), _BATCH):
            images, seen = [], []
            for example in examples[first : first + _BATCH]:
                try:
                    images.append(load(example.image, captioner.spec.image))
                    seen.append(example)
                except ImageError as error:
                    if not allow_missing:
                        raise
                    say(f"warning: left out: {error}")
            if images:
                captions += captioner.caption_arrays(np.stack(images), options)
                if taught:
                    total += taught.teach(seen)
            kept += seen
            progress.advance(min(_BATCH, len(examples) - first))
    if not kept:
        raise CaptionerError(f"None of the photos in split {split!r} can be read.")
    texts = [caption.text for caption in captions]
    scores = score(texts, [example.references for example in kept], meteor)
    name = captioner.spec.name
    if isinstance(captioner.backend, OnnxBackend):
        name += f", {captioner.backend.precision}"
    return Report(name, split, options, kept, captions, scores, total if taught else None)
