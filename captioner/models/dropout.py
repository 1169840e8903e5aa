"""Dropout from uniform random numbers, which a CPU draws faster than the Bernoulli numbers of PyTorch's dropout."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Dropout(nn.Module):
    """Behaves like `torch.nn.Dropout`, with other random numbers.

    Args:
        share: the share of values set to zero in training, in 0..1; the others are divided by `1 - share`.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, values: Tensor) -> Tensor:
        """Drops values of a tensor of any shape in training; returns it unchanged in eval mode."""
        if not self.training or not self.share:
            return values
        if self.share == 1:
            return values * 0
        # uniform numbers in half precision are too coarse for the share
        kept = torch.rand(values.shape, device=values.device) >= self.share
        return values * (kept.to(values.dtype) / (1 - self.share))
