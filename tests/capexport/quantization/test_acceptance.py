"""A precision becomes the default only if it is as good as fp32 and faster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from capexport import onnx_export
from capexport.export import ExportRequest, export
from capexport.quantization import acceptance
from capexport.quantization.acceptance import (
    BATCH_TOLERANCE,
    CIDER_TOLERANCE,
    PrecisionError,
    check_batches,
    check_quality,
    check_speed,
)
from caprun.bundle.manifest import Manifest, Measurement, Precision
from caprun.bundle.reading import Bundle, read_bundle
from caprun.cli import main as caprun
from caprun.engine import Captioner
from caprun.errors import BundleError, CaprunError
from caprun.inference import precisions
from caprun.inference.precisions import choose_precision, measured_on
from caprun.inference.session import OnnxBackend
from caprun.search.steps import Steps
from captioner.cli import main as captioner
from captioner.config.export import ExportSettings
from captioner.datasets import Example
from tests.capexport.conftest import Write, draw_photos

PHOTOS = draw_photos(16, seed=4)
HERE = measured_on("cpu")


def silent(_: str) -> None:
    return


# --- Acceptance criteria


@pytest.mark.parametrize("cider", [0.5 - 1.1 * CIDER_TOLERANCE, 0.0, float("nan")])
def test_a_precision_with_worse_captions_is_refused(cider: float) -> None:
    with pytest.raises(PrecisionError, match=r"^int8 captions worse than fp32: CIDEr .* against 0\.500 on 7 photos\."):
        check_quality("int8", 0.5, cider, 7)


@pytest.mark.parametrize("cider", [0.5 - 0.9 * CIDER_TOLERANCE, 0.5, 0.7])
def test_a_precision_with_equally_good_captions_is_accepted(cider: float) -> None:
    check_quality("int8", 0.5, cider, 7)


def test_a_precision_is_refused_if_the_cider_of_fp32_is_zero() -> None:
    with pytest.raises(PrecisionError, match=r"the CIDEr of fp32 is 0 on 1 photos\. Add dev photos to --data\.$"):
        check_quality("int8", 0.0, 0.0, 1)


def test_a_precision_that_is_not_faster_is_refused() -> None:
    check_speed("int8", 10.0, 10.1)
    for rate in (10.0, 9.0):
        with pytest.raises(PrecisionError, match=r"^int8 is no faster than fp32 here \(\d+ photos/s against 10\)\."):
            check_speed("int8", 10.0, rate)


# --- A bundle with every precision


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, list[Example]]:
    """Returns photos on disk, by split."""
    directory = tmp_path_factory.mktemp("photos")
    found: dict[str, list[Example]] = {"train": [], "dev": []}
    for number, photo in enumerate(draw_photos(24, seed=2)):
        Image.fromarray(photo).save(directory / f"{number}.png")
        split = "train" if number < 12 else "dev"
        found[split].append(Example(directory / f"{number}.png", ("a dog runs", "the cat sits on grass"), split))
    return found


Rates = Callable[..., list[float]]


def rates(fp32: float, other: float) -> Rates:
    """Returns a replacement for `photos_per_second` that gives these rates."""
    return lambda *_: [fp32, other]


@pytest.fixture
def run(
    copies: Mapping[str, Write],
    examples: Mapping[str, list[Example]],
    checkpoint_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Manifest]:
    """Exports prewritten fp32 graphs with constant scores, because with random weights int8 could be refused."""
    return exporting(copies, examples, checkpoint_file, monkeypatch)


def exporting(
    copies: Mapping[str, Write],
    examples: Mapping[str, list[Example]],
    checkpoint_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Manifest]:
    monkeypatch.setattr(onnx_export, "write", copies["onnx"])
    monkeypatch.setattr(acceptance, "photos_per_second", rates(10.0, 20.0))
    monkeypatch.setattr(acceptance, "score", lambda *_: {"cider": 0.5})

    def run(output: Path, *precisions: Any, say: Callable[[str], None] = silent, **photos: Any) -> Manifest:
        given: dict[str, Any] = {"train": examples["train"], "dev": examples["dev"]} | photos
        return export(ExportRequest(checkpoint_file, "onnx", output, ExportSettings(precisions), **given), say)

    return run


@pytest.fixture(scope="module")
def bundle(
    copies: Mapping[str, Write],
    examples: Mapping[str, list[Example]],
    checkpoint_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Bundle:
    """Returns a bundle with fp32, int8 and fp16, exported without CUDA."""
    output = tmp_path_factory.mktemp("weights") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("capexport.export.choose_device", lambda _: "cpu")
        exporting(copies, examples, checkpoint_file, patch)(output, "int8", "fp16")
    return read_bundle(output)


def test_the_manifest_records_the_measurements_and_their_hardware(bundle: Bundle) -> None:
    found = bundle.manifest.precisions
    assert list(found) == ["fp32", "int8", "fp16"]
    assert found["fp32"].measured == (Measurement(HERE, 10.0, 0.5, 12),)
    assert found["int8"].measured == (Measurement(HERE, 20.0, 0.5, 12),)
    assert found["int8"].parity.keys() == {"photos", "captions_as_fp32", "batch_invariant"}
    assert found["int8"].parity["photos"] == 12
    card = bundle.read("MODEL_CARD.md").decode()
    assert f"| {HERE} | 20 | 50.0 | {found['int8'].parity['captions_as_fp32']} of 12 equal fp32's |" in card
    assert "| fp16 | " in card


def test_the_fastest_precision_is_the_default_and_another_can_be_requested(bundle: Bundle) -> None:
    for asked, used in ((None, "int8"), ("fp32", "fp32"), ("int8", "int8"), ("fp16", "fp16")):
        loaded = Captioner.load(bundle.path, device="cpu", threads=1, precision=asked)
        assert isinstance(loaded.backend, OnnxBackend)
        assert loaded.backend.precision == used
        expected = Captioner(bundle.manifest, bundle.vocabulary, OnnxBackend(bundle, "cpu", 1, used))
        found = [caption.log_prob for caption in loaded.caption_arrays(PHOTOS)]
        assert found == [caption.log_prob for caption in expected.caption_arrays(PHOTOS)]


def test_fp16_gives_nearly_the_same_captions_and_is_unmeasured_without_cuda(bundle: Bundle) -> None:
    assert bundle.manifest.precisions["fp16"].measured == "unmeasured"
    fp16, fp32 = (
        Captioner(bundle.manifest, bundle.vocabulary, OnnxBackend(bundle, "cpu", 1, name)).caption_arrays(PHOTOS)
        for name in ("fp16", "fp32")
    )
    pairs = [(one, other) for one, other in zip(fp16, fp32, strict=True) if one.text == other.text]
    assert len(pairs) > len(PHOTOS) // 2
    assert all(one.log_prob == pytest.approx(other.log_prob, abs=0.1) for one, other in pairs)
    assert any(one.log_prob != other.log_prob for one, other in pairs), "it is another precision"
    sizes = [bundle.manifest.files[bundle.manifest.precisions[name].decoder].bytes for name in ("fp16", "fp32")]
    assert sizes[0] < 0.7 * sizes[1]


def test_the_command_uses_the_given_precision_and_lists_those_available(bundle: Bundle, tmp_path: Path) -> None:
    Image.fromarray(PHOTOS[0]).save(tmp_path / "photo.png")

    def said(*options: str) -> Result:
        arguments = [str(tmp_path / "photo.png"), "--model", str(bundle.path), "--device", "cpu", "--json", *options]
        return CliRunner().invoke(caprun, arguments)

    assert said().stdout == said("--precision", "int8").stdout != said("--precision", "fp32").stdout
    refused = said("--precision", "int4")
    message = f"Error: {bundle.path} has no int4 graphs; it has fp32, int8, fp16.\n"
    assert (refused.exit_code, refused.stdout, refused.stderr) == (1, "", message)
    with pytest.raises(BundleError, match="has no int4 graphs"):
        Captioner.load(bundle.path, device="cpu", precision="int4")


# --- The runtime's choice of precision

OTHER = "cpu/s390x"


@pytest.mark.parametrize(
    ("device", "measured", "chosen"),
    [
        ("cpu", {"fp32": {}, "int8": {}}, "fp32"),
        ("cpu", {"fp32": {HERE: 10}, "int8": {HERE: 20}}, "int8"),
        ("cpu", {"fp32": {HERE: 20}, "int8": {HERE: 10}}, "fp32"),
        ("cpu", {"fp32": {OTHER: 10}, "int8": {OTHER: 20}}, "fp32"),
        ("cpu", {"fp32": {OTHER: 10, HERE: 20}, "int8": {OTHER: 20, HERE: 19}}, "fp32"),
        ("cpu", {"fp32": {}, "int8": {HERE: 20}}, "fp32"),
        ("cpu", {"fp32": {HERE: 10}, "int8": {HERE: 20}, "int4": {HERE: 30}}, "int4"),
        ("cuda", {"fp32": {HERE: 10}, "int8": {HERE: 20}}, "fp32"),
        ("cuda", {"fp32": {HERE: 10, "cuda": 50}, "int8": {HERE: 20}, "fp16": {"cuda": 90}}, "fp16"),
        ("cpu", {"fp32": {HERE: 10, "cuda": 50}, "int8": {HERE: 20}, "fp16": {"cuda": 90}}, "int8"),
    ],
    ids=[
        "unmeasured",
        "faster here",
        "fp32 is faster",
        "measured on another architecture",
        "faster elsewhere only",
        "nothing to compare it with",
        "the fastest of several",
        "measured on the CPU and run on CUDA",
        "faster on CUDA",
        "measured on both and run on the CPU",
    ],
)
def test_the_default_precision_is_the_fastest_measured_on_the_same_hardware(
    bundle: Bundle, device: Any, measured: dict[str, dict[str, float]], chosen: str
) -> None:
    precisions = {
        name: Precision("e", "d", tuple(Measurement(at, rate, 0.5, 9) for at, rate in rates.items()) or "unmeasured")
        for name, rates in measured.items()
    }
    assert choose_precision(replace(bundle.manifest, precisions=precisions), device) == chosen


@pytest.mark.parametrize(
    ("machine", "name"), [("x86_64", "x86_64"), ("AMD64", "x86_64"), ("arm64", "aarch64"), ("aarch64", "aarch64")]
)
def test_one_architecture_has_one_name(monkeypatch: pytest.MonkeyPatch, machine: str, name: str) -> None:
    monkeypatch.setattr(precisions.os, "uname", lambda: SimpleNamespace(machine=machine), raising=False)
    assert measured_on("cpu") == f"cpu/{name}"
    assert measured_on("cuda") == "cuda"


# --- A photo and its batch


class Mixing:
    """A backend that changes photos in a batch, as if a scale were computed from the whole batch."""

    def __init__(self, backend: OnnxBackend, shade: int) -> None:
        self.backend, self.shade = backend, shade

    def encode(self, images: npt.NDArray[np.uint8], *, alpha: bool = False) -> Steps:
        if len(images) > 1:
            images = np.maximum(images, self.shade) - np.uint8(self.shade)
        return self.backend.encode(images, alpha=alpha)


def test_captions_that_depend_on_the_batch_are_refused(bundle: Bundle) -> None:
    backend = OnnxBackend(bundle, "cpu", 1, "int8")
    for shade in (1, 40):
        mixing = Captioner(bundle.manifest, bundle.vocabulary, Mixing(backend, shade))
        with pytest.raises(PrecisionError, match=r"^A caption depends on its batch: .* 16 photos\.$"):
            check_batches(mixing, PHOTOS, BATCH_TOLERANCE["int8"])


@pytest.mark.parametrize("name", ["int8", "fp16"])
def test_captions_that_do_not_depend_on_the_batch_are_accepted(bundle: Bundle, name: Any) -> None:
    check_batches(
        Captioner(bundle.manifest, bundle.vocabulary, OnnxBackend(bundle, "cpu", 1, name)),
        PHOTOS,
        BATCH_TOLERANCE[name],
    )


# --- An export that fails


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def worse(patch: pytest.MonkeyPatch) -> str:
    ciders = iter([0.5, 0.48])
    patch.setattr(acceptance, "score", lambda *_: {"cider": next(ciders)})
    return "int8 captions worse than fp32: CIDEr 0.480 against 0.500 on 12 photos"


def slower(patch: pytest.MonkeyPatch) -> str:
    patch.setattr(acceptance, "photos_per_second", rates(20.0, 19.0))
    return r"int8 is no faster than fp32 here \(19 photos/s against 20\)"


def mixing(patch: pytest.MonkeyPatch) -> str:
    plain = acceptance.OnnxBackend
    patch.setattr(acceptance, "OnnxBackend", lambda *arguments: Mixing(plain(*arguments), 9))
    return "A caption depends on its batch"


@pytest.mark.parametrize("reason", [worse, slower, mixing])
def test_a_refused_precision_fails_the_export_and_leaves_the_previous_bundle(
    run: Callable[..., Manifest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reason: Callable[[pytest.MonkeyPatch], str],
) -> None:
    run(tmp_path / "bundle")
    before = files_of(tmp_path / "bundle")
    with pytest.raises(PrecisionError, match=reason(monkeypatch)) as raised:
        run(tmp_path / "bundle", "int8")
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value, CaprunError)
    assert files_of(tmp_path / "bundle") == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_int8_needs_training_photos_and_dev_photos(
    run: Callable[..., Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "write", lambda *_: pytest.fail("it is known before anything is written"))
    for missing in ("train", "dev"):
        with pytest.raises(
            CaprunError, match=r"^int8 .* need dev photos .* training photos .* Give --data a dataset that has them\.$"
        ):
            run(tmp_path / "bundle", "int8", **{missing: ()})
    assert not list(tmp_path.iterdir())


def test_fp16_needs_only_dev_photos(run: Callable[..., Manifest], tmp_path: Path) -> None:
    said: list[str] = []
    manifest = run(tmp_path / "bundle", "fp16", train=(), say=said.append)
    assert manifest.precisions["fp16"].parity["photos"] == 12
    assert [line for line in said if line.startswith("fp16: CIDEr 50.0 on 12 photos (fp32 50.0)")]
    with pytest.raises(CaprunError, match=r"^int8 and fp16 need dev photos .* Give --data a dataset that has them\.$"):
        run(tmp_path / "other", "fp16", train=(), dev=())


def test_the_export_command_explains_invalid_precisions(checkpoint_file: Path, tmp_path: Path) -> None:
    def said(*options: str) -> Result:
        return CliRunner().invoke(
            captioner, ["export", str(checkpoint_file), "--output", str(tmp_path / "bundle"), *options]
        )

    no_data = said("--precision", "int8")
    assert (no_data.exit_code, no_data.stdout, no_data.stderr.count("\n")) == (1, "", 1)
    assert no_data.stderr.startswith("Error: int8 and fp16 need dev photos for comparison with fp32, and int8 also")
    torchscript = said("--precision", "int8", "--format", "torchscript")
    assert torchscript.exit_code == 2
    assert "--precision int8 needs --format onnx; leave out one of the two" in torchscript.stderr
    unknown = said("--precision", "int4")
    assert unknown.exit_code == 2
    assert "'int4' is not one of 'fp32', 'int8', 'fp16'" in unknown.stderr
    assert not list(tmp_path.iterdir())
