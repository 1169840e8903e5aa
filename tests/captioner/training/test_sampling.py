"""Captions are sampled with the model's probabilities, and reinforced by their advantage."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from caprun.search.decoding import search
from caprun.search.options import SearchOptions
from captioner.backends.pytorch import model_steps
from captioner.config import ModelConfig
from captioner.models.caption_model import CaptionModel
from captioner.text.tokenizer import SPECIAL
from captioner.training.sampling import drawable, sample
from captioner.training.self_critical import self_critical_loss


@pytest.fixture(params=["soft-attention", "hard-attention", "rnetvi", "rnetvhc"])
def any_model(request: pytest.FixtureRequest, encoder: Any) -> CaptionModel:
    sizes = {"projection": 16, "embedding": 16, "units": 24, "attention": 8}
    torch.manual_seed(1)
    model = CaptionModel(encoder, ModelConfig(decoder=request.param, **sizes), 30, SPECIAL)
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(4)  # otherwise all photos have the same caption
    return model.eval()


def photos(count: int) -> torch.Tensor:
    return 4 * torch.rand(count, 9, 8, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_greedy_sampling_equals_the_runtimes_greedy_search(any_model):
    encoded = any_model.start(photos(20))
    rambling = sample(any_model, encoded, 1, 9, 0.0).tokens[:, 0, 2:]
    ends: set[int] = set()
    for end in {*rambling.flatten().tolist()} - {SPECIAL.pad}:  # each piece in turn ends captions
        any_model.special = replace(SPECIAL, end=end)
        expected = search(
            model_steps(any_model, encoded), 20, SPECIAL.start, end, SearchOptions(beam_size=1, max_length=9)
        )
        drawn = sample(any_model, encoded, 1, 9, 0.0)
        lengths = (drawn.lengths - drawn.ended.long())[:, 0].tolist()
        said = [tuple(row[1 : 1 + n]) for row, n in zip(drawn.tokens[:, 0].tolist(), lengths, strict=True)]
        assert said == [hypothesis.ids for hypothesis in expected]
        assert drawn.ended[:, 0].tolist() == [hypothesis.finished for hypothesis in expected]
        ends |= set(lengths)
    assert len(ends) > 1  # some captions ended before others


@torch.no_grad()
def test_captions_are_sampled_with_the_models_probabilities(any_model):
    encoded = any_model.start(photos(1))
    torch.manual_seed(0)
    drawn = sample(any_model, encoded, 20_000, 2, 0.5)
    start = torch.full((1, 1), SPECIAL.start)
    logits, *_ = any_model.decoder.step(
        start, encoded.hidden[:, None], encoded.cell[:, None], encoded.regions, encoded.keys
    )
    expected = torch.softmax((logits[0, 0] + any_model.unsaid) / 0.5, 0)
    found = torch.bincount(drawn.tokens[0, :, 1], minlength=30) / 20_000
    assert torch.allclose(found, expected, atol=0.015)
    assert not found[[SPECIAL.pad, SPECIAL.start, SPECIAL.unk]].any()


@torch.no_grad()
def test_padding_is_never_drawn(any_model):
    any_model.unsaid.zero_()  # as with mask_special=false
    torch.manual_seed(0)
    drawn = sample(any_model, any_model.start(photos(20)), 20, 9, 1.0)
    assert torch.equal(drawn.lengths, drawn.tokens[..., 1:].ne(SPECIAL.pad).cumprod(2).sum(2))
    assert torch.isinf(drawable(any_model)[SPECIAL.pad])


@torch.no_grad()
def test_sampled_captions_are_complete_padded_and_longest_first(any_model):
    torch.manual_seed(0)
    with torch.no_grad():
        any_model.decoder.output.weight.mul_(0.2)  # flatter probabilities, so that END is sampled sometimes
        any_model.decoder.output.bias[SPECIAL.end] += 1.5
    drawn = sample(any_model, any_model.start(photos(6)), 7, 8, 1.0)
    assert drawn.tokens.shape[:2] == (6, 7)
    assert len(drawn.lengths.unique()) > 3
    assert bool((drawn.lengths.diff(dim=1) <= 0).all())
    for rows, lengths, ended in zip(drawn.tokens.tolist(), drawn.lengths.tolist(), drawn.ended.tolist(), strict=True):
        for row, length, end in zip(rows, lengths, ended, strict=True):
            assert row[0] == SPECIAL.start
            assert set(row[1 + length :]) <= {SPECIAL.pad}
            assert (row[length] == SPECIAL.end) == end
            assert SPECIAL.end not in row[1:length]
            assert end or length == 8


def test_each_caption_is_sampled_from_its_own_photo(any_model):
    """Rows move when other captions end, but each caption must keep its photo."""
    seen = photos(5)
    with torch.no_grad():
        together = sample(any_model, any_model.start(seen), 3, 9, 0.0)
        for index in range(5):
            alone = sample(any_model, any_model.start(seen[index : index + 1]), 3, 9, 0.0)
            length = alone.tokens.shape[2]
            assert torch.equal(alone.tokens[0], together.tokens[index, :, :length])


def test_the_gradient_equals_reinforces_formula(any_model):
    """The formula: the sum over words of (probability - one hot) / temperature, times the advantage."""
    seen, temperature = photos(2), 0.7
    torch.manual_seed(3)
    drawn = sample(any_model, any_model.start(seen), 3, 6, temperature)
    advantage = torch.randn(2, 3)
    teacher = any_model(seen, drawn.tokens)
    teacher.logits.retain_grad()
    self_critical_loss(teacher, any_model.unsaid, advantage, temperature, 6).backward()
    probability = torch.softmax((teacher.logits.detach() + any_model.unsaid) / temperature, 1)
    one_hot = torch.nn.functional.one_hot(teacher.targets, 30)
    expected = (probability - one_hot) / temperature * advantage.flatten()[teacher.caption][:, None] / 6
    assert torch.allclose(teacher.logits.grad, expected, atol=1e-6)
