"""Fixtures of the runtime: the tiny bundle, copies that a test may damage, and photos."""

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
    """The committed bundle; `tests/tiny/make_bundle.py` made it."""
    return TINY


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the tiny bundle, to be spoilt."""
    return Path(shutil.copytree(TINY, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with a confidence."""
    return calibrate(Path(shutil.copytree(TINY, tmp_path_factory.mktemp("calibrated") / "bundle")))


@pytest.fixture(scope="session")
def captioner() -> Captioner:
    return Captioner.load(TINY, device="cpu", threads=1)


@pytest.fixture(scope="session")
def images() -> npt.NDArray[np.uint8]:
    """uint8 (16, 32, 32, 3): photos of the size that the tiny model takes."""
    patches = np.random.default_rng(0).integers(0, 256, (16, 4, 4, 3), np.uint8)
    return patches.repeat(8, 1).repeat(8, 2)


@pytest.fixture
def photo(tmp_path: Path, images: npt.NDArray[np.uint8]) -> Path:
    """A photo on disk, of another size and shape than the model's."""
    path = tmp_path / "photo.png"
    Image.fromarray(images[0]).resize((90, 60)).save(path)
    return path


@pytest.fixture
def picture() -> Image.Image:
    """40 wide, 30 high, no symmetry; smooth, so that JPEG keeps it."""
    y, x = np.mgrid[0:30, 0:40]
    return Image.fromarray(np.stack([x * 6, y * 8, (x + y) * 3], axis=-1).astype(np.uint8))


@pytest.fixture
def edit_manifest() -> Callable[[Path, Callable[[dict[str, Any]], object]], None]:
    """Change a bundle's manifest and give it the digest that belongs to it, as somebody who knows how would."""

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
    """Every attempt to make a session of ONNX Runtime, none of which succeeds."""
    attempts: list[object] = []

    def refuse(model: object, *_: object, **__: object) -> None:
        attempts.append(model)
        raise AssertionError("a session was made")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    return attempts
