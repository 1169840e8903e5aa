"""Draws from the categorical distribution of a network's logits."""

from __future__ import annotations

import torch
from torch import Tensor


def draw(logits: Tensor) -> Tensor:
    """Draws an index of the last axis with the probabilities of a softmax: (..., choices) -> int64 (...).

    The Gumbel-max trick: the negated logarithm of an exponential variable has a Gumbel distribution. Unlike
    `torch.multinomial` this does not wait for the GPU. A logit of -inf is never drawn.
    """
    logits = logits.detach().float()
    return (logits - torch.empty_like(logits).exponential_().log()).argmax(-1)
