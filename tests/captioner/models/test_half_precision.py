"""bf16 on a CPU keeps depthwise convolutions in fp32 and pads products without changing results."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from captioner.config import load_config, parse_settings
from captioner.models import decoder
from captioner.models.caption_model import build_caption_model
from captioner.models.encoder import build_encoder
from captioner.text.tokenizer import SPECIAL


def test_only_pointwise_convolutions_of_a_tuned_encoder_run_in_bf16():
    torch.manual_seed(0)
    encoder = build_encoder("timm/test_efficientnet", (64, 64), fine_tune=1)
    kinds: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d) and module.weight.requires_grad:
            module.register_forward_hook(lambda m, _, output: kinds[m.groups > 1].add(output.dtype))
    photos = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        found = encoder(photos)
    assert kinds == {True: {torch.float32}, False: {torch.bfloat16}}
    torch.testing.assert_close(found.float(), encoder(photos), rtol=0.1, atol=0.1)
    found.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters() if p.requires_grad)


@pytest.mark.parametrize("words", [1, 63, 64, 65])
def test_padded_products_give_one_row_per_word(words, monkeypatch):
    torch.manual_seed(0)
    settings = ["data.image_size=48", "model.encoder=timm/test_efficientnet", "model.encoder_weights=none"]
    model = build_caption_model(load_config(parse_settings([*settings, "model.dropout=0.0"])), 20, SPECIAL)
    features = torch.rand(1, model.encoder.regions, model.encoder.channels)
    tokens = torch.tensor([[[SPECIAL.start, *[7] * (words - 1), SPECIAL.end]]])
    sizes = []
    even = decoder._even  # the padding is under test
    monkeypatch.setattr(decoder, "_even", lambda rows: sizes.append(len(even(rows))) or even(rows))
    exact = model(features, tokens).logits
    assert set(sizes) == {words}
    sizes.clear()
    with torch.autocast("cpu", torch.bfloat16):
        half = model(features, tokens).logits
    assert set(sizes) == {-(-words // 64) * 64}
    assert half.shape == exact.shape == (words, 20)
    torch.testing.assert_close(half.float(), exact, rtol=0.1, atol=0.1)
