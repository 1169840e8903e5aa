"""Where the decoder looks: soft attention over a photo's regions."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SoftAttention(nn.Module):
    """Additive attention with a gate (Xu et al., 2015, equations 4 to 6 and 13, section 4.2.1).

    Args:
        channels: length of a region vector.
        units: length of the hidden vector that asks.
        attention: length of the space in which the two meet.

    The gate beta is a vector over channels, as public implementations have it; the paper's is a scalar.
    """

    def __init__(self, channels: int, units: int, attention: int) -> None:
        super().__init__()
        self.key = nn.Linear(channels, attention)
        self.query = nn.Linear(units, attention, bias=False)  # the key's bias serves both
        self.score = nn.Linear(attention, 1, bias=False)  # softmax does not see a bias
        self.gate = nn.Linear(units, channels)

    def keys(self, regions: Tensor) -> Tensor:
        """(photos, regions, channels) -> (photos, regions, attention): what does not change between steps."""
        keys: Tensor = self.key(regions)
        return keys

    def forward(self, hidden: Tensor, regions: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """One glance for every beam; the beams of a photo share its regions, which are never repeated.

        Args:
            hidden: (photos, beams, units).
            regions: (photos, regions, channels).
            keys: (photos, regions, attention), from `keys`.

        Returns:
            context (photos, beams, channels), gated, and alpha (photos, beams, regions), which sums to one.
        """
        query = self.query(hidden).unsqueeze(2)  # (photos, beams, 1, attention)
        scores = self.score(torch.tanh(keys.unsqueeze(1) + query)).squeeze(3)  # (photos, beams, regions)
        alpha = torch.softmax(scores, dim=2)
        context = torch.sigmoid(self.gate(hidden)) * torch.matmul(alpha, regions)
        return context, alpha
