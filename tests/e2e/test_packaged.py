"""The packaged bundle matches the committed checkpoint; it and the Chinese bundle are good and small."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from capexport.quantization.acceptance import check_batches
from capexport.verify import verify
from caprun.bundle.manifest import FULL_PRECISION
from caprun.bundle.reading import Bundle, read_bundle
from caprun.engine import Captioner, packaged_bundle
from caprun.inference.session import OnnxBackend
from caprun.photos.preprocessing import load
from caprun.search.options import SearchOptions
from captioner.backends.pytorch import ModelBackend, model_spec
from captioner.models.checkpoint import build_model, load_checkpoint

WEIGHTS = Path(__file__).parents[2] / "weights"
PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
CHECKPOINT = WEIGHTS / "checkpoints" / "everyday_lite2.pt"
CHINESE = WEIGHTS / "zh" / "caprun_zh"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return read_bundle(packaged_bundle())


def test_the_bundle_was_exported_from_the_committed_checkpoint(bundle: Bundle) -> None:
    assert bundle.manifest.provenance["checkpoint_sha256"] == hashlib.sha256(CHECKPOINT.read_bytes()).hexdigest()


def test_the_bundle_generates_the_captions_of_the_checkpoint(bundle: Bundle) -> None:
    checkpoint = load_checkpoint(CHECKPOINT)
    model = build_model(checkpoint)
    spec = model_spec(checkpoint, model, bundle.manifest.name)
    # mirrored, because the export did not compare mirrored photos
    photos = np.ascontiguousarray(checkpoint.samples.numpy()[:4, :, ::-1])
    written = OnnxBackend(bundle, "cpu", precision=FULL_PRECISION)
    parity = verify(ModelBackend(model), written, spec, checkpoint.vocabulary, photos)
    assert parity.captions == 3 * len(photos)


def test_a_caption_does_not_depend_on_its_batch_in_any_precision(bundle: Bundle) -> None:
    photos = np.ascontiguousarray(load_checkpoint(CHECKPOINT).samples.numpy()[:6, :, ::-1])
    assert set(bundle.manifest.precisions) == {FULL_PRECISION, "int8"}
    for precision in bundle.manifest.precisions:
        check_batches(Captioner.load(bundle.path, device="cpu", precision=precision), photos, tolerance=1e-4)


def test_captions_repeat_only_function_words(bundle: Bundle) -> None:
    captioner = Captioner.load(bundle.path, device="cpu")
    photos = np.stack([load(photo, captioner.spec.image) for photo in sorted(PHOTOS.glob("*.jpg"))])
    anything = replace(captioner.spec.search, no_repeat_word=0)

    def repeated(options: SearchOptions) -> set[str]:
        said = [caption.text.split() for caption in captioner.caption_arrays(photos, options)]
        return {word for words in said for word in words if words.count(word) > 1}

    assert repeated(captioner.spec.search) <= {*captioner.spec.search.repeatable}
    assert not repeated(anything) <= {*captioner.spec.search.repeatable}


def test_int8_was_measured_as_equally_good_and_faster(bundle: Bundle) -> None:
    fp32, int8 = (bundle.manifest.precisions[name].measured for name in (FULL_PRECISION, "int8"))
    assert fp32 != "unmeasured"
    assert int8 != "unmeasured"
    assert int8[0].photos == fp32[0].photos == 1000
    assert int8[0].cider >= fp32[0].cider - 0.01
    assert int8[0].photos_per_second > fp32[0].photos_per_second


def test_the_bundle_is_small_enough_for_a_wheel(bundle: Bundle) -> None:
    assert sum(entry.bytes for entry in bundle.manifest.files.values()) <= 60e6


def test_the_chinese_bundle_is_good_and_small_enough_for_a_wheel() -> None:
    manifest = read_bundle(CHINESE).manifest
    measured = manifest.precisions["int8"].measured
    assert measured != "unmeasured"
    assert (manifest.language, manifest.metrics["segmentation"]) == ("zh", "characters")
    assert measured[0].photos == 1000
    assert measured[0].cider >= 1.35
    assert manifest.metrics["bleu_4"] >= 0.38
    assert sum(entry.bytes for entry in manifest.files.values()) <= 60e6


def test_the_model_card_names_data_licence_and_split(bundle: Bundle) -> None:
    card = bundle.read("MODEL_CARD.md").decode()
    for word in ("Flickr8k", "COCO", "non-commercial", "Split dev: 1500 photos", "captioner recipe"):
        assert word in card
