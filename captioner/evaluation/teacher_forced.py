"""Teacher-forced scores: how well a model predicts each piece of the references, given the pieces before it."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import torch
from torch import Tensor

TOP = 5


@dataclass(frozen=True)
class TeacherForced:
    """Sums over the pieces of all references, END included; sums of batches or processes can be added."""

    words: float = 0
    """Number of pieces."""
    nats: float = 0.0
    """Their cross-entropy."""
    right: float = 0
    """Pieces that the model found most likely."""
    among: float = 0
    """Pieces among the model's five most likely ones."""

    def __add__(self, other: TeacherForced) -> TeacherForced:
        return TeacherForced(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def as_dict(self) -> dict[str, float]:
        """Returns loss (nats per piece), accuracy and top-5 accuracy (in 0..1) by key of `TEACHER_FORCED_TITLES`."""
        words = max(self.words, 1)
        return {"dev_loss": self.nats / words, "accuracy": self.right / words, "top_5": self.among / words}


@torch.no_grad()
def tally(logits: Tensor, targets: Tensor) -> TeacherForced:
    """Counts a batch.

    Args:
        logits: float (words, vocabulary).
        targets: int64 (words,), the correct pieces.

    A piece is the most likely one if no other is more likely, and in the top five if fewer than five are more likely.
    """
    log_prob = torch.log_softmax(logits.float(), 1)
    target = log_prob.gather(1, targets[:, None])
    rank = (log_prob > target).sum(1)
    # in single precision, the sum over a split would depend on the order
    nats = -target.sum(dtype=torch.float64).item()
    return TeacherForced(len(targets), nats, int((rank < 1).sum()), int((rank < TOP).sum()))
