"""Builds the model that a configuration describes."""

from __future__ import annotations

from caprun.bundle.vocabulary import Special
from captioner.config import Config
from captioner.errors import CaptionerError
from captioner.models.caption_model import CaptionModel
from captioner.models.encoder import build_encoder


def build_caption_model(config: Config, vocabulary: int, special: Special, weights: str = "none") -> CaptionModel:
    """Builds encoder and decoder; a decoder without attention gets one vector per photo.

    Args:
        config: the configuration; `data.image_size` and `model` are used.
        vocabulary: number of pieces.
        special: ids of the pieces that are not words.
        weights: the encoder's weights, see `build_encoder`: `config.model.encoder_weights` for a new training, `none`
            if a checkpoint will be loaded.

    Raises:
        CaptionerError: the encoder is unknown, its weights are unavailable, or the sizes do not fit.
    """
    model, size = config.model, config.data.image_size
    if model.regions > 1 and not model.attends:
        raise CaptionerError(
            f"model.regions is {model.regions}, but the decoder {model.decoder} takes one vector per photo. Leave out "
            "model.regions, or choose a decoder with attention."
        )
    regions = model.regions if model.attends else 1
    encoder = build_encoder(model.encoder, (size, size), weights, regions=regions, fine_tune=model.fine_tune)
    return CaptionModel(encoder, model, vocabulary, special)
