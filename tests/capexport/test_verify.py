"""Both formats compute the same as PyTorch, for every batch and beam size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from capexport.near_ties import log_probs_in
from caprun.bundle.reading import Bundle, read_bundle
from caprun.engine import Captioner
from caprun.inference.session import OnnxBackend
from captioner.backends.pytorch import ModelBackend, model_spec
from captioner.backends.torchscript import ScriptBackend
from captioner.models.checkpoint import Checkpoint, build_model
from tests.capexport.conftest import FORMATS, draw_photos

PHOTOS = draw_photos(20, seed=1)


def _backend(bundle: Bundle) -> OnnxBackend | ScriptBackend:
    return OnnxBackend(bundle, "cpu", threads=1) if bundle.manifest.format == "onnx" else ScriptBackend(bundle)


@pytest.fixture(scope="module", params=FORMATS)
def bundle(request: pytest.FixtureRequest, bundles: Mapping[str, Path]) -> Bundle:
    return read_bundle(bundles[request.param])


@pytest.fixture(scope="module")
def reference(checkpoint: Checkpoint) -> Captioner:
    model = build_model(checkpoint)
    return Captioner(model_spec(checkpoint, model, "small"), checkpoint.vocabulary, ModelBackend(model))


@pytest.fixture(scope="module")
def exported(bundle: Bundle) -> Captioner:
    return Captioner(bundle.manifest, bundle.vocabulary, _backend(bundle))


@pytest.mark.parametrize("batch", [1, 2, 5, 16])
def test_encoder_outputs_equal_pytorchs(reference: Captioner, exported: Captioner, batch: int) -> None:
    expected = reference.backend.encode(PHOTOS[:batch]).tensors()
    found = exported.backend.encode(PHOTOS[:batch]).tensors()
    assert found.keys() == expected.keys() == {"hidden", "cell", "regions", "keys"}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-4, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("batch", [1, 2, 5, 16])
@pytest.mark.parametrize("beams", [1, 3, 5])
def test_step_log_probabilities_equal_pytorchs(
    reference: Captioner, exported: Captioner, batch: int, beams: int
) -> None:
    context = reference.backend.encode(PHOTOS[:batch]).tensors()
    row = np.arange(batch)
    parent, token = np.repeat(row[:, None], beams, 1), np.random.default_rng(0).integers(26, size=(batch, beams))
    expected, found = (
        captioner.backend.start(context, alpha=True)(row, parent, token, 5) for captioner in (reference, exported)
    )
    np.testing.assert_allclose(found.log_prob, expected.log_prob, atol=1e-4, rtol=0)
    np.testing.assert_array_equal(found.candidate, expected.candidate)
    np.testing.assert_allclose(found.alpha, expected.alpha, atol=1e-5, rtol=0)


@pytest.mark.parametrize("batch", [1, 2, 5, 16])
@pytest.mark.parametrize("beam_size", [1, 3, 5])
def test_captions_are_identical_except_for_near_ties(
    reference: Captioner, exported: Captioner, batch: int, beam_size: int
) -> None:
    options = replace(reference.spec.search, beam_size=beam_size)
    found = [h for i in range(0, 16, batch) for h in exported.hypotheses(PHOTOS[i : i + batch], options)]
    assert len({h.ids for h in found}) > 3, "captions must differ between photos for this test to mean anything"
    for image, hypothesis in zip(PHOTOS, found, strict=False):
        (expected,) = reference.hypotheses(image[None], options)
        if hypothesis.ids != expected.ids:
            scores = [sum(log_probs_in(reference, image, h)) for h in (hypothesis, expected)]
            assert abs(scores[0] - scores[1]) <= 1e-4


def test_a_photos_caption_does_not_depend_on_its_batch(exported: Captioner) -> None:
    together = exported.caption_arrays(PHOTOS[:16])
    for image, caption in zip(PHOTOS, together, strict=False):
        (alone,) = exported.caption_arrays(image[None])
        assert alone.text == caption.text
        assert alone.log_prob == pytest.approx(caption.log_prob, abs=1e-4)


def test_the_manifest_records_the_parity_check(bundle: Bundle) -> None:
    parity = bundle.manifest.parity
    assert parity["photos"] == 16
    assert parity["captions"] == 3 * 16
    assert 0 <= parity["log_prob"] <= parity["tolerance"] == 1e-4
    assert 0 <= parity["encoder"] <= 1e-4


def test_encoder_outputs_match_the_manifest(bundle: Bundle) -> None:
    graphs = bundle.manifest.graphs
    found = _backend(bundle).encode(PHOTOS[:3]).tensors()
    for tensor in graphs.encoder.outputs:
        assert found[tensor.name].dtype == tensor.dtype
        assert found[tensor.name].shape[1:] == tensor.shape[1:]
