"""A small model with random weights, and its checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from caprun.bundle.vocabulary import Vocabulary
from captioner.config import Config, DataConfig, ModelConfig
from captioner.models.build import build_caption_model
from captioner.models.checkpoint import Checkpoint, save_checkpoint
from captioner.text.tokenizer import SPECIAL

_TEXT = "a the dog cat child man woman runs jumps sits stands in on through grass water snow red blue big small two"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def draw_photos(count: int, size: int = 64, seed: int = 0) -> np.ndarray:
    """uint8 (count, size, size, 3): rectangles of random colours, so that regions differ."""
    rng = np.random.default_rng(seed)
    photos = np.empty((count, size, size, 3), np.uint8)
    for photo in photos:
        photo[:] = rng.integers(256, size=3)
        for _ in range(6):
            top, left = rng.integers(0, size - 8, 2)
            height, width = rng.integers(8, size, 2)
            photo[top : top + height, left : left + width] = rng.integers(256, size=3)
    return photos


def make_checkpoint(vocabulary: Vocabulary | None = None, **settings: Any) -> Checkpoint:
    """A checkpoint of random weights, scaled so that captions differ and end; takes settings of the model."""
    torch.manual_seed(0)
    sizes = {"projection": 24, "embedding": 16, "units": 32, "attention": 12, "tie_words": False}
    usual = {"encoder": "timm/test_efficientnet", "encoder_weights": "none"} | sizes
    config = Config(data=DataConfig(image_size=64), model=ModelConfig(**usual | settings))
    config = replace(config, search=replace(config.search, max_length=12))
    vocabulary = vocabulary or Vocabulary(("<pad>", "<start>", "<end>", "<unk>", *_TEXT.split()))
    model = build_caption_model(config, len(vocabulary), SPECIAL).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("encoder."):
                parameter.mul_(3.0)
        model.project[0].weight.mul_(500.0)  # a random encoder's features are tiny
    samples = torch.from_numpy(draw_photos(16))
    return Checkpoint(config, vocabulary, SPECIAL, model.state_dict(), samples, {"split": "dev"}, {"command": "test"})


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    return make_checkpoint()


@pytest.fixture(scope="session")
def checkpoint_file(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "small" / "best.pt"
    save_checkpoint(path, checkpoint)
    return path
