"""The exported step computes the same as the model's step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from capexport.fused_step import FusedStep
from captioner.models.caption_model import CaptionModel
from captioner.models.checkpoint import build_model
from captioner.models.decoder import Encoded
from tests.capexport.conftest import make_checkpoint

VARIANTS: dict[str, dict[str, Any]] = {
    "soft attention": {},
    "soft attention, no gate": {"gate": False},
    "soft attention, three layers": {"layers": 3},
    "soft attention, tied words, no gate, two layers": {"tie_words": True, "gate": False, "layers": 2},
    "hard attention": {"decoder": "hard-attention"},
    "hard attention, tied words, two layers": {"decoder": "hard-attention", "tie_words": True, "layers": 2},
    "hard attention, no gate": {"decoder": "hard-attention", "gate": False},
    "photo as first word": {"decoder": "rnetvi", "embedding": 24},
    "photo as first word, three layers, tied words": {
        "decoder": "rnetvi",
        "embedding": 24,
        "layers": 3,
        "tie_words": True,
    },
    "photo as hidden state": {"decoder": "rnetvh"},
    "photo as hidden and cell state, two layers": {"decoder": "rnetvhc", "layers": 2},
    "linear output, relu": {"output": "linear", "attention_activation": "relu", "layers": 2},
    "linear output, no attention": {"output": "linear", "decoder": "rnetvh"},
    "attention of two layers, rectified output": {"output": "relu", "attention_layers": 2, "layers": 2},
    "attention of two layers, no gate": {"attention_layers": 2, "gate": False},
}
PHOTOS = 4


@pytest.fixture(scope="module", params=VARIANTS)
def model(request: pytest.FixtureRequest) -> CaptionModel:
    return build_model(make_checkpoint(**VARIANTS[request.param])).eval()


def encoded_at_random(model: CaptionModel, states: int) -> Encoded:
    """Returns random states and context; all numbers differ, so that swapped inputs are detected."""
    decoder, random = model.decoder, torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return 2 * torch.rand(shape, generator=random) - 1

    state = draw(states, decoder.layers, decoder.units), draw(states, decoder.layers, decoder.units)
    if decoder.attention is None:
        return Encoded(*state)
    channels, attention = decoder.context_gates.in_features, decoder.attention.score.in_features
    return Encoded(*state, draw(PHOTOS, 7, channels), draw(PHOTOS, 7, attention))


def by_piece(log_prob: Tensor, candidate: Tensor) -> Tensor:
    return torch.full_like(log_prob, torch.nan).scatter(2, candidate, log_prob)


@pytest.mark.parametrize(
    ("row", "parent"),
    [
        ([0, 1, 2, 3], [[0], [1], [2], [3]]),
        ([0, 1, 2, 3], [[0, 0, 0], [1, 1, 1], [2, 2, 2], [3, 3, 3]]),
        ([1, 3], [[4, 3, 3], [11, 9, 10]]),
        ([2], [[8]]),
    ],
    ids=["greedy", "one beam becomes three", "photos are done and beams change places", "one is left"],
)
@torch.inference_mode()
def test_the_fused_step_equals_the_models_step(model: CaptionModel, row: list[int], parent: list[list[int]]) -> None:
    pieces = len(model.unsaid)
    rows, parents = torch.tensor(row), torch.tensor(parent)
    encoded = encoded_at_random(model, 12)
    token = torch.randint(pieces, parents.shape, generator=torch.Generator().manual_seed(1))
    expected = model.candidates(rows, parents, token, encoded, pieces)
    found = FusedStep(model)(rows, parents, token, encoded, pieces)
    torch.testing.assert_close(by_piece(*found[:2]), by_piece(*expected[:2]), atol=1e-5, rtol=0)
    for name, value, other in zip(("hidden", "cell", "alpha"), found[2:], expected[2:], strict=True):
        assert (value is None) == (other is None), name
        if value is not None:
            torch.testing.assert_close(value, other, atol=1e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


@torch.inference_mode()
def test_pad_start_and_unk_have_probability_zero(model: CaptionModel) -> None:
    step, zero = FusedStep(model), torch.zeros(1, 1, dtype=torch.int64)
    found = step(zero[0], zero, zero + 5, encoded_at_random(model, 1), len(model.unsaid))
    special = model.special
    never = by_piece(*found[:2])[0, 0]
    assert never.isneginf().nonzero().flatten().tolist() == sorted([special.pad, special.start, special.unk])
    assert never.exp().sum().item() == pytest.approx(1, abs=1e-5)
