"""Scores a model on a split: its free-running captions and, for a checkpoint, its teacher-forced predictions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from caprun.batch.progress import Progress
from caprun.caption import Caption
from caprun.engine import Captioner
from caprun.errors import ImageError
from caprun.inference.session import OnnxBackend
from caprun.photos.preprocessing import load
from caprun.search.options import SearchOptions
from captioner.backends.pytorch import ModelBackend
from captioner.datasets import Example
from captioner.errors import CaptionerError
from captioner.evaluation.meteor import Meteor
from captioner.evaluation.metrics import TEACHER_FORCED_TITLES, TITLES, named, score, scores_by_dataset
from captioner.evaluation.protocol import score_tables, scored_by
from captioner.evaluation.teacher_forced import TeacherForced, tally
from captioner.models.checkpoint import Checkpoint
from captioner.models.decoder import pad_captions
from captioner.output_files import write_whole
from captioner.text.build import restore_tokenizer
from captioner.text.metric_words import Segmenter, segmentation, segmenter, tokenize
from captioner.text.scripts import scripts_of
from captioner.text.tokenizer import Tokenizer

_BATCH = 16


@dataclass(frozen=True)
class Evaluation:
    """The captions of a split and their scores."""

    model: str
    """Name of the model; for a bundle, with the precision of the graphs that ran."""
    split: str
    options: SearchOptions
    examples: Sequence[Example]
    captions: Sequence[Caption]
    metrics: Mapping[str, Any]
    """Split, photos, references, segmentation, and every score by its key; a bundle has no teacher-forced scores."""

    def table(self, samples: int = 0) -> str:
        """Returns text for a terminal: `samples` photos with captions and references, then a table per protocol."""
        lengths = [len(tokenize(caption.text)) for caption in self.captions]
        unit = segmentation(text for example in self.examples for text in example.references)
        head = (
            f"{self.model} on {self.split}: {len(self.examples)} photos, {self.metrics['references']} references, "
            f"{self.options.text.split(',')[0]}, mean length {np.mean(lengths):.1f} {unit}"
        )
        tables = [table.text() for table in score_tables(self.metrics, self.options)]
        return "\n\n".join([*self._samples(samples), head, *tables])

    def _samples(self, count: int) -> list[str]:
        """Returns lines about `count` photos, evenly spaced over the split."""
        chosen = np.linspace(0, len(self.examples) - 1, min(count, len(self.examples))).astype(int)
        photos = [(self.examples[i], self.captions[i].text) for i in chosen]
        return ["\n    ".join([f"{example.image.name}: {text}", *example.references]) for example, text in photos]

    def as_dict(self) -> dict[str, Any]:
        """Returns scores in 0..1 (CIDEr in 0..10, NIST 0 or more, loss in nats per piece), protocols and captions."""
        rows = [
            {
                "image": e.image.name,
                **({"dataset": e.dataset} if e.dataset else {}),
                "caption": c.text,
                "log_prob": c.log_prob,
                "references": list(e.references),
            }
            for e, c in zip(self.examples, self.captions, strict=True)
        ]
        found = {
            "model": self.model,
            "split": self.split,
            "photos": len(self.captions),
            "references": self.metrics["references"],
            "search": self.options.as_dict(),
            "protocol": f"free-running, all references, {scored_by(self.metrics)}",
            "scores": named(self.metrics, TITLES),
        }
        if by_dataset := {name: value for name, value in self.metrics.items() if "@" in name}:
            found["scores_by_dataset"] = by_dataset
        if taught := named(self.metrics, TEACHER_FORCED_TITLES):
            found["teacher_forced_protocol"] = (
                "each reference separately, each piece predicted given the correct pieces before"
            )
            found["teacher_forced"] = {key.removeprefix("dev_"): value for key, value in taught.items()}
        return {**found, "captions": rows}

    def write(self, path: Path) -> None:
        """Writes `as_dict` as JSON.

        Raises:
            CaptionerError: the file cannot be written; an existing file stays as it was.
        """
        write_whole("The report", path, json.dumps(self.as_dict(), ensure_ascii=False, indent=1) + "\n")


def evaluate(
    captioner: Captioner,
    examples: Sequence[Example],
    options: SearchOptions,
    split: str,
    *,
    allow_missing: bool,
    say: Callable[[str], None],
    meteor: Meteor | None = None,
    segment_with: Segmenter | None = None,
    checkpoint: Checkpoint | None = None,
) -> Evaluation:
    """Captions photos and scores the captions.

    Args:
        captioner: a checkpoint or a bundle.
        examples: the photos and their references.
        options: the options of the search.
        split: the name of the split, for the report.
        allow_missing: leaves out photos that cannot be read.
        say: prints a line for each photo left out.
        meteor: computes METEOR; without it, METEOR is left out.
        segment_with: finds the words in scripts without spaces; None to score these by characters.
        checkpoint: the captioner's checkpoint; without it, teacher-forced scores are left out.

    Raises:
        ImageError: a photo cannot be read and `allow_missing` is false.
        CaptionerError: no photo can be read, or the segmenter is not installed.
    """
    words_of = tokenize if segment_with is None else segmenter(segment_with)
    kept: list[Example] = []
    captions: list[Caption] = []
    tokenizer = None
    if checkpoint is not None:
        tokenizer = restore_tokenizer(checkpoint.config.data, checkpoint.vocabulary, checkpoint.tokenizer)
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
                    say(f"warning: photo left out: {error}")
            if images:
                captions += captioner.caption_arrays(np.stack(images), options)
                if tokenizer is not None:
                    total += _teach(captioner, tokenizer, seen)
            kept += seen
            progress.advance(min(_BATCH, len(examples) - first))
    if not kept:
        raise CaptionerError(f"None of the photos in split {split!r} can be read.")
    special = astuple(captioner.spec.special)
    words = [piece for index, piece in enumerate(captioner.vocabulary.pieces) if index not in special]
    _warn_of_another_script(words, chain.from_iterable(one.references for one in kept), say)
    texts, references = [caption.text for caption in captions], [example.references for example in kept]
    metrics = {
        "split": split,
        "photos": len(kept),
        "references": sum(map(len, references)),
        "segmentation": f"words of {segment_with}" if segment_with else segmentation(chain(*references)),
        **(total.as_dict() if tokenizer is not None else {}),
        **score(texts, references, meteor, words_of),
        **scores_by_dataset(texts, references, [example.dataset for example in kept], words_of),
    }
    name = captioner.spec.name
    if isinstance(captioner.backend, OnnxBackend):
        name += f", {captioner.backend.precision}"
    return Evaluation(name, split, options, kept, captions, metrics)


@torch.inference_mode()
def _teach(captioner: Captioner, tokenizer: Tokenizer, examples: Sequence[Example]) -> TeacherForced:
    """Returns the teacher-forced sums of the photos that were captioned last."""
    backend = captioner.backend
    assert isinstance(backend, ModelBackend), "the captioner of a checkpoint"
    assert backend.features is not None, "the photos are captioned first"
    photos = [sorted(map(tokenizer.encode, example.references), key=len, reverse=True) for example in examples]
    tokens = pad_captions(photos, captioner.spec.special.pad).to(backend.features.device)
    teacher = backend.model(backend.features, tokens)
    return tally(teacher.logits, teacher.targets)


def _warn_of_another_script(pieces: Sequence[str], references: Iterable[str], say: Callable[[str], None]) -> None:
    theirs, own = next(iter(scripts_of(references)), None), list(scripts_of(pieces))
    if theirs is not None and own and theirs not in own:
        say(
            f"warning: the references are {theirs}, and the model's vocabulary is {own[0]}, so the scores say nothing "
            "about the model."
        )
