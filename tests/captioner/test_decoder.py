"""The decoder: what a teacher hears is what a search hears, and nothing is said by padding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from captioner.config import ModelConfig
from captioner.models.attention import SoftAttention
from captioner.models.caption_model import CaptionModel
from captioner.models.decoder import Encoded, Teacher
from captioner.models.encoder import Encoder
from captioner.text.words import SPECIAL
from captioner.training.batches import pad_captions
from captioner.training.losses import caption_loss

WORDS = 12
CONFIG = ModelConfig(projection=10, embedding=6, units=8, attention=5)
MakeModel = Callable[..., CaptionModel]


@pytest.fixture
def make_model(encoder: Encoder) -> MakeModel:
    def make(**settings: object) -> CaptionModel:
        torch.manual_seed(0)
        model = CaptionModel(encoder, replace(CONFIG, **settings), WORDS, SPECIAL).eval()
        with torch.no_grad():  # far from zero, or everything would look alike
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.mul_(3)
        return model

    return make


@pytest.fixture
def model(make_model: MakeModel) -> CaptionModel:
    return make_model()


@pytest.fixture
def features(encoder: Encoder) -> Tensor:
    return torch.rand(3, encoder.regions, encoder.channels, generator=torch.Generator().manual_seed(1)) * 4


def caption(*words: int) -> list[int]:
    return [SPECIAL.start, *words, SPECIAL.end]


CAPTIONS = [
    [caption(4, 5, 6, 7, 8), caption(9, 4, 5), caption(10)],
    [caption(11, 10, 9, 8), caption(7, 6, 5, 4), caption()],
    [caption(4, SPECIAL.unk, 4), caption(5)],
]
TOKENS = pad_captions(CAPTIONS, SPECIAL.pad)


def logits_by_word(teacher: Teacher, tokens: Tensor) -> Tensor:
    """(photos, captions, length, vocabulary), NaN where nothing is said; the teacher's rows go step by step."""
    said = (tokens[:, :, 1:] != SPECIAL.pad).permute(2, 0, 1)
    logits = torch.full((*said.shape, WORDS), torch.nan)
    logits[said] = teacher.logits
    return logits.permute(1, 2, 0, 3)


def assert_same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5, equal_nan=True)


# --- The teacher


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("tie_words", [True, False])
def test_teach_equals_step_word_by_word(make_model, features, layers, tie_words):
    model = make_model(layers=layers, tie_words=tie_words)
    with torch.inference_mode():
        encoded = model.start(features)
        teacher = model.decoder.teach(encoded, TOKENS, SPECIAL.pad)
        taught = logits_by_word(teacher, TOKENS)
        beams = TOKENS.shape[1]
        hidden, cell = (state.unsqueeze(1).expand(-1, beams, -1, -1) for state in (encoded.hidden, encoded.cell))
        attended = torch.zeros_like(teacher.attended)
        for t in range(TOKENS.shape[2] - 1):
            logits, hidden, cell, alpha = model.decoder.step(
                TOKENS[:, :, t], hidden, cell, encoded.regions, encoded.keys
            )
            said = TOKENS[:, :, t + 1] != SPECIAL.pad
            assert_same(taught[:, :, t][said], logits[said])
            assert taught[:, :, t][~said].isnan().all()
            attended += alpha * said.unsqueeze(2)
    assert_same(teacher.attended, attended)


def test_targets_are_the_words_after_and_lengths_count_the_end(model, features):
    teacher = model(features, TOKENS)
    assert sorted(teacher.targets.tolist()) == sorted(word for photo in CAPTIONS for c in photo for word in c[1:])
    assert teacher.lengths.tolist() == [[6, 4, 2], [5, 5, 1], [4, 2, 0]]
    expected = torch.full_like(TOKENS[:, :, 1:], SPECIAL.pad).permute(2, 0, 1)
    expected[(TOKENS[:, :, 1:] != SPECIAL.pad).permute(2, 0, 1)] = teacher.targets
    assert torch.equal(expected.permute(1, 2, 0), TOKENS[:, :, 1:])


def test_a_caption_does_not_depend_on_the_others_nor_on_padding(model, features):
    with torch.inference_mode():
        together = logits_by_word(model(features, TOKENS), TOKENS)
        for photo, captions in enumerate(CAPTIONS):
            for column, words in enumerate(captions):
                alone = torch.tensor([[words]])
                logits = logits_by_word(model(features[photo : photo + 1], alone), alone)
                assert_same(together[photo, column, : len(words) - 1], logits[0, 0])


def test_more_padding_and_empty_captions_change_nothing(model, features):
    padded = torch.nn.functional.pad(TOKENS, (0, 3, 0, 2), value=SPECIAL.pad)
    with torch.inference_mode():
        plain, more = model(features, TOKENS), model(features, padded)
    assert_same(logits_by_word(more, padded)[:, :3, : TOKENS.shape[2] - 1], logits_by_word(plain, TOKENS))
    assert_same(more.attended[:, :3], plain.attended)
    assert not more.attended[:, 3:].any()
    assert more.lengths[:, :3].equal(plain.lengths)


@pytest.mark.parametrize("order", [[2, 1, 0], [1, 2, 0]])
def test_the_order_of_a_photos_captions_changes_nothing(model, features, order):
    with torch.inference_mode():
        teacher, other = model(features, TOKENS), model(features, TOKENS[:, order])
    assert_same(logits_by_word(other, TOKENS[:, order]), logits_by_word(teacher, TOKENS)[:, order])
    assert_same(other.attended, teacher.attended[:, order])


