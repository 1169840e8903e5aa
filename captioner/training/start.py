"""The vocabulary and the model that a training starts with: new ones, or those of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from caprun.bundle.vocabulary import Vocabulary
from captioner.config import SELF_CRITICAL, Config
from captioner.errors import CaptionerError
from captioner.models.caption_model import CaptionModel, build_caption_model
from captioner.models.checkpoint import Checkpoint, build_model
from captioner.text.build import build_tokenizer, restore_tokenizer
from captioner.text.scripts import scripts_of
from captioner.text.tokenizer import SPECIAL, Tokenizer
from captioner.training.growth import grown_model, grown_vocabulary

_MANY = 0.5
"""A checkpoint is refused if more than this share of the words in a new vocabulary is unknown to it."""


@dataclass(frozen=True)
class Start:
    """The checkpoint that a training starts from."""

    checkpoint: Checkpoint
    file: Path | None = None
    """The checkpoint's file; None if a training is resumed."""
    new_vocabulary: bool = False
    """Keeps only the encoder; vocabulary and decoder are new."""


def initial_tokenizer(
    config: Config, start: Start | None, captions: Sequence[str], growing: Sequence[str] = ()
) -> Tokenizer:
    """Returns the checkpoint's tokenizer with the new words of captions added, or one with a new vocabulary.

    Self-critical and resumed runs keep the checkpoint's vocabulary unchanged.

    Args:
        config: the configuration of the training.
        start: the checkpoint, if there is one.
        captions: all training captions.
        growing: the captions whose new words are added.

    Raises:
        CaptionerError: most words are not in the checkpoint's vocabulary, or `build_tokenizer` fails.
    """
    if start is None or start.new_vocabulary:
        return build_tokenizer(config.data, captions)
    known = start.checkpoint
    config = config.with_tokenizer(known.config.data.tokenizer)
    tokenizer = restore_tokenizer(config.data, known.vocabulary, known.tokenizer)
    unknown = tokenizer.unknown_share(captions)
    if start.file is not None and unknown > _MANY:
        theirs, own = (next(iter(scripts_of(texts)), None) for texts in (captions, known.vocabulary.pieces))
        if theirs != own:
            raise CaptionerError(
                f"The training captions are {theirs}, and the vocabulary of {start.file} is {own}; keep only its "
                "encoder with --new-vocabulary, or train a new model without --init."
            )
        # a vocabulary of these captions would leave out rare words too
        least = build_tokenizer(config.data, captions).unknown_share(captions)
        if unknown - least > _MANY * (1 - least):
            raise CaptionerError(
                f"{unknown:.0%} of the words in the training captions are not in the vocabulary of {start.file}; keep "
                "only its encoder with --new-vocabulary, or train a new model without --init."
            )
    if start.file is None or config.train.stage == SELF_CRITICAL.stage:
        return tokenizer
    vocabulary = grown_vocabulary(tokenizer, growing)
    return restore_tokenizer(config.data, vocabulary, known.tokenizer)


def initial_model(config: Config, start: Start | None, vocabulary: Vocabulary) -> CaptionModel:
    """Returns the checkpoint's model extended to the vocabulary, its encoder with a new decoder, or a new model.

    Raises:
        CaptionerError: the checkpoint's weights do not fit its configuration, or `build_caption_model` fails.
    """
    if start is None:
        return build_caption_model(config, len(vocabulary), SPECIAL, config.model.encoder_weights)
    if not start.new_vocabulary:
        return build_model(replace(grown_model(start.checkpoint, vocabulary), config=config))
    kept = build_model(start.checkpoint).encoder
    model = build_caption_model(config, len(vocabulary), SPECIAL)
    model.encoder.load_state_dict(kept.state_dict())
    return model
