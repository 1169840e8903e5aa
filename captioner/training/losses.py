"""What training minimises: label-smoothed cross-entropy and the doubly stochastic regularisation of attention."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

from captioner.models.decoder import Teacher


class Losses(NamedTuple):
    """Scalars."""

    total: Tensor
    """To be minimised."""
    cross_entropy: Tensor
    """Nats a word, not smoothed; without a gradient, to be shown."""


def caption_loss(teacher: Teacher, label_smoothing: float, attention_penalty: float) -> Losses:
    """The loss of a batch.

    Args:
        teacher: what the model said; padding is not in it.
        label_smoothing: see Szegedy et al., 2016, section 7.
        attention_penalty: lambda of equation 14 in Xu et al., 2015: over a caption, attention should come to one in
            every region.
    """
    # half precision is for products, not for sums over a vocabulary
    log_prob = functional.log_softmax(teacher.logits.float(), dim=1)
    cross_entropy = -log_prob.gather(1, teacher.targets[:, None]).mean()
    smoothed = (1 - label_smoothing) * cross_entropy - label_smoothing * log_prob.mean()
    penalty = attention_penalty * attention_spread(teacher)
    return Losses(smoothed + penalty, cross_entropy.detach())


def attention_spread(teacher: Teacher) -> Tensor:
    """(1 - attention that a region got over the caption)^2, the mean over regions and captions that are not padding."""
    spread = ((1 - teacher.attended) ** 2).mean(2)  # (photos, captions)
    said = teacher.lengths > 0
    return spread[said].mean()
