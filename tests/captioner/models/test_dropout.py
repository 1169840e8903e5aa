"""Dropout equals PyTorch's except for its random numbers."""

from __future__ import annotations

import pytest
import torch

from captioner.models.dropout import Dropout


def test_dropout_zeroes_the_given_share_and_scales_the_rest():
    torch.manual_seed(0)
    values = torch.ones(100_000)
    for share in (0.0, 0.1, 0.5, 1.0):
        dropped = Dropout(share)(values)
        assert (dropped == 0).float().mean().item() == pytest.approx(share, abs=0.01)
        torch.testing.assert_close(dropped[dropped > 0], torch.full_like(dropped[dropped > 0], 1 / max(1 - share, 0.1)))
        assert torch.equal(Dropout(share).eval()(values), values)
