"""Shared fixtures: a small dataset of drawn shapes, and a small model that is trained on it."""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

from caprun.photos.preprocessing import ImageSpec
from captioner.config import Config, load_config, parse_settings
from captioner.datasets import load_dataset
from captioner.models.checkpoint import LAST, Checkpoint, load_checkpoint
from captioner.models.encoder import Encoder
from captioner.training.inputs import features
from captioner.training.train import Job, train
from tests.conftest import MakeOnce

SIZE = 48
_RUNNER = features._runner
_HALF = (0.5, 0.5, 0.5)
_COLOURS = ("red", "green", "blue", "orange")
_BACKGROUNDS = ("white", "black", "grey")
_SETTINGS = (
    f"data.image_size={SIZE}",
    "data.min_count=1",
    "data.max_length=12",
    "data.views=1",
    "model.encoder=timm/test_efficientnet",
    "model.encoder_weights=none",
    "model.projection=32",
    "model.embedding=16",
    "model.units=32",
    "model.attention=16",
    "model.word_dropout=0.1",
    "train.batch_size=4",
    "train.lr=0.01",
    "train.epochs=3",
    "search.max_length=12",
)


@pytest.fixture(scope="session", autouse=True)
def quick_trainings() -> Iterator[None]:
    """Replaces the slowest parts of a small training run: the export of its encoder, and matplotlib.

    `training/inputs/test_features.py` and `reports/test_curves.py` test the originals.
    """

    def runner(stem: nn.Module, *_: object) -> Callable[[np.ndarray], np.ndarray]:
        return torch.no_grad()(lambda images: stem(torch.from_numpy(images)).numpy())

    def curves_png(steps: object, epochs: list[object], *panels: object) -> bytes | None:
        digest = hashlib.sha256(repr((steps, epochs, *panels)).encode()).digest()
        file = io.BytesIO()
        Image.frombytes("RGB", (5, 2), digest[:30]).save(file, "PNG")
        return file.getvalue() if epochs else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "_runner", runner)
        patch.setattr("captioner.reports.run.curves_png", curves_png)
        yield


@pytest.fixture
def encoder_in_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Computes features in ONNX Runtime, as training does."""
    monkeypatch.setattr(features, "_runner", _RUNNER)


@pytest.fixture(scope="session")
def shapes(make_once: MakeOnce) -> Path:
    """Returns 24 photos of a shape with two captions each, in Flickr8k's format; do not write to the folder."""
    return make_once("shapes", _draw_shapes)


def _draw_shapes(directory: Path) -> None:
    (directory / "images").mkdir()
    rows, names = ["image,caption"], []
    for background in _BACKGROUNDS:
        for colour in _COLOURS:
            for shape in ("circle", "square"):
                photo = Image.new("RGB", (SIZE, SIZE), background)
                draw = ImageDraw.Draw(photo)
                (draw.ellipse if shape == "circle" else draw.rectangle)((8, 8, 40, 40), fill=colour)
                names.append(f"{colour}-{shape}-{background}.png")
                photo.save(directory / "images" / names[-1])
                rows.append(f"{names[-1]},A {colour} {shape} on a {background} background .")
                rows.append(f'{names[-1]},"On {background}, there is a {colour} {shape} ."')
    (directory / "captions.txt").write_text("\n".join(rows) + "\n")
    splits = {"dev": names[::7], "test": names[3::7]}
    splits["train"] = [name for name in names if name not in splits["dev"] + splits["test"]]  # 17 of them
    for split, chosen in splits.items():
        (directory / f"Flickr_8k.{split}Images.txt").write_text("\n".join(chosen) + "\n")


@pytest.fixture
def own_shapes(shapes: Path, tmp_path: Path) -> Path:
    """Returns a copy of `shapes` that a test can alter."""
    return shutil.copytree(shapes, tmp_path / "own_shapes")


@pytest.fixture(scope="session")
def cache(make_once: MakeOnce) -> Path:
    """Returns the feature cache of all runs: their encoders have equal weights, so features are computed once."""
    return make_once("cache", lambda _: None)


@pytest.fixture(scope="session")
def settings() -> list[str]:
    """Returns the settings of a small training run, in the form that `--set` takes."""
    return list(_SETTINGS)


Train = Callable[..., list[str]]


@pytest.fixture(scope="session")
def train_shapes(shapes: Path, cache: Path) -> Train:
    """Returns a function that trains on the shapes, or resumes a run, and returns the messages."""

    def run(output: Path, *settings: str, resumed: Checkpoint | None = None, data: Path = shapes) -> list[str]:
        config: Config = resumed.config if resumed else load_config(parse_settings([*_SETTINGS, *settings]))
        said: list[str] = []
        job = Job(load_dataset(data), config, output, cache, "the tests", resumed=resumed)
        train(job, said.append)
        return said

    return run


@pytest.fixture(scope="session")
def trained(train_shapes: Train, make_once: MakeOnce) -> Path:
    """Returns the folder of a finished run of three epochs; do not write to it."""
    return make_once("trained", train_shapes)


@pytest.fixture
def checkpoint(trained: Path) -> Checkpoint:
    """Returns the last checkpoint of `trained`."""
    return load_checkpoint(trained / LAST)


@pytest.fixture
def encoder() -> Encoder:
    """Returns a minimal, fast encoder: 3 x 3 regions of 8 channels."""
    torch.manual_seed(0)
    return Encoder("tiny", nn.Sequential(nn.Conv2d(3, 8, 16, 16), nn.ReLU()), (SIZE, SIZE), _HALF, _HALF)


@pytest.fixture
def spec() -> ImageSpec:
    """Returns the preprocessing for `encoder`."""
    return ImageSpec(SIZE, SIZE, "squash", "bicubic", _HALF, _HALF)
