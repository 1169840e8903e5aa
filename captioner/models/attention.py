"""Where the decoder looks: at all regions, weighted (soft attention), or at one (hard attention)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from captioner.models.draws import draw


class Glance(NamedTuple):
    """What every beam saw in one step."""

    context: Tensor  # (photos, beams, channels), gated
    alpha: Tensor  # (photos, beams, regions), sums to one
    choice: Tensor | None = None  # (photos, beams, 2): log-probability of the region drawn, and alpha's entropy


class SoftAttention(nn.Module):
    """Additive attention with a gate (Xu et al., 2015, equations 4 to 6 and 13, section 4.2.1).

    Args:
        channels: length of a region vector.
        units: length of the hidden vector that asks.
        attention: length of the space in which the two meet.
        gate: whether beta weighs what was seen.

    The gate beta is a vector over channels, as public implementations have it; the paper's is a scalar.
    """

    def __init__(self, channels: int, units: int, attention: int, *, gate: bool = True) -> None:
        super().__init__()
        self.key = nn.Linear(channels, attention)
        self.query = nn.Linear(units, attention, bias=False)  # the key's bias serves both
        self.score = nn.Linear(attention, 1, bias=False)  # softmax does not see a bias
        self.gate = nn.Linear(units, channels) if gate else None

    def keys(self, regions: Tensor) -> Tensor:
        """(photos, regions, channels) -> (photos, regions, attention): what does not change between steps."""
        keys: Tensor = self.key(regions)
        return keys

    def which_draw(self, captions: Tensor) -> Tensor | None:
        """Which captions draw their regions: a mask like `captions` (photos, captions), or None if none does."""
        del captions
        return None

    def forward(self, hidden: Tensor, regions: Tensor, keys: Tensor, drawn: Tensor | None = None) -> Glance:
        """One glance for every beam; the beams of a photo share its regions, which are never repeated.

        Args:
            hidden: (photos, beams, units).
            regions: (photos, regions, channels).
            keys: (photos, regions, attention), from `keys`.
            drawn: bool (photos, beams), from `which_draw`.
        """
        query = self.query(hidden).unsqueeze(2)  # (photos, beams, 1, attention)
        scores = self.score(torch.tanh(keys.unsqueeze(1) + query)).squeeze(3)  # (photos, beams, regions)
        alpha = torch.softmax(scores, dim=2)
        context, choice = self.look(scores, alpha, regions, drawn)
        if self.gate is not None:
            context = torch.sigmoid(self.gate(hidden)) * context
        return Glance(context, alpha, choice)

    def look(
        self, scores: Tensor, alpha: Tensor, regions: Tensor, drawn: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """What is seen, not yet gated, and `Glance.choice`; scores and alpha are (photos, beams, regions)."""
        del scores, drawn
        return torch.matmul(alpha, regions), None


class HardAttention(SoftAttention):
    """Attention to one region a step (Xu et al., 2015, section 4.1), with the same parameters.

    In training a region is drawn from alpha, but for a share of the captions, which see alpha's expected value as soft
    attention does: that lowers the variance of what is learnt from the draws. Otherwise it is the most likely region.
    """

    expected_share = 0.5

    def which_draw(self, captions: Tensor) -> Tensor | None:
        """Drawn anew for every batch, in training; None in eval mode."""
        if not self.training:
            return None
        return torch.rand(captions.shape, device=captions.device) >= self.expected_share

    def look(
        self, scores: Tensor, alpha: Tensor, regions: Tensor, drawn: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """No gradient passes through a draw: `Glance.choice` is there for REINFORCE, 0 where none was drawn."""
        if drawn is None:
            region = scores.argmax(2).unsqueeze(2)
            return regions.gather(1, region.expand(-1, -1, regions.shape[2])), None
        log_alpha = torch.log_softmax(scores.float(), dim=2)
        region = draw(log_alpha).unsqueeze(2)
        one_hot = torch.zeros_like(alpha).scatter(2, region, 1.0)
        context = torch.matmul(torch.where(drawn.unsqueeze(2), one_hot, alpha), regions)
        log_prob = log_alpha.gather(2, region).squeeze(2) * drawn
        entropy = -(log_alpha.exp() * log_alpha).sum(2)
        return context, torch.stack([log_prob, entropy], dim=2)
