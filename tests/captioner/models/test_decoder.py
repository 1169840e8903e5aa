"""The decoder gives the same scores in training and in search, whatever the padding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from captioner.config import ModelConfig, TrainConfig
from captioner.models import attention
from captioner.models import decoder as decoder_module
from captioner.models.attention import HardAttention, SoftAttention, draw
from captioner.models.caption_model import CaptionModel
from captioner.models.decoder import Encoded, Teacher, pad_captions
from captioner.models.encoder import Encoder
from captioner.text.tokenizer import SPECIAL
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


_LINEAR: dict[str, object] = {"output": "linear", "initial_tanh": False, "tie_words": False}
VARIANTS: dict[str, dict[str, object]] = {
    "soft-attention": {},
    "soft-attention, no gate": {"gate": False, "tie_words": False},
    "soft-attention, projection": {"initial_state": "projection", "projection": 8},
    "hard-attention": {"decoder": "hard-attention"},
    "hard-attention, no gate": {"decoder": "hard-attention", "gate": False, "tie_words": False},
    "rnetvi": {"decoder": "rnetvi", "projection": 6},
    "rnetvi, untied": {"decoder": "rnetvi", "projection": 6, "tie_words": False},
    "rnetvh": {"decoder": "rnetvh"},
    "rnetvh, projection": {"decoder": "rnetvh", "initial_state": "projection", "projection": 8},
    "rnetvhc": {"decoder": "rnetvhc", "tie_words": False},
    "rnetvhc, projection": {"decoder": "rnetvhc", "initial_state": "projection", "projection": 8},
    "as sgrvinod": {**_LINEAR, "project": "none", "attention_activation": "relu"},
    "as vvduc": {**_LINEAR, "decoder": "rnetvi", "embedding": 12, "projection": 12, "project": "relu"},
    "as ljm565": {**_LINEAR, "project": "none", "attention_layers": 2, "initial_state": "weighted", "output": "relu"},
}
every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=list(VARIANTS))


def caption(*words: int) -> list[int]:
    return [SPECIAL.start, *words, SPECIAL.end]


CAPTIONS = [
    [caption(4, 5, 6, 7, 8), caption(9, 4, 5), caption(10)],
    [caption(11, 10, 9, 8), caption(7, 6, 5, 4), caption()],
    [caption(4, SPECIAL.unk, 4), caption(5)],
]
TOKENS = pad_captions(CAPTIONS, SPECIAL.pad)


def logits_by_word(teacher: Teacher, tokens: Tensor) -> Tensor:
    """(photos, captions, length, vocabulary), NaN where nothing is said."""
    said = tokens[:, :, 1:] != SPECIAL.pad
    logits = torch.full((*said.shape, WORDS), torch.nan)
    logits[said] = teacher.logits[teacher.caption.argsort(stable=True)]
    return logits


def assert_same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5, equal_nan=True)


# --- The teacher


@pytest.mark.parametrize("layers", [1, 2, 3])
@every_variant
def test_teach_equals_step_word_by_word(make_model, features, layers, variant):
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


def test_every_word_knows_its_caption(model, features):
    teacher = model(features, TOKENS)
    words = [[] for _ in range(9)]
    for caption_, word in zip(teacher.caption.tolist(), teacher.targets.tolist(), strict=True):
        words[caption_].append(word)
    assert words == [c[1:] for photo in CAPTIONS for c in [*photo, *[[0]] * (3 - len(photo))]]


def test_targets_are_the_words_after_and_lengths_count_the_end(model, features):
    teacher = model(features, TOKENS)
    assert sorted(teacher.targets.tolist()) == sorted(word for photo in CAPTIONS for c in photo for word in c[1:])
    assert teacher.lengths.tolist() == [[6, 4, 2], [5, 5, 1], [4, 2, 0]]
    said = TOKENS[:, :, 1:] != SPECIAL.pad
    assert torch.equal(teacher.targets[teacher.caption.argsort(stable=True)], TOKENS[:, :, 1:][said])


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
def test_gradients_reach_every_parameter_that_trains(make_model, features, variant):
    model = make_model(**variant | {"tie_words": False}, layers=2, dropout=0.0).train()
    caption_loss(model(features, TOKENS), TrainConfig(), 29, 8).total.backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []
    assert all(parameter.grad is None for parameter in model.encoder.parameters())


def test_tied_words_are_one_matrix_and_stay_one_after_a_step(make_model, features):
    model = make_model(tie_words=True).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    caption_loss(model(features, TOKENS), TrainConfig(), 29, 8).total.backward()
    optimizer.step()
    assert model.decoder.output.weight is model.decoder.embedding.weight


@every_variant
def test_every_decoder_learns_what_belongs_to_which_photo(make_model, features, variant):
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
def test_gradients_of_two_halves_add_up_to_the_gradient_of_the_whole(make_model, features, monkeypatch, variant):
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
def test_half_precision_learns_about_the_same(make_model, features, monkeypatch, variant, sampling):
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


# --- Where the photo enters


@pytest.mark.parametrize("layers", [1, 2])
def test_rnetvi_reads_the_photo_as_it_reads_a_word(make_model, features, layers):
    model = make_model(decoder="rnetvi", projection=6, layers=layers)
    with torch.inference_mode():
        encoded = model.start(features)
        model.decoder.embedding.weight[4:7] = model.project(features.mean(1))
        zeros = torch.zeros(3, 1, layers, 8)
        _, hidden, cell, _ = model.decoder.step(torch.tensor([[4], [5], [6]]), zeros, zeros)
    assert_same(encoded.hidden, hidden.squeeze(1))
    assert_same(encoded.cell, cell.squeeze(1))
    assert encoded.cell.abs().min() > 0


def test_rnetvh_begins_with_an_empty_cell_and_rnetvhc_does_not(make_model, features):
    with torch.inference_mode():
        for decoder in ("rnetvh", "rnetvhc"):
            encoded = make_model(decoder=decoder, layers=2).start(features)
            assert (encoded.hidden.abs() > 0).all()
            assert (encoded.cell != 0).any() == (decoder == "rnetvhc")
            assert encoded.regions is encoded.keys is None


@pytest.mark.parametrize("decoder", ["rnetvhc", "soft-attention"])
def test_the_projection_itself_is_the_state_of_every_layer(make_model, features, decoder):
    model = make_model(decoder=decoder, initial_state="projection", projection=8, layers=2)
    with torch.inference_mode():
        encoded = model.start(features)
        mean = model.project(features).mean(1)
    for layer in range(2):
        assert_same(encoded.hidden[:, layer], mean.tanh())
        assert_same(encoded.cell[:, layer], mean)
    assert not [name for name, _ in model.named_parameters() if name.startswith("initial")]


@pytest.mark.parametrize("decoder", ["rnetvi", "rnetvh", "rnetvhc"])
def test_what_does_not_attend_sees_the_mean_of_the_regions_and_has_no_weights_for_them(make_model, features, decoder):
    model = make_model(decoder=decoder, projection=6)
    with torch.inference_mode():
        many, one = model.start(features), model.start(features.mean(1, keepdim=True))
    assert_same(many.hidden, one.hidden)
    assert not [name for name, _ in model.named_parameters() if "attention" in name or "context" in name]


def test_without_a_gate_there_are_no_weights_for_it(make_model):
    gates = [
        [n for n, _ in make_model(gate=gate).named_parameters() if "attention.gate" in n] for gate in (True, False)
    ]
    assert list(map(len, gates)) == [2, 0]


def test_photos_and_their_features_are_taken_alike(make_model, encoder):
    photos = torch.randint(256, (3, *encoder.size, 3), dtype=torch.uint8)
    with torch.inference_mode():
        seen, remembered = make_model()(photos, TOKENS), make_model()(encoder(photos), TOKENS)
    assert torch.equal(seen.logits, remembered.logits)


# --- The model's own words


FREE = pad_captions([[caption(4, 5, 6, 7)] * 3] * 3, SPECIAL.pad)


@every_variant
def test_sampling_all_words_is_writing_freely(make_model, features, variant, monkeypatch):
    monkeypatch.setattr(HardAttention, "which_draw", lambda *_: None)  # so that nothing else is drawn
    model = make_model(**variant, dropout=0.0).train()
    torch.manual_seed(5)
    taught = logits_by_word(model(features, FREE, 1.0), FREE)
    torch.manual_seed(5)
    with torch.inference_mode():
        encoded = model.start(features)
        hidden, cell = (state.unsqueeze(1).expand(-1, 3, -1, -1) for state in (encoded.hidden, encoded.cell))
        token, said = torch.full((3, 3), SPECIAL.start), []
        for t in range(5):
            logits, hidden, cell, _ = model.decoder.step(token, hidden, cell, encoded.regions, encoded.keys)
            assert_same(taught[:, :, t], logits)
            token = draw(logits + model.unsaid)
            torch.rand(3, 3)  # the coin that every word is tossed for
            said.append(token)
    drawn = torch.stack(said)
    assert len(drawn.unique()) > 1
    assert not torch.isin(drawn, torch.tensor([SPECIAL.pad, SPECIAL.start, SPECIAL.unk])).any()


def test_the_special_words_are_said_unless_they_are_masked(make_model, features):
    special = [SPECIAL.pad, SPECIAL.start, SPECIAL.unk]
    for masked in (True, False):
        model = make_model(mask_special=masked)
        with torch.inference_mode():
            zero = torch.zeros(1, 1, dtype=torch.int64)
            log_prob, candidate, *_ = model.candidates(zero[0], zero, zero + 5, model.start(features), WORDS)
        said = candidate[log_prob.isfinite()].tolist()
        assert sorted(said) == [word for word in range(WORDS) if not (masked and word in special)]
        assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("sampling", [0.25, 0.75])
def test_a_share_of_the_words_read_is_the_models_own(make_model, features, monkeypatch, sampling):
    monkeypatch.setattr(decoder_module, "draw", lambda logits: torch.full(logits.shape[:-1], 11))
    tokens = pad_captions([[caption(*[4] * 20)] * 50] * 3, SPECIAL.pad)
    model = make_model().train()
    seen: list[Tensor] = []
    model.decoder.embedding.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    targets = model(features, tokens, sampling).targets
    assert (seen[0] == SPECIAL.start).all()
    own = torch.stack(seen[1:])
    assert ((own == 11) | (own == 4)).all()
    assert (own == 11).float().mean().item() == pytest.approx(sampling, abs=0.03)
    assert not (targets == 11).any()


def test_words_are_sampled_in_training_alone_and_not_unless_asked(make_model, features):
    model = make_model(dropout=0.0)
    with torch.inference_mode():
        plain = model(features, TOKENS).logits
        assert torch.equal(model(features, TOKENS, 1.0).logits, plain)
        model.train()
        assert torch.equal(model(features, TOKENS, 0.0).logits, plain)
        assert not torch.equal(model(features, TOKENS, 1.0).logits, plain)


def test_sampling_that_draws_nothing_changes_nothing(make_model, features, monkeypatch):
    model = make_model(dropout=0.0, layers=2).train()
    plain, other = model(features, TOKENS), model(features, TOKENS, 1e-30)
    for value, same in zip(plain, other, strict=True):
        if value is not None:
            assert_same(value, same)


def test_draws_are_as_frequent_as_likely_and_never_what_is_ruled_out():
    logits = torch.tensor([0.5, -1.0, -torch.inf, 2.0, 0.0])
    drawn = draw(logits.expand(40000, 5))
    share = torch.bincount(drawn, minlength=5) / 40000
    torch.testing.assert_close(share, logits.softmax(0), rtol=0, atol=0.02)
    assert share[2] == 0


# --- Words hidden in training


def read_words(model: CaptionModel, features: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and targets of the decoder."""
    seen: list[Tensor] = []
    handle = model.decoder.embedding.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    targets = model(features, TOKENS).targets
    handle.remove()
    return seen[0], targets


def test_words_are_hidden_in_training_alone_and_are_still_to_be_said(make_model, features):
    model = make_model(word_dropout=1.0, decoder="rnetvhc")
    read, targets = read_words(model, features)
    assert read.equal(TOKENS[:, :, :-1])
    hidden, told = read_words(model.train(), features)
    special = torch.isin(TOKENS[:, :, :-1], torch.tensor([SPECIAL.pad, SPECIAL.start]))
    assert hidden[special].equal(TOKENS[:, :, :-1][special])
    assert (hidden[~special] == SPECIAL.unk).all()
    assert told.equal(targets)


def test_no_word_is_hidden_where_none_is_asked_to_be(make_model, features):
    assert read_words(make_model(word_dropout=0.0, decoder="rnetvhc").train(), features)[0].equal(TOKENS[:, :, :-1])


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


def test_the_gate_opens_and_closes_each_channel_by_itself():
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
