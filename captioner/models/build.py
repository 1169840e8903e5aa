"""The model that a configuration describes."""

from __future__ import annotations

from caprun.bundle.vocabulary import Special
from captioner.config import Config
from captioner.errors import CaptionerError
from captioner.models.caption_model import CaptionModel
from captioner.models.encoder import build_encoder


def build_caption_model(config: Config, vocabulary: int, special: Special, weights: str = "none") -> CaptionModel:
    """Encoder and decoder; what does not attend is shown one vector a photo.

    Args:
        config: whose `data.image_size` and `model` are looked at.
        vocabulary: number of pieces.
        special: ids of those that are not words.
        weights: the encoder's, see `build_encoder`: `config.model.encoder_weights` where a training begins, none where
            a checkpoint's will be loaded.

    Raises:
        CaptionerError: no such encoder, weights that cannot be had, or sizes that do not fit it.
    """
    model, size = config.model, config.data.image_size
    if model.regions > 1 and not model.attends:
        raise CaptionerError(
            f"model.regions is {model.regions}, and {model.decoder} is shown one vector a photo: leave it out, "
            "or choose a decoder that attends."
        )
    regions = model.regions if model.attends else 1
    encoder = build_encoder(model.encoder, (size, size), weights, regions=regions, fine_tune=model.fine_tune)
    return CaptionModel(encoder, model, vocabulary, special)
