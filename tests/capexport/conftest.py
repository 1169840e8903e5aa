"""Makes a small model with random weights, and its checkpoint, graphs and bundles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from capexport import onnx_export, torchscript_export
from capexport.export import ExportRequest, export
from caprun.bundle.vocabulary import Vocabulary
from captioner.config import Config, DataConfig, ModelConfig
from captioner.models.caption_model import build_caption_model
from captioner.models.checkpoint import Checkpoint, build_model, load_checkpoint, save_checkpoint
from captioner.text.tokenizer import SPECIAL
from tests.conftest import MakeOnce

FORMATS = {"onnx": onnx_export, "torchscript": torchscript_export}
Write = Callable[[object, Path], tuple[str, str]]

_TEXT = "a the dog cat child man woman runs jumps sits stands in on through grass water snow red blue big small two"


def draw_photos(count: int, size: int = 64, seed: int = 0) -> np.ndarray:
    """Draws photos, uint8 (count, size, size, 3), of rectangles in random colours, so that regions differ."""
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
    """Returns a checkpoint with these model settings and random weights, scaled so that captions differ and end."""
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
def checkpoint_file(checkpoint: Checkpoint, make_once: MakeOnce) -> Path:
    return make_once("small", lambda folder: save_checkpoint(folder / "best.pt", checkpoint)) / "best.pt"


@pytest.fixture(scope="session")
def graphs(checkpoint_file: Path, make_once: MakeOnce) -> Mapping[str, Path]:
    """Returns a folder with the model's graphs for each format; writing takes seconds, so do not change it."""
    model = build_model(load_checkpoint(checkpoint_file))
    return {form: make_once(f"graphs-{form}", partial(module.write, model)) for form, module in FORMATS.items()}


@pytest.fixture(scope="session")
def copies(graphs: Mapping[str, Path]) -> Mapping[str, Write]:
    """Returns for each format a replacement for `write` that copies those graphs."""

    def copying(folder: Path) -> Write:
        def write(_: object, output: Path) -> tuple[str, str]:
            decoder, encoder = sorted(path.name for path in folder.iterdir())
            for name in (encoder, decoder):
                (output / name).write_bytes((folder / name).read_bytes())
            return encoder, decoder

        return write

    return {form: copying(folder) for form, folder in graphs.items()}


@pytest.fixture(scope="session")
def bundles(checkpoint_file: Path, copies: Mapping[str, Write], make_once: MakeOnce) -> Mapping[str, Path]:
    """Returns the model's bundle for each format; do not change it."""

    def fill(folder: Path, form: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FORMATS[form], "write", copies[form])
            export(ExportRequest(checkpoint_file, form, folder / "bundle"), lambda _: None)

    return {form: make_once(f"bundle-{form}", partial(fill, form=form)) / "bundle" for form in FORMATS}
