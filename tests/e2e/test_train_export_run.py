"""A model is trained and exported, and captions photos in an environment without torch."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COLOURS = {"red": (200, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 200), "yellow": (230, 210, 40)}


def _run(*command: str | Path, cwd: Path) -> str:
    result = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def _draw_dataset(folder: Path) -> None:
    """Draws coloured squares and discs with captions, in the format of Flickr8k."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = ["image,caption"]
    for number in range(24):
        colour, shape = list(COLOURS)[number % 4], ("square", "disc")[number // 4 % 2]
        image = Image.new("RGB", (160, 120), "white")
        left, top = (int(v) for v in rng.integers(0, 60, 2))
        draw = ImageDraw.Draw(image)
        (draw.rectangle if shape == "square" else draw.ellipse)((left, top, left + 60, top + 60), COLOURS[colour])
        image.save(folder / "images" / f"{number}.jpg")
        rows += [f"{number}.jpg,A {colour} {shape} .", f'{number}.jpg,"A {shape} , which is {colour} ."']
    (folder / "captions.txt").write_text("\n".join(rows) + "\n")
    (folder / "Flickr_8k.trainImages.txt").write_text("\n".join(f"{n}.jpg" for n in range(16)))
    (folder / "Flickr_8k.devImages.txt").write_text("\n".join(f"{n}.jpg" for n in range(16, 24)))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a dataset, a training run and its bundle, made by the commands that a user types."""
    folder = tmp_path_factory.mktemp("project")
    _draw_dataset(folder / "dataset")
    sizes = [f"model.{name}=32" for name in ("projection", "embedding", "units", "attention")]
    settings = [part for setting in [*sizes, "data.min_count=1", "search.max_length=8"] for part in ("--set", setting)]
    captioner = [sys.executable, "-m", "captioner"]
    schedule = ("--epochs", "30", "--batch-size", "4", "--lr", "0.01")
    _run(*captioner, "train", *schedule, "--cache", "cache", *settings, cwd=folder)
    _run(*captioner, "export", "--format", "onnx", "--output", "weights/shapes", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Creates a virtual environment like one on a deployment host; returns its `bin`."""
    folder = tmp_path_factory.mktemp("host") / "venv"
    venv.create(folder, with_pip=True)
    scripts = folder / ("Scripts" if sys.platform == "win32" else "bin")
    _run(scripts / "python", "-m", "pip", "install", "-q", f"{ROOT}[cpu]", cwd=folder)
    return scripts


def test_captions_without_torch_equal_those_of_the_checkpoint(project: Path, deployment: Path) -> None:
    installed = json.loads(_run(deployment / "python", "-m", "pip", "list", "--format", "json", cwd=project))
    assert not {"torch", "torchvision", "timm", "onnx"} & {package["name"] for package in installed}

    photos = sorted(str(path.relative_to(project)) for path in (project / "dataset" / "images").glob("*.jpg"))
    found = _run(deployment / "caprun", "--model", "weights/shapes", *photos, cwd=project)
    checkpoint = next((project / "runs").glob("*/best.pt"))
    expected = _run(sys.executable, "-m", "captioner", "caption", "--model", checkpoint, *photos, cwd=project)
    assert found.splitlines() == expected.splitlines()
    assert len(found.splitlines()) == 24
    assert any(colour in found for colour in COLOURS)


def test_the_packaged_model_captions_without_torch(deployment: Path) -> None:
    (photo,) = (ROOT / "examples").glob("*.jpg")
    caption = _run(deployment / "caprun", photo, cwd=ROOT)
    assert len(caption.split()) >= 4
