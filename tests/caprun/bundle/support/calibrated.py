"""Bundles with a confidence that varies between photos and captions but has no meaning."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from caprun.bundle.confidence import Confidence, Linear
from caprun.bundle.reading import read_bundle
from caprun.bundle.writing import write_manifest

FEATURES = 24
"""Features of a photo in the tiny bundle: hidden and cell state, one layer of 12 units each."""
EVENT = "A careful reader would call the caption right."
_WEIGHTS = np.random.default_rng(0).normal(0, 0.3, FEATURES)
CONFIDENCE = Confidence(
    EVENT,
    good=Linear(-6.8, {"mean_log_prob": 1.5}, tuple(map(float, _WEIGHTS))),
    familiar=Linear(3.0),
    measured={"photos": 100, "brier": 0.125},
)


def calibrate(bundle: Path, confidence: Confidence = CONFIDENCE) -> Path:
    """Adds a confidence to a bundle, and returns the bundle's path."""
    opened = read_bundle(bundle)
    card = (bundle / "MODEL_CARD.md").read_text(encoding="utf-8")
    write_manifest(bundle, replace(opened.manifest, confidence=confidence), opened.vocabulary, card)
    return bundle
