"""Hard attention samples one region and has an unbiased gradient."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from captioner.config import ModelConfig, TrainConfig
from captioner.models import attention as attention_module
from captioner.models.attention import HardAttention
from captioner.models.caption_model import CaptionModel
from captioner.models.decoder import Teacher
from captioner.models.encoder import Encoder
from captioner.text.tokenizer import SPECIAL
from captioner.training.losses import caption_loss

REGIONS = 3
FEATURES = torch.rand(1, REGIONS, 8, generator=torch.Generator().manual_seed(1)) * 4
TOKENS = torch.tensor([[[SPECIAL.start, 4, SPECIAL.end]]])  # two words, so nine sequences of regions
REWARD_ALONE = TrainConfig(label_smoothing=0.0, attention_penalty=0.0, attention_entropy=0.0)


@pytest.fixture
def model(encoder: Encoder) -> CaptionModel:
    """Returns a model in training mode, without dropout."""
    torch.manual_seed(0)
    config = ModelConfig(
        decoder="hard-attention", projection=10, embedding=6, units=8, attention=5, dropout=0.0, word_dropout=0.0
    )
    model = CaptionModel(encoder, config, 9, SPECIAL)
    with torch.no_grad():  # weights far from zero, or all regions would look alike
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(3)
    return model.train()


@pytest.fixture
def always_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HardAttention, "expected_share", 0.0)


def every_way_to_look(
    model: CaptionModel, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[tuple[int, ...], Teacher]]:
    """Yields every sequence of regions that can be drawn, with its predictions."""
    for regions in itertools.product(range(REGIONS), repeat=2):
        left = list(regions)
        monkeypatch.setattr(
            attention_module, "draw", lambda logits, left=left: torch.full(logits.shape[:-1], left.pop(0))
        )
        yield regions, model(FEATURES, TOKENS)


def gradient(of: Tensor, model: CaptionModel) -> list[Tensor]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(of, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]


def log_likelihood(teacher: Teacher) -> Tensor:
    return teacher.logits.log_softmax(1).gather(1, teacher.targets[:, None]).sum()


# --- Gradients


def test_the_probabilities_of_all_sequences_of_regions_sum_to_one(model, always_drawn, monkeypatch):
    probability = [teacher.glance_log_prob.exp().item() for _, teacher in every_way_to_look(model, monkeypatch)]
    assert len(probability) == 9
    assert sum(probability) == pytest.approx(1, abs=1e-5)
    assert sorted(probability)[-1] < 0.9, "one way alone would prove nothing"


@pytest.mark.parametrize("baseline", [0.0, -5.0])
def test_the_expected_gradient_is_the_gradient_of_the_expected_loss(model, always_drawn, monkeypatch, baseline):
    analytic, expected = [], []
    for _, teacher in every_way_to_look(model, monkeypatch):
        probability = teacher.glance_log_prob.exp().squeeze()
        loss = caption_loss(teacher, REWARD_ALONE, 2, 1, baseline).total
        expected.append([probability.detach() * g for g in gradient(loss, model)])
    for _, teacher in every_way_to_look(model, monkeypatch):
        probability = teacher.glance_log_prob.exp().squeeze()
        analytic.append(gradient(-probability * log_likelihood(teacher) / 2, model))
    for found, exact in zip(zip(*expected, strict=True), zip(*analytic, strict=True), strict=True):
        torch.testing.assert_close(sum(found), sum(exact), rtol=1e-4, atol=1e-6)
    asks = [n for n, p in model.named_parameters() if p.requires_grad].index("decoder.attention.query.weight")
    assert sum(exact_[asks] for exact_ in analytic).abs().max() > 1e-3


def test_without_a_reward_no_gradient_reaches_the_attention_scores(model, always_drawn):
    teacher = model(FEATURES, TOKENS)
    losses = caption_loss(teacher, TrainConfig(attention_penalty=0, attention_entropy=0, attention_reward=0), 2, 1)
    losses.total.backward()
    assert not model.decoder.attention.score.weight.grad.any()
    assert model.decoder.attention.gate.weight.grad.any()


def test_captions_likelier_than_the_baseline_make_their_regions_likelier(model, always_drawn, monkeypatch):
    for above in (True, False):
        monkeypatch.undo()
        monkeypatch.setattr(HardAttention, "expected_share", 0.0)
        torch.manual_seed(3)
        teacher = model(FEATURES, TOKENS)
        baseline = log_likelihood(teacher).item() + (-1 if above else 1)
        (towards,) = torch.autograd.grad(
            caption_loss(teacher, REWARD_ALONE, 2, 1, baseline).total, teacher.glance_log_prob
        )
        assert towards.item() == pytest.approx(-0.5 if above else 0.5, abs=1e-5)


def test_the_entropy_of_alpha_lowers_the_loss(model, always_drawn):
    teacher = model(FEATURES, TOKENS)
    more = TrainConfig(attention_entropy=3.0)
    difference = (
        caption_loss(teacher, TrainConfig(attention_entropy=0), 2, 1).total - caption_loss(teacher, more, 2, 1).total
    )
    assert difference.item() == pytest.approx(3 * teacher.entropy.sum().item() / 2, abs=1e-6)
    even = HardAttention(8, 8, 5)
    torch.nn.init.zeros_(even.score.weight)
    glance = even(torch.randn(1, 1, 8), FEATURES, even.keys(FEATURES), torch.ones(1, 1, dtype=torch.bool))
    assert glance.choice[0, 0, 1].item() == pytest.approx(torch.tensor(float(REGIONS)).log().item())


# --- Which captions draw


def test_half_of_the_captions_use_soft_attention(model, encoder):
    captions = 400
    teacher = model(FEATURES, TOKENS.expand(1, captions, 3))
    drawn = teacher.glance_log_prob[0] != 0
    assert drawn.float().mean().item() == pytest.approx(0.5, abs=0.1)
    logits = teacher.logits.view(2, captions, -1)
    soft = CaptionModel(encoder, ModelConfig(projection=10, embedding=6, units=8, attention=5, dropout=0.0), 9, SPECIAL)
    soft.load_state_dict(model.state_dict())
    expected = soft(FEATURES, TOKENS).logits.view(2, 1, -1)
    torch.testing.assert_close(logits[:, ~drawn], expected.expand(2, int((~drawn).sum()), -1), rtol=0, atol=1e-5)
    assert ((logits[:, drawn] - expected).abs().amax((0, 2)) > 1e-3).all()
    assert len(logits[1, drawn].mul(1e4).round().unique(dim=0)) == REGIONS**2


def test_only_captions_that_drew_regions_are_rewarded(model):
    teacher = model(FEATURES, TOKENS.expand(1, 40, 3))
    (gradients,) = torch.autograd.grad(
        caption_loss(teacher, REWARD_ALONE, 80, 40).total, teacher.glance_log_prob, retain_graph=True
    )
    assert gradients.any()
    soft = teacher.glance_log_prob[0] == 0
    scores = model.decoder.attention.score.weight
    (through,) = torch.autograd.grad(teacher.glance_log_prob[0, soft].sum(), scores)
    assert not through.any()


def test_padding_neither_draws_regions_nor_adds_entropy(model, always_drawn):
    padded = torch.nn.functional.pad(TOKENS, (0, 3, 0, 2), value=SPECIAL.pad)
    torch.manual_seed(0)
    teacher = model(FEATURES, padded)
    assert teacher.glance_log_prob.shape == teacher.entropy.shape == (1, 3)
    assert not teacher.glance_log_prob[0, 1:].any()
    assert not teacher.entropy[0, 1:].any()
    assert teacher.entropy[0, 0] > 0


def test_half_precision_draws_and_has_finite_gradients(model, always_drawn):
    with torch.autocast("cpu", torch.bfloat16):
        teacher = model(FEATURES, TOKENS.expand(1, 20, 3))
    assert teacher.glance_log_prob.dtype == teacher.entropy.dtype == torch.float32
    caption_loss(teacher, TrainConfig(), 40, 20, -3.0).total.backward()
    assert model.decoder.attention.query.weight.grad.isfinite().all()


# --- Inference


def test_inference_uses_the_likeliest_region_and_reports_all_probabilities(model):
    attention = model.eval().decoder.attention
    hidden, regions = torch.randn(1, 5, 8), model.project(FEATURES)
    context, alpha, choice = attention(hidden, regions, attention.keys(regions))
    assert choice is None
    torch.testing.assert_close(alpha.sum(2), torch.ones(1, 5))
    assert alpha.max() < 1
    beta = torch.sigmoid(attention.gate(hidden))
    assert torch.equal(context, beta * regions[0, alpha.argmax(2)])


def test_inference_draws_nothing(model):
    model.eval()
    first, second = model(FEATURES, TOKENS), model(FEATURES, TOKENS)
    assert torch.equal(first.logits, second.logits)
    assert first.glance_log_prob is first.entropy is None


def test_hard_attention_has_the_weights_of_soft_attention(model, encoder):
    soft = CaptionModel(encoder, ModelConfig(projection=10, embedding=6, units=8, attention=5), 9, SPECIAL)
    assert list(soft.state_dict()) == list(model.state_dict())


def test_the_reward_teaches_which_region_to_look_at(encoder, always_drawn):
    """One channel marks the region that holds the right word; only the reward shows that looking there pays."""
    torch.manual_seed(0)
    config = ModelConfig(
        decoder="hard-attention", projection=16, embedding=8, units=16, attention=8, dropout=0.0, gate=False
    )
    model = CaptionModel(encoder, config, 8, SPECIAL).train()
    for state in (model.initial_hidden, model.initial_cell):  # the photo enters only through the attention
        torch.nn.init.zeros_(state.weight)
        state.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    photos, captions = 48, 1
    train, baseline = TrainConfig(label_smoothing=0, attention_penalty=0, attention_entropy=0.02), 0.0
    for _ in range(200):
        word, where = torch.randint(4, 8, (photos,)), torch.randint(REGIONS, (photos,))
        features = torch.zeros(photos, REGIONS, 8)
        features[:, :, 4:] = torch.nn.functional.one_hot(torch.randint(4, (photos, REGIONS)), 4) * 3.0
        features[range(photos), where, 4:] = torch.nn.functional.one_hot(word - 4, 4) * 3.0
        features[range(photos), where, 1] = 3.0
        tokens = torch.stack([torch.full_like(word, SPECIAL.start), word], 1)[:, None]
        teacher = model(features, tokens)
        losses = caption_loss(teacher, train, photos, photos * captions, baseline)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        baseline = 0.9 * baseline - 0.1 * losses.nats.item() / photos
    alpha = model.eval()(features, tokens).attended[:, 0]
    assert (alpha.argmax(1) == where).float().mean() > 0.9
