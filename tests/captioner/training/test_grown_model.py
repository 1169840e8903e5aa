"""A grown model has rows for new words, and generates the same captions as before until it is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from caprun.bundle.vocabulary import Vocabulary
from captioner.backends.loading import load_captioner
from captioner.models.checkpoint import Checkpoint, build_model, save_checkpoint
from captioner.training.growth import grown_model

EMBEDDING, OUTPUT, BIAS = "decoder.embedding.weight", "decoder.output.weight", "decoder.output.bias"


def more(checkpoint: Checkpoint, count: int = 30) -> Checkpoint:
    return grown_model(checkpoint, Vocabulary((*checkpoint.vocabulary.pieces, *(f"w{i}" for i in range(count)))))


def untied(checkpoint: Checkpoint) -> Checkpoint:
    """Returns the same model with a separate matrix for output words."""
    config = replace(checkpoint.config, model=replace(checkpoint.config.model, tie_words=False))
    weights = {**checkpoint.model, OUTPUT: checkpoint.model[OUTPUT].clone()}
    return replace(checkpoint, config=config, model=weights)


@pytest.mark.parametrize("tied", [True, False])
def test_existing_weights_stay_the_same_bit_for_bit(checkpoint, tied):
    before = checkpoint if tied else untied(checkpoint)
    after, old = more(before), len(before.vocabulary)
    assert after.model.keys() == before.model.keys()
    for name, weight in before.model.items():
        kept = after.model[name][:old] if name in (EMBEDDING, OUTPUT, BIAS) else after.model[name]
        assert torch.equal(kept, weight), name
    assert after.model[EMBEDDING].shape[0] == after.model[BIAS].shape[0] == old + 30
    assert (after.model[EMBEDDING] is after.model[OUTPUT]) == tied  # tied weights stay tied
    build_model(after)


def test_a_new_word_has_the_mean_row_and_the_lowest_bias(checkpoint):
    after, words = more(checkpoint), checkpoint.model[EMBEDDING][4:]
    assert torch.equal(after.model[EMBEDDING][-30:], words.mean(0).expand(30, -1))
    assert torch.equal(after.model[BIAS][-30:], checkpoint.model[BIAS][4:].min().expand(30))


def test_captions_stay_the_same_until_the_model_is_trained(trained, shapes, checkpoint, tmp_path):
    save_checkpoint(tmp_path / "grown.pt", replace(more(checkpoint), training=None))
    photos = sorted((shapes / "images").iterdir())
    before, after = (load_captioner(file) for file in (trained / "last.pt", tmp_path / "grown.pt"))
    assert said(before, photos) == said(after, photos)


def said(captioner: object, photos: list[Path]) -> list[str]:
    return [captioner.caption(photo).text for photo in photos]  # type: ignore[attr-defined]
