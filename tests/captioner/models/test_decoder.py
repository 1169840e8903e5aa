"""The decoder computes the same scores in training and in search, with any padding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from captioner.config import TrainConfig
from captioner.models import attention
from captioner.models import decoder as decoder_module
from captioner.models.attention import HardAttention, SoftAttention
from captioner.models.caption_model import CaptionModel
from captioner.models.decoder import Encoded, pad_captions
from captioner.text.tokenizer import SPECIAL
from captioner.training.losses import caption_loss
from tests.captioner.models.variants import CAPTIONS, TOKENS, WORDS, assert_same, caption, every_variant, logits_by_word

# --- Teacher forcing


@pytest.mark.parametrize("layers", [1, 2, 3])
@every_variant
def test_teacher_forcing_equals_the_steps_of_a_search_at_every_word(make_model, features, layers, variant):
    model = make_model(**variant, layers=layers)
    with torch.inference_mode():
        encoded = model.start(features)
        teacher = model.decoder.teach(encoded, TOKENS, SPECIAL.pad)
        taught = logits_by_word(teacher, TOKENS)
        beams = TOKENS.shape[1]
        hidden, cell = (state.unsqueeze(1).expand(-1, beams, -1, -1) for state in (encoded.hidden, encoded.cell))
        attended = torch.zeros_like(teacher.attended) if model.attends else None
        for t in range(TOKENS.shape[2] - 1):
            logits, hidden, cell, alpha = model.decoder.step(
                TOKENS[:, :, t], hidden, cell, encoded.regions, encoded.keys
            )
            said = TOKENS[:, :, t + 1] != SPECIAL.pad
            assert_same(taught[:, :, t][said], logits[said])
            assert taught[:, :, t][~said].isnan().all()
            if model.attends:
                attended += alpha * said.unsqueeze(2)
    assert model.attends == (teacher.attended is not None) == (alpha is not None)
    if model.attends:
        assert_same(teacher.attended, attended)


def test_every_word_belongs_to_its_caption_and_lengths_count_the_end(model, features):
    teacher = model(features, TOKENS)
    assert teacher.lengths.tolist() == [[6, 4, 2], [5, 5, 1], [4, 2, 0]]
    words = [[] for _ in range(9)]
    for caption_, word in zip(teacher.caption.tolist(), teacher.targets.tolist(), strict=True):
        words[caption_].append(word)
    assert words == [c[1:] for photo in CAPTIONS for c in [*photo, *[[0]] * (3 - len(photo))]]


def test_a_captions_scores_do_not_depend_on_other_captions_or_padding(model, features):
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


def test_columns_in_which_all_captions_have_ended_are_not_computed(make_model, features, monkeypatch):
    model = make_model(decoder="rnetvhc")
    widths = []
    advance = model.decoder._advance

    def counting(word_gates: Tensor, *rest: object) -> object:
        widths.append(word_gates.shape[1])
        return advance(word_gates, *rest)

    monkeypatch.setattr(model.decoder, "_advance", counting)
    model(features, torch.nn.functional.pad(TOKENS, (0, 4), value=SPECIAL.pad))
    assert widths == [3, 3, 2, 2, 2, 1]


@every_variant
def test_gradients_reach_every_trainable_parameter(make_model, features, variant):
    model = make_model(**variant | {"tie_words": False}, layers=2, dropout=0.0).train()
    caption_loss(model(features, TOKENS), TrainConfig(), 29, 8).total.backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []
    assert all(parameter.grad is None for parameter in model.encoder.parameters())


def test_tied_words_share_one_matrix_after_an_optimizer_step(make_model, features):
    model = make_model(tie_words=True).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    caption_loss(model(features, TOKENS), TrainConfig(), 29, 8).total.backward()
    optimizer.step()
    assert model.decoder.output.weight is model.decoder.embedding.weight


@every_variant
def test_every_decoder_learns_which_caption_belongs_to_which_photo(make_model, features, variant):
    model = make_model(**variant, dropout=0.0).train()
    captions = pad_captions([[caption(4, 5, 6)], [caption(7, 8)], [caption(4, 9, 10, 11)]], SPECIAL.pad)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.03)
    train = TrainConfig(label_smoothing=0.0)
    for _ in range(150):
        optimizer.zero_grad()
        caption_loss(model(features, captions), train, 12, 3).total.backward()
        optimizer.step()
    losses = caption_loss(model.eval()(features, captions), train, 12, 3)
    assert losses.correct == 12
    assert losses.nats / 12 < 0.2


@every_variant
def test_gradients_of_two_parts_add_up_to_the_gradient_of_the_batch(make_model, features, monkeypatch, variant):
    monkeypatch.setattr(HardAttention, "expected_share", 0.0)
    monkeypatch.setattr(attention, "draw", lambda logits: logits.argmax(-1))  # independent of the batch
    model = make_model(**variant, dropout=0.0).train()
    gradients = []
    for parts in ([slice(0, 3)], [slice(0, 1), slice(1, 3)]):
        model.zero_grad()
        for part in parts:
            teacher = model(features[part], TOKENS[part])
            caption_loss(teacher, TrainConfig(), 29, 8, baseline=-3.0).total.backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


@every_variant
@pytest.mark.parametrize("sampling", [0.0, 0.5])
def test_the_loss_in_half_precision_is_close_to_fp32(make_model, features, monkeypatch, variant, sampling):
    monkeypatch.setattr(HardAttention, "which_draw", lambda *_: None)
    monkeypatch.setattr(decoder_module, "draw", lambda logits: torch.full(logits.shape[:-1], 4))
    model = make_model(**variant, layers=2, dropout=0.0).train()
    losses = []
    for half in (False, True):
        model.zero_grad()
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            teacher = model(features, TOKENS, sampling)
        losses.append(caption_loss(teacher, TrainConfig(), 29, 8).total)
        losses[-1].backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=0.05)
    assert losses[1].dtype == torch.float32


# --- How the photo enters the decoder


@pytest.mark.parametrize("layers", [1, 2])
def test_rnetvi_reads_the_photo_as_a_first_word(make_model, features, layers):
    model = make_model(decoder="rnetvi", projection=6, layers=layers)
    with torch.inference_mode():
        encoded = model.start(features)
        model.decoder.embedding.weight[4:7] = model.project(features.mean(1))
        zeros = torch.zeros(3, 1, layers, 8)
        _, hidden, cell, _ = model.decoder.step(torch.tensor([[4], [5], [6]]), zeros, zeros)
    assert_same(encoded.hidden, hidden.squeeze(1))
    assert_same(encoded.cell, cell.squeeze(1))
    assert encoded.cell.abs().min() > 0


def test_rnetvh_starts_from_a_zero_cell_state_and_rnetvhc_does_not(make_model, features):
    with torch.inference_mode():
        for decoder in ("rnetvh", "rnetvhc"):
            encoded = make_model(decoder=decoder, layers=2).start(features)
            assert (encoded.hidden.abs() > 0).all()
            assert (encoded.cell != 0).any() == (decoder == "rnetvhc")
            assert encoded.regions is encoded.keys is None


@pytest.mark.parametrize("decoder", ["rnetvhc", "soft-attention"])
def test_the_mean_projection_is_the_initial_state_of_every_layer(make_model, features, decoder):
    model = make_model(decoder=decoder, initial_state="projection", projection=8, layers=2)
    with torch.inference_mode():
        encoded = model.start(features)
        mean = model.project(features).mean(1)
    for layer in range(2):
        assert_same(encoded.hidden[:, layer], mean.tanh())
        assert_same(encoded.cell[:, layer], mean)
    assert not [name for name, _ in model.named_parameters() if name.startswith("initial")]


@pytest.mark.parametrize("decoder", ["rnetvi", "rnetvh", "rnetvhc"])
def test_other_decoders_average_regions_and_have_no_attention_weights(make_model, features, decoder):
    model = make_model(decoder=decoder, projection=6)
    with torch.inference_mode():
        many, one = model.start(features), model.start(features.mean(1, keepdim=True))
    assert_same(many.hidden, one.hidden)
    assert not [name for name, _ in model.named_parameters() if "attention" in name or "context" in name]


def test_without_a_gate_there_are_no_gate_weights(make_model):
    gates = [
        [n for n, _ in make_model(gate=gate).named_parameters() if "attention.gate" in n] for gate in (True, False)
    ]
    assert list(map(len, gates)) == [2, 0]


def test_photos_and_their_features_give_the_same_logits(make_model, encoder):
    photos = torch.randint(256, (3, *encoder.size, 3), dtype=torch.uint8)
    with torch.inference_mode():
        seen, remembered = make_model()(photos, TOKENS), make_model()(encoder(photos), TOKENS)
    assert torch.equal(seen.logits, remembered.logits)


# --- Attention


def test_attention_sums_to_one_over_the_regions():
    torch.manual_seed(0)
    attention = SoftAttention(channels=10, units=8, attention=5)
    regions = torch.randn(2, 7, 10) * 5
    context, alpha, choice = attention(torch.randn(2, 4, 8), regions, attention.keys(regions))
    assert choice is None
    assert context.shape == (2, 4, 10)
    assert alpha.shape == (2, 4, 7)
    assert (alpha >= 0).all()
    torch.testing.assert_close(alpha.sum(2), torch.ones(2, 4))


def test_the_gate_scales_each_channel_separately():
    attention = SoftAttention(channels=3, units=8, attention=5)
    torch.nn.init.zeros_(attention.gate.weight)
    with torch.no_grad():
        attention.gate.bias.copy_(torch.tensor([100.0, 0.0, -100.0]))
    regions = torch.randn(2, 7, 3)
    context, alpha, _ = attention(torch.randn(2, 4, 8), regions, attention.keys(regions))
    torch.testing.assert_close(context, (alpha @ regions) * torch.tensor([1.0, 0.5, 0.0]))


# --- Candidates


def candidates(model: CaptionModel, encoded: Encoded, row: list[int], parent: list[list[int]], k: int):
    token = torch.full((len(parent), len(parent[0])), SPECIAL.start)
    with torch.inference_mode():
        return model.candidates(torch.tensor(row), torch.tensor(parent), token, encoded, k)


@pytest.mark.parametrize("masked", [True, False])
def test_candidates_are_the_allowed_words_with_probabilities_that_sum_to_one(make_model, features, masked):
    model, special = make_model(mask_special=masked), [SPECIAL.pad, SPECIAL.start, SPECIAL.unk]
    with torch.no_grad():
        if masked:  # even if the network prefers the special pieces
            model.decoder.output.bias[special] = 50
        encoded = model.start(features)
    log_prob, candidate, *_ = candidates(model, encoded, [0, 1, 2], [[0], [1], [2]], WORDS)
    said = set(range(WORDS)) - set(special if masked else [])
    assert all(set(c[p.isfinite()].tolist()) == said for c, p in zip(candidate[:, 0], log_prob[:, 0], strict=True))
    torch.testing.assert_close(log_prob.exp().sum(2), torch.ones(3, 1))
    log_prob = log_prob[..., : len(said)]
    assert (log_prob.diff(dim=2) <= 0).all()


def test_candidates_continue_from_the_chosen_states_and_photos(model, features):
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
