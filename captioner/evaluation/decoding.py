"""Captions for a whole split, from cached features or from photos, by the runtime's search."""

from __future__ import annotations

import torch

from caprun.decoding import Hypothesis, SearchOptions, search
from caprun.vocabulary import Special
from captioner.inference import ModelSteps
from captioner.models.caption_model import CaptionModel
from captioner.training.features import Features

_BATCH = 50


@torch.inference_mode()
def caption_features(
    model: CaptionModel, features: Features, special: Special, options: SearchOptions
) -> list[Hypothesis]:
    """Caption photos by their cached features; the model must be in eval mode."""
    hypotheses: list[Hypothesis] = []
    for first in range(0, len(features.rows), _BATCH):
        photos = range(first, min(first + _BATCH, len(features.rows)))
        encoded = model.start(features.of(photos).to(model.unsaid.device))
        hypotheses += search(ModelSteps(model, encoded), len(photos), special.start, special.end, options)
    return hypotheses