def test_columns_in_which_all_captions_have_ended_are_not_computed(model, features, monkeypatch):
    widths = []
    advance = model.decoder._advance

    def counting(word_gates: Tensor, *rest: object) -> object:
        widths.append(word_gates.shape[1])
        return advance(word_gates, *rest)

    monkeypatch.setattr(model.decoder, "_advance", counting)
    model(features, torch.nn.functional.pad(TOKENS, (0, 4), value=SPECIAL.pad))
    assert widths == [3, 3, 2, 2, 2, 1]


def test_gradients_reach_every_parameter_that_trains(make_model, features):
    model = make_model(layers=2, tie_words=False)
    caption_loss(model(features, TOKENS), 0.1, 1.0).total.backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []
    assert all(parameter.grad is None for parameter in model.encoder.parameters())


def test_tied_words_are_one_matrix_and_stay_one_after_a_step(make_model, features):
    model = make_model(tie_words=True).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    caption_loss(model(features, TOKENS), 0.1, 1.0).total.backward()
    optimizer.step()
    assert model.decoder.output.weight is model.decoder.embedding.weight


# --- Words hidden in training


def read_words(model: CaptionModel, features: Tensor) -> tuple[Tensor, Tensor]:
    """What the decoder is given to read, and what to say."""
    seen: list[Tensor] = []
    handle = model.decoder.embedding.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    targets = model(features, TOKENS).targets
    handle.remove()
    return seen[0], targets


def test_words_are_hidden_in_training_alone_and_are_still_to_be_said(make_model, features):
    model = make_model(word_dropout=1.0)
    read, targets = read_words(model, features)
    assert read.equal(TOKENS[:, :, :-1])
    hidden, told = read_words(model.train(), features)
    special = torch.isin(TOKENS[:, :, :-1], torch.tensor([SPECIAL.pad, SPECIAL.start]))
    assert hidden[special].equal(TOKENS[:, :, :-1][special])
    assert (hidden[~special] == SPECIAL.unk).all()
    assert told.equal(targets)


def test_no_word_is_hidden_where_none_is_asked_to_be(make_model, features):
    assert read_words(make_model(word_dropout=0.0).train(), features)[0].equal(TOKENS[:, :, :-1])


# --- Attention


def test_attention_sums_to_one_over_the_regions():
    torch.manual_seed(0)
    attention = SoftAttention(channels=10, units=8, attention=5)
    regions = torch.randn(2, 7, 10) * 5
    context, alpha = attention(torch.randn(2, 4, 8), regions, attention.keys(regions))
    assert context.shape == (2, 4, 10)
    assert alpha.shape == (2, 4, 7)
    assert (alpha >= 0).all()
    torch.testing.assert_close(alpha.sum(2), torch.ones(2, 4))


def test_the_gate_opens_and_closes_each_channel_by_itself():
    attention = SoftAttention(channels=3, units=8, attention=5)
    torch.nn.init.zeros_(attention.gate.weight)
    with torch.no_grad():
        attention.gate.bias.copy_(torch.tensor([100.0, 0.0, -100.0]))
    regions = torch.randn(2, 7, 3)
    context, alpha = attention(torch.randn(2, 4, 8), regions, attention.keys(regions))
    torch.testing.assert_close(context, (alpha @ regions) * torch.tensor([1.0, 0.5, 0.0]))


# --- Candidates


def candidates(model: CaptionModel, encoded: Encoded, row: list[int], parent: list[list[int]], k: int):
    token = torch.full((len(parent), len(parent[0])), SPECIAL.start)
    with torch.inference_mode():
        return model.candidates(torch.tensor(row), torch.tensor(parent), token, encoded, k)


def test_candidates_are_words_and_the_end_and_their_probabilities_sum_to_one(model, features):
    with torch.no_grad():  # even where the network would say nothing else
        model.decoder.output.bias[[SPECIAL.pad, SPECIAL.start, SPECIAL.unk]] = 50
        encoded = model.start(features)
    log_prob, candidate, *_ = candidates(model, encoded, [0, 1, 2], [[0], [1], [2]], WORDS - 3)
    said = {SPECIAL.end, *range(4, WORDS)}
    assert all(set(beam) == said for photo in candidate.tolist() for beam in photo)
    torch.testing.assert_close(log_prob.exp().sum(2), torch.ones(3, 1))
    assert (log_prob.diff(dim=2) <= 0).all()


def test_candidates_go_on_from_the_chosen_states_of_the_chosen_photos(model, features):
    with torch.inference_mode():
        encoded = model.start(features)
        encoded = encoded._replace(hidden=torch.randn(6, 1, 8), cell=torch.randn(6, 1, 8))
    log_prob, candidate, hidden, cell, alpha = candidates(model, encoded, [0, 2], [[1, 1], [5, 4]], 2)
    assert log_prob.shape == candidate.shape == (2, 2, 2)
    assert hidden.shape == cell.shape == (4, 1, 8)
    assert alpha.shape == (2, 2, encoded.regions.shape[1])
    for beam, (photo, state) in enumerate([(0, 1), (0, 1), (2, 5), (2, 4)]):
        one = Encoded(*(t[[state]] for t in encoded[:2]), *(t[[photo]] for t in encoded[2:]))
        expected = candidates(model, one, [0], [[0]], 2)
        assert_same(log_prob.flatten(0, 1)[beam], expected[0].flatten())
        assert candidate.flatten(0, 1)[beam].equal(expected[1].flatten())
        assert_same(hidden[beam], expected[2][0])
        assert_same(alpha.flatten(0, 1)[beam], expected[4].flatten())
