"""A bundle captions photos, singly or in batches, and errors name what is missing on the machine."""

import gc
import importlib.metadata
import io
import subprocess
import sys
import types
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from PIL import Image

import caprun
from caprun import BundleError, Caption, Captioner, DeviceError, ImageError, SearchOptions
from caprun.bundle.reading import read_bundle
from caprun.bundle.vocabulary import Vocabulary
from caprun.bundle.writing import write_manifest
from caprun.engine import packaged_bundle
from caprun.inference.session import OnnxBackend

Images = npt.NDArray[np.uint8]
Edit = Callable[[Path, Callable[[dict[str, Any]], object]], None]
HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def assert_same(first: Caption, second: Caption, tolerance: float = 1e-4) -> None:
    assert (first.text, first.finished) == (second.text, second.finished)
    assert first.log_prob == pytest.approx(second.log_prob, abs=tolerance)
    for one, other in zip(first.words, second.words, strict=True):
        assert one.text == other.text
        assert one.log_prob == pytest.approx(other.log_prob, abs=tolerance)


def test_captions_differ_in_text_length_and_whether_they_finish(captioner: Captioner, images: Images) -> None:
    """Checks that the tiny bundle is varied enough for the tests below."""
    captions = captioner.caption_arrays(images)
    assert len({caption.text for caption in captions}) > 8
    assert len({len(caption.words) for caption in captions}) > 3
    assert sum(caption.finished for caption in captions) > 12


def test_a_path_bytes_a_file_and_an_image_give_the_same_caption(captioner: Captioner, photo: Path) -> None:
    expected = captioner.caption(photo)
    assert expected.text
    with Image.open(photo) as opened:
        for other in (str(photo), photo.read_bytes(), io.BytesIO(photo.read_bytes()), opened):
            assert_same(captioner.caption(other), expected, 0)


