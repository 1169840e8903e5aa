"""Attention over image regions: soft (a weighted sum of all regions) or hard (one region per step)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Glance(NamedTuple):
    """The result of attention for every beam in one step."""

    context: Tensor  # (photos, beams, channels), gated
    alpha: Tensor  # (photos, beams, regions), sums to one
    choice: Tensor | None = None  # (photos, beams, 2): log-probability of the drawn region, entropy of alpha


class SoftAttention(nn.Module):
    """Additive attention with a gate (Xu et al., 2015, equations 4 to 6 and 13, section 4.2.1).

    Args:
        channels: length of a region vector.
        units: length of the hidden vector.
        attention: length of the space in which regions and the hidden vector are compared.
        gate: whether to multiply the context by the gate beta.
        activation: `tanh` or `relu`, applied to the sum of key and query.

    The gate beta is a vector over channels, as in public implementations; the paper's is a scalar.
    """

    def __init__(
        self, channels: int, units: int, attention: int, *, gate: bool = True, activation: str = "tanh"
    ) -> None:
        super().__init__()
        self.size = attention
        self.activation = torch.relu if activation == "relu" else torch.tanh
        self.key: nn.Module = nn.Linear(channels, attention)
        self.query: nn.Module = nn.Linear(units, attention, bias=False)  # the key already has a bias
        self.score = nn.Linear(attention, 1, bias=False)  # softmax cancels a bias
        self.gate: nn.Module | None = nn.Linear(units, channels) if gate else None

    def keys(self, regions: Tensor) -> Tensor:
        """Projects regions (photos, regions, channels) to keys (photos, regions, attention), once for all steps."""
        keys: Tensor = self.key(regions)
        return keys

    def which_draw(self, captions: Tensor) -> Tensor | None:
        """Selects the captions that draw their regions.

        Args:
            captions: (photos, captions), any values.

        Returns:
            bool (photos, captions), or None if no caption draws.
        """
        del captions
        return None

    def forward(self, hidden: Tensor, regions: Tensor, keys: Tensor, drawn: Tensor | None = None) -> Glance:
        """Attends once for every beam; the beams of a photo share its regions without copying them.

        Args:
            hidden: (photos, beams, units).
            regions: (photos, regions, channels).
            keys: (photos, regions, attention), from `keys`.
            drawn: bool (photos, beams), from `which_draw`.
        """
        scores = self.scores(self.query(hidden), keys)
        alpha = torch.softmax(scores, dim=2)
        context, choice = self.look(scores, alpha, regions, drawn)
        if self.gate is not None:
            context = torch.sigmoid(self.gate(hidden)) * context
        return Glance(context, alpha, choice)

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """Compares queries (photos, beams, attention) with keys (photos, regions, attention).

        Returns:
            (photos, beams, regions); their softmax is alpha.
        """
        scores: Tensor = self.score(self.activation(keys.unsqueeze(1) + query.unsqueeze(2))).squeeze(3)
        return scores

    def look(
        self, scores: Tensor, alpha: Tensor, regions: Tensor, drawn: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Returns the ungated context and `Glance.choice`; scores and alpha are (photos, beams, regions)."""
        del scores, drawn
        return torch.matmul(alpha, regions), None


class TwoLayerAttention(SoftAttention):
    """Soft attention that computes keys and queries with two layers each, as ljm565's captioner does.

    Every use of the regions and the hidden vector applies a ReLU first, also in the context and the gate.
    """

    def __init__(
        self, channels: int, units: int, attention: int, *, gate: bool = True, activation: str = "tanh"
    ) -> None:
        super().__init__(channels, units, attention, gate=gate, activation=activation)

        def two_layers(inputs: int) -> nn.Module:
            return nn.Sequential(nn.ReLU(), nn.Linear(inputs, attention), nn.ReLU(), nn.Linear(attention, attention))

        self.key, self.query = two_layers(channels), two_layers(units)
        self.gate = nn.Sequential(nn.ReLU(), nn.Linear(units, channels)) if gate else None

    def look(
        self, scores: Tensor, alpha: Tensor, regions: Tensor, drawn: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """See `SoftAttention`."""
        return super().look(scores, alpha, regions.relu(), drawn)


class HardAttention(SoftAttention):
    """Attends to one region per step (Xu et al., 2015, section 4.1), with the parameters of soft attention.

    In training, half of the captions draw a region from alpha; the others use the expected value, as soft attention
    does, which lowers the variance of the gradient. In eval mode the most likely region is used.
    """

    expected_share = 0.5

    def which_draw(self, captions: Tensor) -> Tensor | None:
        """Draws a mask for each batch in training; returns None in eval mode."""
        if not self.training:
            return None
        return torch.rand(captions.shape, device=captions.device) >= self.expected_share

    def look(
        self, scores: Tensor, alpha: Tensor, regions: Tensor, drawn: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Draws regions; `Glance.choice` serves REINFORCE, because no gradient passes through a draw."""
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


def draw(logits: Tensor) -> Tensor:
    """Draws an index of the last axis with the probabilities of a softmax: (..., choices) -> int64 (...).

    The Gumbel-max trick: the negated logarithm of an exponential variable has a Gumbel distribution. Unlike
    `torch.multinomial`, this does not wait for the GPU. A logit of -inf is never drawn.
    """
    logits = logits.detach().float()
    return (logits - torch.empty_like(logits).exponential_().log()).argmax(-1)
