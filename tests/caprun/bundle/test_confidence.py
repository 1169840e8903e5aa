"""Every caption of a calibrated model has a confidence, which depends only on the photo and the caption."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from caprun import Caption, Captioner, ImageError, SearchOptions
from caprun.bundle.reading import read_bundle
from caprun.engine import Backend
from caprun.inference.session import OnnxBackend
from caprun.search.decoding import search
from caprun.search.hypothesis import Hypothesis
from tests.caprun.bundle.support.calibrated import CONFIDENCE, FEATURES

Images = npt.NDArray[np.uint8]
SAMPLED = SearchOptions(n_best=3, max_length=12, temperature=1.0)
WIDE = SearchOptions(5, 12, 1.0, n_best=4)
HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.fixture(scope="module")
def sure(calibrated: Path) -> Captioner:
    return Captioner.load(calibrated, device="cpu", threads=1)


def confidences(caption: Caption) -> list[float]:
    """Returns the confidences of a caption and of its alternatives."""
    found = [one.confidence for one in (caption, *caption.alternatives)]
    assert None not in found
    return [value for value in found if value is not None]


def test_confidences_differ_between_photos_and_are_probabilities(sure: Captioner, images: Images) -> None:
    """Also checks that the calibrated bundle is suitable for the tests of abstaining."""
    captions = sure.caption_arrays(images)
    found = [confidences(caption)[0] for caption in captions if caption.finished]
    assert all(0 < value < 1 for value in found)
    assert min(found) < 0.2
    assert max(found) > 0.6
    assert len(set(found)) == len(found) > len(images) / 2
    # the other captions were cut at `max_length`
    assert {confidences(caption)[0] for caption in captions if not caption.finished} <= {0.0}


@pytest.mark.parametrize("options", [None, SearchOptions(1, 12, 1.0), WIDE, SAMPLED], ids=["own", "1", "wide", "drawn"])
def test_a_confidence_is_computed_from_the_first_state_and_the_caption(
    sure: Captioner, calibrated: Path, images: Images, options: SearchOptions | None
) -> None:
    encoded = OnnxBackend(read_bundle(calibrated), "cpu", 1).encode(images).tensors()
    photos = np.concatenate([encoded[name].reshape(len(images), -1) for name in ("hidden", "cell")], axis=1)
    assert photos.shape == (len(images), FEATURES)
    hypotheses = sure.hypotheses(images, options)
    for photo, hypothesis, caption in zip(photos, hypotheses, sure.caption_arrays(images, options), strict=True):
        each: list[Hypothesis] = [hypothesis, *hypothesis.alternatives]
        expected = [CONFIDENCE.probability(photo, one) for one in each]
        assert confidences(caption) == pytest.approx(expected, abs=1e-6)
        finished = sum(one.finished and one.ids != () for one in each)
        assert len(set(expected) - {0.0}) == finished or options is SAMPLED


@pytest.mark.parametrize("options", [None, WIDE, SAMPLED], ids=["own", "wide", "drawn"])
@pytest.mark.parametrize("size", [1, 3, 16])
def test_a_confidence_does_not_depend_on_the_batch(
    sure: Captioner, images: Images, size: int, options: SearchOptions | None
) -> None:
    for image, caption in zip(images[-size:], sure.caption_arrays(images[-size:], options), strict=True):
        (alone,) = sure.caption_arrays(image[None], options)
        assert confidences(caption) == pytest.approx(confidences(alone), abs=1e-5)


def test_caption_many_returns_the_same_confidences(sure: Captioner, calibrated: Path, photo: Path) -> None:
    expected = sure.caption(photo).confidence
    many = Captioner.load(calibrated, device="cpu", many=True)
    for captioner in (sure, many):
        first, bad, second = captioner.caption_many([photo, b"no photo", photo], batch_size=2)
        assert isinstance(bad, ImageError)
        for caption in (first, second):
            assert isinstance(caption, Caption)
            assert caption.confidence == pytest.approx(expected, abs=1e-6)


def test_captions_of_an_uncalibrated_model_have_no_confidence(captioner: Captioner, images: Images) -> None:
    for caption in captioner.caption_arrays(images, WIDE):
        assert {caption.confidence, *(other.confidence for other in caption.alternatives)} == {None}


def test_the_first_state_does_not_change_during_the_search(captioner: Captioner, images: Images) -> None:
    steps = captioner.backend.encode(images)
    before = steps.photo.copy()
    assert before.dtype == np.float32
    search(steps, len(images), captioner.spec.special.start, captioner.spec.special.end, WIDE)
    np.testing.assert_array_equal(steps.photo, before)


class Unasked:
    """A backend that fails if the state of its photos is read, because copying it from a GPU takes time."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def encode(self, images: Images, *, alpha: bool = False) -> "Unasked":
        self._steps = self._backend.encode(images, alpha=alpha)
        return self

    @property
    def photo(self) -> NoReturn:
        raise AssertionError("the state was copied")

    def __call__(self, *arguments: object) -> object:
        return self._steps(*arguments)  # type: ignore[arg-type]


def test_the_state_is_not_read_without_a_confidence(captioner: Captioner, images: Images) -> None:
    unasked = Unasked(captioner.backend)
    assert Captioner(captioner.spec, captioner.vocabulary, unasked).caption_arrays(images)  # type: ignore[arg-type]


@pytest.mark.skipif(not HAS_CUDA, reason="needs onnxruntime-gpu and a CUDA device")
def test_confidences_on_cuda_equal_those_on_the_cpu(sure: Captioner, calibrated: Path, images: Images) -> None:
    cuda = Captioner.load(calibrated, device="cuda", precision="fp32")
    for caption, expected in zip(cuda.caption_arrays(images), sure.caption_arrays(images), strict=True):
        assert caption.text == expected.text
        assert confidences(caption) == pytest.approx(confidences(expected), abs=1e-3)


def test_a_calibrated_bundle_captions_without_scipy_or_torch(calibrated: Path, photo: Path, tmp_path: Path) -> None:
    shutil.copytree(calibrated, tmp_path / "copy")
    code = (
        "import sys; from caprun import Captioner; "
        f"caption = Captioner.load({str(tmp_path / 'copy')!r}, device='cpu').caption({str(photo)!r}); "
        "assert (caption.confidence > 0) == caption.finished; print({'torch', 'scipy', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
