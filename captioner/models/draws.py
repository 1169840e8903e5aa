"""How something is drawn from a distribution that a network states."""

from __future__ import annotations

import torch
from torch import Tensor


def draw(logits: Tensor) -> Tensor:
    """Draw one of the last axis: (..., choices) -> int64 (...), each with its softmax's probability.

    By the Gumbel-max trick: the logarithm of an exponential variable, negated, is Gumbel's. Unlike
    `torch.multinomial` it waits for no GPU, and a logit of -inf is never drawn.
    """
    logits = logits.detach().float()
    return (logits - torch.empty_like(logits).exponential_().log()).argmax(-1)
