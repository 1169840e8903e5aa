"""Makes small models and features of three photos."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from captioner.config import ModelConfig
from captioner.models.caption_model import CaptionModel
from captioner.models.encoder import Encoder
from captioner.text.tokenizer import SPECIAL
from tests.captioner.models.variants import WORDS, MakeModel

CONFIG = ModelConfig(projection=10, embedding=6, units=8, attention=5)


@pytest.fixture
def make_model(encoder: Encoder) -> MakeModel:
    def make(**settings: object) -> CaptionModel:
        torch.manual_seed(0)
        model = CaptionModel(encoder, replace(CONFIG, **settings), WORDS, SPECIAL).eval()
        with torch.no_grad():  # weights far from zero, or all outputs would be alike
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
