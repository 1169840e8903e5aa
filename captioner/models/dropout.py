"""Dropout from uniform numbers: on a CPU PyTorch draws them faster than the Bernoulli ones of its own dropout."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Dropout(nn.Module):
    """`torch.nn.Dropout`, but for the random numbers it draws.

    Args:
        share: of the values that become zero in training; the others grow by as much as is missing then.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, values: Tensor) -> Tensor:
        """Of any shape; as it is in eval mode."""
        if not self.training or not self.share:
            return values
        if self.share == 1:
            return values * 0
        # half precision has too few numbers between 0 and 1 to hit every share
        kept = torch.rand(values.shape, device=values.device) >= self.share
        return values * (kept.to(values.dtype) / (1 - self.share))
