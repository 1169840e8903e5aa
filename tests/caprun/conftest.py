"""Fixtures for the runtime: the tiny bundle, copies that a test can damage, and photos."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from PIL import Image

from caprun import Captioner
from tests.caprun.bundle.support.calibrated import calibrate

TINY = Path(__file__).parent.parent / "tiny" / "bundle"


@pytest.fixture(scope="session")
def tiny() -> Path:
    """Returns the committed bundle, which `tests/tiny/make_bundle.py` wrote."""
    return TINY


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Copies the tiny bundle, for a test to damage."""
    return Path(shutil.copytree(TINY, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the tiny bundle with a calibrated confidence."""
    return calibrate(Path(shutil.copytree(TINY, tmp_path_factory.mktemp("calibrated") / "bundle")))


@pytest.fixture(scope="session")
def captioner() -> Captioner:
    return Captioner.load(TINY, device="cpu", threads=1)


@pytest.fixture(scope="session")
def images() -> npt.NDArray[np.uint8]:
    """Returns photos of the tiny model's input size, uint8 (16, 32, 32, 3)."""
    patches = np.random.default_rng(0).integers(0, 256, (16, 4, 4, 3), np.uint8)
    return patches.repeat(8, 1).repeat(8, 2)


@pytest.fixture
def photo(tmp_path: Path, images: npt.NDArray[np.uint8]) -> Path:
    """Saves a photo that differs from the model's input in size and aspect ratio."""
    path = tmp_path / "photo.png"
    Image.fromarray(images[0]).resize((90, 60)).save(path)
    return path


@pytest.fixture
def picture() -> Image.Image:
    """Returns an asymmetric image 40 pixels wide and 30 high, smooth enough to survive JPEG compression."""
    y, x = np.mgrid[0:30, 0:40]
    return Image.fromarray(np.stack([x * 6, y * 8, (x + y) * 3], axis=-1).astype(np.uint8))


@pytest.fixture
def edit_manifest() -> Callable[[Path, Callable[[dict[str, Any]], object]], None]:
    """Returns a function that changes a bundle's manifest and updates the digest to match."""

    def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
        path = bundle / "model.json"
        data = json.loads(path.read_text(encoding="utf-8"))
        del data["digest"]
        change(data)
        canonical = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        data["digest"] = hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
        path.write_text(json.dumps(data), encoding="utf-8")

    return edit


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Records every attempt to create an ONNX Runtime session and makes it fail."""
    attempts: list[object] = []

    def refuse(model: object, *_: object, **__: object) -> None:
        attempts.append(model)
        raise AssertionError("a session was made")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    return attempts
