"""The loss and gradients of the decoder equal those of the tutorial's training loop."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bench.peers.tutorial_loop import TutorialDecoder, rows_of, train_step
from captioner.config import ModelConfig, TrainConfig
from captioner.models.caption_model import CaptionModel
from captioner.models.decoder import pad_captions
from captioner.models.encoder import Encoder
from captioner.text.tokenizer import SPECIAL
from captioner.training.losses import Losses, caption_loss

WORDS = 30
SMOOTHING = 0.1
CONFIG = ModelConfig(projection=20, embedding=12, units=16, attention=10, dropout=0.0)


def random_captions(photos: int, each: int) -> list[list[list[int]]]:
    generator = torch.Generator().manual_seed(2)

    def caption() -> list[int]:
        length = int(torch.randint(1, 12, (1,), generator=generator))
        words = torch.randint(SPECIAL.unk, WORDS, (length,), generator=generator).tolist()
        return [SPECIAL.start, *words, SPECIAL.end]

    return [sorted((caption() for _ in range(each)), key=len, reverse=True) for _ in range(photos)]


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def model(encoder: Encoder, request: pytest.FixtureRequest) -> CaptionModel:
    torch.manual_seed(0)
    model = CaptionModel(encoder, replace(CONFIG, tie_words=request.param), WORDS, SPECIAL).train()
    with torch.no_grad():  # far from zero; otherwise attention is nearly even
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "attention" in name:
                parameter.mul_(3)
    return model


@pytest.fixture
def features(encoder: Encoder) -> torch.Tensor:
    return torch.rand(4, encoder.regions, encoder.channels, generator=torch.Generator().manual_seed(1)) * 4


def our_loss(model: CaptionModel, features: torch.Tensor, tokens: torch.Tensor) -> Losses:
    captions = int((tokens[:, :, 0] != SPECIAL.pad).sum())
    words = int((tokens[:, :, 1:] != SPECIAL.pad).sum())
    return caption_loss(model(features, tokens), TrainConfig(label_smoothing=SMOOTHING), words, captions)


def test_loss_and_gradients_equal_the_tutorial_loops(model, features):
    tokens = pad_captions(random_captions(4, 5), SPECIAL.pad)
    peer = TutorialDecoder(model)
    theirs, _ = peer.loss(rows_of(features, tokens, SPECIAL.pad), SMOOTHING, alpha_c=1.0)
    ours = our_loss(model, features, tokens).total
    assert abs(ours.item() - theirs.item()) < 1e-4
    ours.backward()
    theirs.backward()
    gradients = peer.named_gradients(model)
    # every trained weight has a counterpart; tied weights count once
    numbers = (sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (model, peer))
    assert len(set(numbers)) == 1
    for name, (their, our) in gradients.items():
        assert their.abs().max() > 0, name
        torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


def test_photos_with_fewer_captions_count_the_same_in_both_loops(model, features):
    captions = random_captions(4, 5)
    captions[1], captions[3] = captions[1][:2], captions[3][:1]
    tokens = pad_captions(captions, SPECIAL.pad)
    rows = rows_of(features, tokens, SPECIAL.pad)
    assert len(rows.captions) == 13
    theirs, _ = TutorialDecoder(model).loss(rows, SMOOTHING, alpha_c=1.0)
    assert abs(our_loss(model, features, tokens).total.item() - theirs.item()) < 1e-4


def test_the_tutorial_loop_learns(model, features):
    rows = rows_of(features, pad_captions(random_captions(4, 5), SPECIAL.pad), SPECIAL.pad)
    peer = TutorialDecoder(model)
    optimizer = torch.optim.Adam((p for p in peer.parameters() if p.requires_grad), lr=0.01)
    losses = [train_step(peer, optimizer, rows, SMOOTHING) for _ in range(20)]
    assert losses[-1] < losses[0] - 0.3
