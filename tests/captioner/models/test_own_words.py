"""In training, a decoder reads its own words and hides words, each with the given probability."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from captioner.models import decoder as decoder_module
from captioner.models.attention import HardAttention, draw
from captioner.models.caption_model import CaptionModel
from captioner.models.decoder import pad_captions
from captioner.text.tokenizer import SPECIAL
from tests.captioner.models.variants import TOKENS, assert_same, caption, every_variant, logits_by_word

FREE = pad_captions([[caption(4, 5, 6, 7)] * 3] * 3, SPECIAL.pad)


@every_variant
def test_sampling_every_word_equals_free_running(make_model, features, variant, monkeypatch):
    monkeypatch.setattr(HardAttention, "which_draw", lambda *_: None)  # so that only words are drawn
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
            torch.rand(3, 3)  # whether to sample, drawn for every word
            said.append(token)
    drawn = torch.stack(said)
    assert len(drawn.unique()) > 1
    assert not torch.isin(drawn, torch.tensor([SPECIAL.pad, SPECIAL.start, SPECIAL.unk])).any()


@pytest.mark.parametrize("sampling", [0.25, 0.75])
def test_the_given_share_of_the_words_read_is_the_models_own(make_model, features, monkeypatch, sampling):
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


def test_words_are_sampled_only_in_training_and_only_if_requested(make_model, features):
    model = make_model(dropout=0.0)
    with torch.inference_mode():
        plain = model(features, TOKENS).logits
        assert torch.equal(model(features, TOKENS, 1.0).logits, plain)
        model.train()
        assert torch.equal(model(features, TOKENS, 0.0).logits, plain)
        assert not torch.equal(model(features, TOKENS, 1.0).logits, plain)


def test_a_tiny_sampling_probability_changes_nothing(make_model, features, monkeypatch):
    model = make_model(dropout=0.0, layers=2).train()
    plain, other = model(features, TOKENS), model(features, TOKENS, 1e-30)
    for value, same in zip(plain, other, strict=True):
        if value is not None:
            assert_same(value, same)


def test_draws_follow_the_probabilities_and_never_return_impossible_ids():
    logits = torch.tensor([0.5, -1.0, -torch.inf, 2.0, 0.0])
    drawn = draw(logits.expand(40000, 5))
    share = torch.bincount(drawn, minlength=5) / 40000
    torch.testing.assert_close(share, logits.softmax(0), rtol=0, atol=0.02)
    assert share[2] == 0


def read_words(model: CaptionModel, features: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the inputs and targets of the decoder."""
    seen: list[Tensor] = []
    handle = model.decoder.embedding.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    targets = model(features, TOKENS).targets
    handle.remove()
    return seen[0], targets


def test_words_are_hidden_only_in_training_and_remain_targets(make_model, features):
    model = make_model(word_dropout=1.0, decoder="rnetvhc")
    read, targets = read_words(model, features)
    assert read.equal(TOKENS[:, :, :-1])
    hidden, told = read_words(model.train(), features)
    special = torch.isin(TOKENS[:, :, :-1], torch.tensor([SPECIAL.pad, SPECIAL.start]))
    assert hidden[special].equal(TOKENS[:, :, :-1][special])
    assert (hidden[~special] == SPECIAL.unk).all()
    assert told.equal(targets)
    assert read_words(make_model(word_dropout=0.0, decoder="rnetvhc").train(), features)[0].equal(read)
