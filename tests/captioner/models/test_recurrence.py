"""The recurrence with its own gradient: exactly what autograd makes of the decoder's steps."""

from __future__ import annotations

import pytest
import torch

from captioner.config import ModelConfig
from captioner.models.attention import SoftAttention
from captioner.models.caption_model import CaptionModel
from captioner.models.decoder import pad_captions
from captioner.models.dropout import Dropout
from captioner.models.recurrence import pack, recur
from captioner.text.tokenizer import SPECIAL

UNITS, CHANNELS, ATTENTION, REGIONS = 3, 4, 2, 3


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize(
    "lengths", [[[5, 3, 1], [4, 4, 0]], [[2]], [[1, 1], [1, 1]], [[3, 2], [0, 0]], [[1, 4, 2], [3, 0, 0], [0, 0, 0]]]
)
def test_its_gradient_is_the_numerical_one(gated, lengths):
    torch.manual_seed(0)
    said = torch.tensor(lengths).unsqueeze(2) > torch.arange(5)
    packed, photos = pack(said), len(lengths)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    states = [random(int(said.sum()), 4 * UNITS), random(photos, UNITS), random(photos, UNITS)]
    context = [random(photos, REGIONS, CHANNELS), random(photos, REGIONS, ATTENTION)]
    weights = [random(4 * UNITS, UNITS), random(4 * UNITS, CHANNELS), random(ATTENTION, UNITS), random(1, ATTENTION)]
    gate = [random(CHANNELS, UNITS), random(CHANNELS)] if gated else []
    inputs = states + context + weights + gate
    assert torch.autograd.gradcheck(lambda *given: recur(*given[:5], packed, *given[5:]), inputs)


class LookedAtStepByStep(SoftAttention):
    """What the decoder does not know to be soft attention, and goes through step by step."""


@pytest.mark.parametrize("settings", [{}, {"gate": False}, {"tie_words": False}, {"initial_state": "projection"}])
def test_it_teaches_as_the_steps_do(encoder, settings):
    torch.manual_seed(0)
    config = ModelConfig(**{"projection": 8, "embedding": 6, "units": 8, "attention": 5, **settings})
    model = CaptionModel(encoder, config, 12, SPECIAL).eval()
    start, end = SPECIAL.start, SPECIAL.end
    captions = [
        [[start, 4, 5, 6, 7, end], [start, 9, 4, end], [start, end]],
        [[start, 11, end], [start, end]],
        [[start, 8, 9, end]],
    ]
    tokens = pad_captions(captions, SPECIAL.pad)
    features = torch.rand(3, encoder.regions, encoder.channels)
    results = []
    for kind in (SoftAttention, LookedAtStepByStep):
        model.decoder.attention.__class__ = kind
        model.zero_grad()
        teacher = model(features, tokens)
        loss = torch.nn.functional.cross_entropy(teacher.logits, teacher.targets) + (teacher.attended**2).sum()
        loss.backward()
        order = teacher.caption.argsort(stable=True)
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        results.append((teacher.logits[order], teacher.targets[order], teacher.attended, teacher.lengths, gradients))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


def test_dropout_is_pytorchs_in_all_but_its_numbers():
    torch.manual_seed(0)
    values = torch.ones(100_000)
    for share in (0.0, 0.1, 0.5, 1.0):
        dropped = Dropout(share)(values)
        assert (dropped == 0).float().mean().item() == pytest.approx(share, abs=0.01)
        torch.testing.assert_close(dropped[dropped > 0], torch.full_like(dropped[dropped > 0], 1 / max(1 - share, 0.1)))
        assert torch.equal(Dropout(share).eval()(values), values)