def test_a_missing_or_invalid_photo_is_an_image_error(captioner: Captioner, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist"):
        captioner.caption(tmp_path / "nowhere.png")
    with pytest.raises(ImageError, match="is not a JPEG"):
        captioner.caption(b"text")


@pytest.mark.parametrize("beam_size", [1, 3, 5])
@pytest.mark.parametrize("size", [1, 2, 5, 16])
def test_a_caption_does_not_depend_on_its_batch(
    captioner: Captioner, images: Images, size: int, beam_size: int
) -> None:
    options = SearchOptions(beam_size, 12, 1.0)
    together = captioner.caption_arrays(images[-size:], options, alpha=True)
    for image, caption in zip(images[-size:], together, strict=True):
        (alone,) = captioner.caption_arrays(image[None], options, alpha=True)
        assert_same(alone, caption)
        for one, other in zip(alone.words, caption.words, strict=True):
            assert one.alpha is not None
            np.testing.assert_allclose(one.alpha, other.alpha, atol=1e-4)


def test_an_empty_batch_has_no_captions(captioner: Captioner, images: Images) -> None:
    assert captioner.caption_arrays(images[:0]) == []


def test_alpha_is_a_distribution_over_the_grid(captioner: Captioner, images: Images) -> None:
    words = [word for caption in captioner.caption_arrays(images, alpha=True) for word in caption.words]
    assert words
    for word in words:
        assert word.alpha is not None
        assert word.alpha.shape == captioner.spec.attention_grid == (4, 4)
        assert word.alpha.min() >= 0
        assert word.alpha.sum() == pytest.approx(1, abs=1e-5)
    assert len({np.asarray(word.alpha).tobytes() for word in words}) > len(words) / 2, "it moves"


def test_alpha_is_none_by_default(captioner: Captioner, images: Images) -> None:
    assert all(word.alpha is None for caption in captioner.caption_arrays(images) for word in caption.words)


def test_a_model_without_attention_has_no_alpha(bundle: Path, edit_manifest: Edit, images: Images) -> None:
    edit_manifest(bundle, lambda data: data.update(attention_grid=None))
    (caption,) = Captioner.load(bundle, device="cpu", threads=1).caption_arrays(images[:1], alpha=True)
    assert [word.alpha for word in caption.words] == [None] * len(caption.words)


def test_log_probabilities_of_words_and_the_end_sum_to_the_captions(captioner: Captioner, images: Images) -> None:
    for caption, hypothesis in zip(captioner.caption_arrays(images), captioner.hypotheses(images), strict=True):
        assert all(word.log_prob < 0 for word in caption.words)
        end = hypothesis.log_probs[-1] if hypothesis.finished else 0.0
        assert sum(word.log_prob for word in caption.words) + end == pytest.approx(caption.log_prob)
        assert [word.text for word in caption.words] == [captioner.vocabulary.pieces[i] for i in hypothesis.ids]


def test_log_probabilities_of_pieces_are_summed_and_alphas_averaged(
    bundle: Path, captioner: Captioner, images: Images
) -> None:
    """Uses the same graphs with a vocabulary in which every second piece continues the word before it."""
    source = read_bundle(bundle)
    pieces = [piece if i % 2 else f"##{piece}" for i, piece in enumerate(source.vocabulary.pieces)]
    vocabulary = type(source.vocabulary)(tuple(pieces), type(source.vocabulary.joining)(continuation="##"))
    joined = Captioner(captioner.spec, vocabulary, captioner.backend)
    hypotheses = captioner.search(images, alpha=True)[0]
    captions = joined.caption_arrays(images, alpha=True)
    assert any(len(caption.words) < len(h.ids) for caption, h in zip(captions, hypotheses, strict=True))
    for caption, hypothesis in zip(captions, hypotheses, strict=True):
        for said, word in zip(vocabulary.words(hypothesis.ids), caption.words, strict=True):
            at = list(said.positions)
            assert word.log_prob == pytest.approx(hypothesis.log_probs[at].sum())
            assert hypothesis.alpha is not None
            np.testing.assert_allclose(word.alpha, hypothesis.alpha[at].mean(0).reshape(4, 4), rtol=1e-6)


def test_a_caption_is_cut_at_the_maximum_length(captioner: Captioner, images: Images) -> None:
    captions = captioner.caption_arrays(images, SearchOptions(1, 6, 1.0))
    assert {caption.finished for caption in captions} == {True, False}
    assert all(len(caption.words) == 6 for caption in captions if not caption.finished)


@pytest.mark.parametrize("beam_size", [24, 25, 100])
def test_a_beam_can_be_wider_than_the_vocabulary(captioner: Captioner, images: Images, beam_size: int) -> None:
    unsaid = {"<pad>", "<start>", "<end>", "<unk>"}
    for caption in captioner.caption_arrays(images[:2], SearchOptions(beam_size, 5, 1.0)):
        assert np.isfinite(caption.log_prob)
        assert not unsaid & {word.text for word in caption.words}


def test_the_search_defaults_to_the_manifest(bundle: Path, edit_manifest: Edit, images: Images) -> None:
    edit_manifest(bundle, lambda data: data["search"].update(beam_size=1, max_length=2))
    cut = Captioner.load(bundle, device="cpu", threads=1).caption_arrays(images)
    assert max(len(caption.words) for caption in cut) == 2


def test_a_torchscript_bundle_is_refused_with_the_command_that_runs_it(bundle: Path, edit_manifest: Edit) -> None:
    edit_manifest(bundle, lambda data: data.update(format="torchscript"))
    with pytest.raises(BundleError, match=f"`captioner caption --model {bundle} PHOTO`"):
        Captioner.load(bundle)


@pytest.mark.parametrize(
    "change", [{"name": "keyz"}, {"dtype": "float64"}, {"shape": ["batch", 16, 7]}, {"shape": ["batch", 16]}], ids=str
)
def test_graphs_that_differ_from_their_manifest_are_refused(
    bundle: Path, edit_manifest: Edit, change: dict[str, Any]
) -> None:
    def edit(data: dict[str, Any]) -> None:
        for tensors in (data["graphs"]["encoder"]["outputs"], data["graphs"]["decoder"]["inputs"]):
            next(tensor for tensor in tensors if tensor["name"] == "keys").update(change)

    edit_manifest(bundle, edit)
    with pytest.raises(BundleError, match=r"onnx differs from its manifest; export"):
        Captioner.load(bundle, device="cpu")


def test_a_decoder_that_predicts_a_piece_outside_the_vocabulary_is_refused(bundle: Path, images: Images) -> None:
    sound = read_bundle(bundle)
    shorter = Vocabulary(sound.vocabulary.pieces[:6], sound.vocabulary.joining)
    write_manifest(bundle, sound.manifest, shorter, "")
    with pytest.raises(
        BundleError, match=r"outside its vocabulary \(6 pieces\), so the two belong to different models"
    ):
        Captioner.load(bundle, device="cpu").caption_arrays(images)


def test_an_onnx_runtime_failure_is_a_device_error(tiny: Path, images: Images) -> None:
    backend = OnnxBackend(read_bundle(tiny), "cpu", 1)
    tensors = {name: array[:, :1] for name, array in backend.encode(images[:1]).tensors().items()}
    steps = backend.start(tensors | {"keys": np.zeros((1, 3, 6), np.float32)})
    zero = np.zeros((1, 1), np.int64)
    with pytest.raises(DeviceError, match="ONNX Runtime failed on the cpu"):
        steps(np.zeros(1, np.int64), zero, zero, 3)


def test_every_exported_name_exists() -> None:
    assert all(getattr(caprun, name).__name__ == name for name in caprun.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Captionist'"):
        caprun.Captionist  # noqa: B018


@pytest.mark.parametrize("module", ["caprun", "caprun.cli"])
def test_importing_caprun_imports_no_heavy_modules(module: str) -> None:
    heavy = ["numpy", "PIL", "onnxruntime", "torch", "captioner", "capexport"]
    code = f"import sys, {module}; print(*(name for name in {heavy} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_captioning_needs_neither_torch_nor_onnx(tiny: Path, photo: Path) -> None:
    forbidden = ["torch", "onnx", "sklearn", "captioner", "capexport"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({forbidden}))\n"
        f"from caprun import Captioner; print(Captioner.load({str(tiny)!r}).caption({str(photo)!r}).text)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.strip()


@pytest.mark.skipif(HAS_CUDA, reason="this ONNX Runtime has CUDA")
def test_unavailable_cuda_is_refused_instead_of_falling_back_to_the_cpu(tiny: Path) -> None:
    with pytest.raises(DeviceError, match=r'pip install "onnxruntime-gpu\[cuda,cudnn\]", or use --device cpu'):
        Captioner.load(tiny, device="cuda")


@pytest.mark.skipif(HAS_CUDA, reason="this ONNX Runtime has CUDA")
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_cuda_that_does_not_start_is_refused_and_auto_falls_back_to_the_cpu(
    tiny: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    with pytest.raises(DeviceError, match="CUDA"):
        Captioner.load(tiny, device="cuda")
    fallen = Captioner.load(tiny, device="auto")
    assert isinstance(fallen.backend, OnnxBackend)
    assert fallen.backend.device == "cpu"
    assert fallen.caption(photo).text


@pytest.mark.skipif(not HAS_CUDA, reason="needs onnxruntime-gpu and a CUDA device")
@pytest.mark.parametrize("beam_size", [1, 3])
def test_cuda_captions_match_those_of_the_cpu(tiny: Path, captioner: Captioner, images: Images, beam_size: int) -> None:
    options = SearchOptions(beam_size, 12, 1.0)
    on_cuda = Captioner.load(tiny, device="cuda")
    expected = captioner.caption_arrays(images, options, alpha=True)
    for caption, other in zip(on_cuda.caption_arrays(images, options, alpha=True), expected, strict=True):
        assert_same(caption, other, 1e-3)
        for word, same in zip(caption.words, other.words, strict=True):
            np.testing.assert_allclose(word.alpha, same.alpha, atol=1e-3)


def test_without_onnx_runtime_the_error_names_what_to_install(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DeviceError, match=r"is not installed.*pip install onnxruntime, or"):
        Captioner.load(tiny)


def test_a_broken_onnx_runtime_is_reported_with_the_command_to_repair_it(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    with pytest.raises(
        DeviceError, match=r"installation of ONNX Runtime is broken\. pip uninstall -y onnxruntime onnxruntime-gpu"
    ):
        Captioner.load(tiny)


@pytest.mark.skipif(HAS_CUDA, reason="this ONNX Runtime has CUDA")
def test_cuda_hidden_by_a_second_onnx_runtime_package_is_explained(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0")
    with pytest.raises(DeviceError, match="both installed and one hides the other"):
        Captioner.load(tiny, device="cuda")


def test_without_the_packaged_model_the_error_asks_for_a_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "caprun_weights", None)
    with pytest.raises(BundleError, match="name a bundle with --model"):
        packaged_bundle()


@pytest.mark.parametrize("options", [{}, {"threads": 1}, {"threads": 2}, {"many": True}])
def test_sessions_are_freed_with_the_last_reference_to_their_captioner(tiny: Path, photo: Path, options: Any) -> None:
    gc.collect()
    gc.disable()  # cycles would be collected at an arbitrary time
    try:
        captioner = Captioner.load(tiny, device="cpu", **options)
        assert len(list(captioner.caption_many([photo, photo]))) == 2
        parts = [captioner, captioner.backend]
        alive = [weakref.ref(part) for part in parts]
        alive.append(weakref.ref(vars(captioner.backend)["_encoder"]))
        del captioner, parts
        assert [reference() for reference in alive] == [None] * 3
    finally:
        gc.enable()
