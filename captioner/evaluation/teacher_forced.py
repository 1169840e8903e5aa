"""How well a model guesses each piece of the references when it is told the pieces before it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from captioner.models.caption_model import CaptionModel

TOP = 5


@dataclass(frozen=True)
class TeacherForced:
    """Sums over the pieces of all references, their ENDs counted; those of several batches or processes add up."""

    words: float = 0
    """Pieces."""
    nats: float = 0.0
    """Their cross-entropy."""
    right: float = 0
    """Pieces that the model thought the likeliest."""
    among: float = 0
    """Pieces that the model had among its five likeliest."""

    def __add__(self, other: TeacherForced) -> TeacherForced:
        return TeacherForced(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def loss(self) -> float:
        """Nats a piece."""
        return self.nats / max(self.words, 1)

    @property
    def accuracy(self) -> float:
        """Share of pieces, in 0..1."""
        return self.right / max(self.words, 1)

    @property
    def top_5(self) -> float:
        """Share of pieces, in 0..1."""
        return self.among / max(self.words, 1)

    def as_dict(self) -> dict[str, float]:
        """By their keys in `TEACHER_FORCED_TITLES`."""
        return {"dev_loss": self.loss, "accuracy": self.accuracy, "top_5": self.top_5}


@torch.no_grad()
def tally(logits: Tensor, targets: Tensor) -> TeacherForced:
    """Count a batch: what the model said, float (words, vocabulary), and what was right, int64 (words,).

    A piece is the likeliest where no other is likelier, and among the five where fewer than five are.
    """
    log_prob = torch.log_softmax(logits.float(), 1)
    target = log_prob.gather(1, targets[:, None])
    rank = (log_prob > target).sum(1)
    # the sum of a split in single precision would depend on its order
    nats = -target.sum(dtype=torch.float64).item()
    return TeacherForced(len(targets), nats, int((rank < 1).sum()), int((rank < TOP).sum()))


@torch.inference_mode()
def teacher_forced(model: CaptionModel, batches: Iterable[tuple[Tensor, Tensor]]) -> TeacherForced:
    """Show a model photos and their references.

    Args:
        model: put it in eval mode first.
        batches: features, float (photos, regions, channels), or photos, uint8 (photos, height, width, 3); and their
            captions, int64 (photos, captions, 1 + length), each photo's longest caption first.
    """
    device = model.unsaid.device
    total = TeacherForced()
    for seen, tokens in batches:
        teacher = model(seen.to(device), tokens.to(device))
        total += tally(teacher.logits, teacher.targets)
    return total
