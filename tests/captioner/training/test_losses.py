"""The losses equal values computed by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from captioner.config import ModelConfig, TrainConfig
from captioner.models.caption_model import CaptionModel
from captioner.models.decoder import Teacher
from captioner.models.encoder import Encoder
from captioner.text.tokenizer import SPECIAL
from captioner.training.losses import Losses, attention_spread, caption_loss


def teacher(logits: Tensor, targets: list[int], attended: Tensor | None, lengths: list[list[int]]) -> Teacher:
    """Returns predictions for captions of these lengths, a caption's words in order."""
    count = torch.tensor(lengths)
    caption = torch.arange(count.numel()).repeat_interleave(count.flatten())
    return Teacher(logits, torch.tensor(targets), attended, count, caption)


def loss_of(given: Teacher, train: TrainConfig, baseline: float = 0.0) -> Losses:
    """Returns the losses of a batch that is a whole step."""
    return caption_loss(given, train, len(given.targets), int((given.lengths > 0).sum()), baseline)


PLAIN = TrainConfig(label_smoothing=0.0, attention_penalty=0.0)


def evenly(photos: int, captions: int) -> Tensor:
    """Returns attention that sums to 1 in every region."""
    return torch.ones(photos, captions, 4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_label_smoothing_gives_every_word_an_equal_share(smoothing):
    logits = torch.tensor([[2.0, 0.0, -1.0, 0.5], [0.0, 1.0, 0.0, 3.0]])
    targets = [0, 1]
    losses = loss_of(teacher(logits, targets, evenly(1, 1), [[2]]), TrainConfig(label_smoothing=smoothing))
    expected, plain = 0.0, 0.0
    for row, target in zip(logits.tolist(), targets, strict=True):
        total = math.log(sum(math.exp(logit) for logit in row))
        nats = [total - logit for logit in row]
        expected += (1 - smoothing) * nats[target] + smoothing * sum(nats) / len(nats)
        plain += nats[target]
    assert losses.total.item() == pytest.approx(expected / 2, abs=1e-6)
    assert losses.nats.item() == pytest.approx(plain, abs=1e-6)  # never smoothed
    assert losses.correct.item() == 1


def test_only_the_total_has_a_gradient():
    logits = torch.randn(2, 4, requires_grad=True)
    losses = loss_of(teacher(logits, [0, 1], evenly(1, 1), [[2]]), TrainConfig())
    assert [loss.requires_grad for loss in losses] == [True, False, False]


def test_the_penalty_is_the_mean_squared_difference_of_regions_from_one():
    attended = torch.tensor([[[0.5, 1.5, 1.0, 1.0], [0.0, 0.0, 0.0, 2.0]]])
    given = teacher(torch.zeros(3, 5), [1, 2, 3], attended, [[1, 2]])
    by_hand = (0.25 + 0.25) / 4 + (1 + 1 + 1 + 1) / 4
    assert attention_spread(attended, given.lengths, torch.ones(len(given.lengths))).item() == pytest.approx(by_hand)
    without = loss_of(given, PLAIN).total
    penalised = loss_of(given, replace(PLAIN, attention_penalty=3.0)).total
    assert (penalised - without).item() == pytest.approx(3 * by_hand / 2, abs=1e-6)


def test_the_penalty_is_zero_if_attention_sums_to_one_in_every_region():
    assert attention_spread(evenly(2, 3), torch.ones(2, 3), torch.ones(2)).item() == 0


def test_without_attention_there_is_no_penalty():
    logits = torch.randn(3, 5)
    attending, blind = (teacher(logits, [1, 2, 3], attended, [[1, 2]]) for attended in (evenly(1, 2) * 9, None))
    assert loss_of(blind, TrainConfig()).total == loss_of(attending, TrainConfig(attention_penalty=0.0)).total


def test_empty_captions_do_not_change_the_loss():
    logits, attended = torch.randn(3, 5), torch.rand(1, 2, 4) * 2
    plain = loss_of(teacher(logits, [1, 2, 3], attended, [[2, 1]]), TrainConfig())
    padded = torch.cat([attended, torch.zeros(1, 3, 4)], 1)
    assert loss_of(teacher(logits, [1, 2, 3], padded, [[2, 1, 0, 0, 0]]), TrainConfig()) == plain


def test_half_precision_logits_are_summed_in_full_precision():
    logits = torch.randn(50, 1000, generator=torch.Generator().manual_seed(0))
    targets = list(range(50))
    full, half = (
        loss_of(teacher(given, targets, evenly(1, 1), [[50]]), TrainConfig()).total
        for given in (logits.bfloat16().float(), logits.bfloat16())
    )
    assert full == half


def test_a_part_is_divided_by_the_totals_of_the_whole_step():
    given = teacher(torch.randn(3, 5), [1, 2, 3], torch.rand(1, 2, 4), [[2, 1]])
    alone, part = loss_of(given, TrainConfig()), caption_loss(given, TrainConfig(), 12, 8)
    assert part.total.item() == pytest.approx(alone.total.item() / 4, rel=1e-6)
    assert part[1:] == alone[1:]


@pytest.fixture
def model(encoder: Encoder) -> CaptionModel:
    torch.manual_seed(0)
    return CaptionModel(encoder, ModelConfig(projection=10, embedding=6, units=8, attention=5), 12, SPECIAL).eval()


FEATURES = torch.rand(2, 9, 8, generator=torch.Generator().manual_seed(0)) * 4
TOKENS = torch.tensor([[[1, 4, 5, 6, 2], [1, 7, 2, 0, 0]], [[1, 8, 9, 2, 0], [1, 4, 2, 0, 0]]])


def test_the_penalty_has_a_gradient_for_the_attention(model):
    given = model(FEATURES, TOKENS)
    attention_spread(given.attended, given.lengths, torch.ones(len(given.lengths))).backward()
    gradients = {name: parameter.grad for name, parameter in model.decoder.attention.named_parameters()}
    for name in ("key.weight", "query.weight", "score.weight"):
        assert gradients[name] is not None
        assert gradients[name].abs().max() > 1e-7
    assert model.project[0].weight.grad.abs().max() > 1e-7  # and, through the keys, for the regions


def test_padding_changes_neither_loss_nor_gradient(model):
    gradients = []
    for tokens in (TOKENS, torch.nn.functional.pad(TOKENS, (0, 3, 0, 2), value=SPECIAL.pad)):
        model.zero_grad()
        losses = loss_of(model(FEATURES, tokens), TrainConfig())
        losses.total.backward()
        gradients.append([losses.total, *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-6)


def test_a_weight_of_two_counts_a_photo_twice():
    torch.manual_seed(0)
    logits, attended = torch.randn(5, 4), torch.rand(2, 1, 4)
    given = teacher(logits, [0, 1, 2, 3, 0], attended, [[2], [3]])
    twice = teacher(
        torch.cat([logits, logits[2:]]), [0, 1, 2, 3, 0, 2, 3, 0], torch.cat([attended, attended[1:]]), [[2], [3], [3]]
    )
    weighted = caption_loss(given, TrainConfig(), 2 + 2 * 3, 1 + 2, weights=torch.tensor([1.0, 2.0]))
    assert weighted.total.item() == pytest.approx(caption_loss(twice, TrainConfig(), 8, 3).total.item(), abs=1e-6)
    assert weighted.nats.item() == pytest.approx(caption_loss(given, TrainConfig(), 5, 2).nats.item())  # not weighted
