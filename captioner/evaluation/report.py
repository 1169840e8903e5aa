"""Scoring a model on a split: free-running captions against all references, from the photo files on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from caprun.decoding import SearchOptions
from caprun.engine import Caption, Captioner
from caprun.errors import ImageError
from caprun.image import load
from captioner.datasets import Example
from captioner.errors import CaptionerError
from captioner.evaluation.metrics import TITLES, Scores, score
from captioner.progress import Progress

_BATCH = 16


@dataclass(frozen=True)
class Report:
    """The captions of a split and their scores."""

    model: str
    split: str
    options: SearchOptions
    examples: Sequence[Example]
    captions: Sequence[Caption]
    scores: Scores

    def table(self) -> str:
        """For a person, x100 as papers print them."""
        scores = self.scores.as_dict()
        lengths = [len(caption.words) for caption in self.captions]
        head = "  ".join(f"{title:>7}" for title in TITLES.values())
        row = "  ".join(f"{100 * scores[name]:7.1f}" for name in TITLES)
        references = sum(len(example.references) for example in self.examples)
        return (
            f"{self.model} on {self.split}: {len(self.captions)} photos, {references} references, "
            f"beam {self.options.beam_size}, mean length {np.mean(lengths):.1f} words\n{head}\n{row}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Scores in 0..1 (CIDEr in 0..10), the protocol, and every caption."""
        rows = [
            {"image": e.image.name, "caption": c.text, "log_prob": c.log_prob, "references": list(e.references)}
            for e, c in zip(self.examples, self.captions, strict=True)
        ]
        return {
            "model": self.model,
            "split": self.split,
            "photos": len(self.captions),
            "search": asdict(self.options),
            "protocol": "free-running, all references, lower-cased, punctuation removed",
            "scores": self.scores.as_dict(),
            "captions": rows,
        }

    def write(self, path: Path) -> None:
        """Write `as_dict` as JSON."""
        try:
            path.write_text(json.dumps(self.as_dict(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise CaptionerError(f"The report {path} cannot be written: {error.strerror}.") from error


def evaluate(
    captioner: Captioner,
    examples: Sequence[Example],
    options: SearchOptions,
    split: str,
    *,
    allow_missing: bool,
    say: Callable[[str], None],
) -> Report:
    """Caption photos and score the captions.

    Args:
        captioner: of a checkpoint or a bundle.
        examples: the photos and their references.
        options: of the search.
        split: its name, for the report.
        allow_missing: leave photos out that cannot be read; they are not scored.
        say: is told about those.

    Raises:
        ImageError: a photo cannot be read.
    """
    kept: list[Example] = []
    captions: list[Caption] = []
    with Progress("evaluate", len(examples), "photos") as progress:
        for first in range(0, len(examples), _BATCH):
            images = []
            for example in examples[first : first + _BATCH]:
                try:
                    images.append(load(example.image, captioner.spec.image))
                    kept.append(example)
                except ImageError as error:
                    if not allow_missing:
                        raise
                    say(f"warning: left out: {error}")
            if images:
                captions += captioner.caption_arrays(np.stack(images), options)
            progress.advance(min(_BATCH, len(examples) - first))
    if not kept:
        raise CaptionerError(f"None of the photos in split {split!r} can be read.")
    scores = score([caption.text for caption in captions], [example.references for example in kept])
    return Report(captioner.spec.name, split, options, kept, captions, scores)
