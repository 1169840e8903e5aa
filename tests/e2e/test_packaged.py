"""The packaged bundle is what the committed checkpoint says, and small enough to ship."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from capexport.verify import verify
from caprun.bundle import Bundle, read_bundle
from caprun.engine import packaged_bundle
from caprun.session import OnnxBackend
from captioner.inference import ModelBackend, model_spec
from captioner.training.checkpoint import build_model, load_checkpoint

CHECKPOINT = Path(__file__).parents[2] / "weights" / "checkpoints" / "flickr8k_lite2.pt"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return read_bundle(packaged_bundle())


def test_it_was_exported_from_the_committed_checkpoint(bundle: Bundle) -> None:
    assert bundle.manifest.provenance["checkpoint_sha256"] == hashlib.sha256(CHECKPOINT.read_bytes()).hexdigest()


def test_it_says_what_the_checkpoint_says(bundle: Bundle) -> None:
    checkpoint = load_checkpoint(CHECKPOINT)
    model = build_model(checkpoint)
    spec = model_spec(checkpoint, model, bundle.manifest.name)
    # mirrored, they are photos that the export did not compare
    photos = np.ascontiguousarray(checkpoint.samples.numpy()[:4, :, ::-1])
    parity = verify(ModelBackend(model), OnnxBackend(bundle, "cpu"), spec, checkpoint.vocabulary, photos)
    assert parity.captions == 3 * len(photos)


def test_it_ships_in_a_wheel(bundle: Bundle) -> None:
    assert sum(entry.bytes for entry in bundle.manifest.files.values()) <= 60e6


def test_its_card_names_data_licence_and_split(bundle: Bundle) -> None:
    card = bundle.read("MODEL_CARD.md").decode()
    for word in ("Flickr8k", "non-commercial", "Split dev: 1000 photos", "captioner train"):
        assert word in card
