"""Gives a trained model rows for the new words of a grown vocabulary."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from caprun.bundle.vocabulary import Vocabulary
from captioner.models.checkpoint import Checkpoint

_WORDS = ("decoder.embedding.weight", "decoder.output.weight", "decoder.output.bias")
"""Parameters with a row for each piece."""


def grown(checkpoint: Checkpoint, vocabulary: Vocabulary) -> Checkpoint:
    """Returns a checkpoint whose model also has the new words of a vocabulary; all old weights stay bit for bit.

    A new word's row is the mean of the rows of all words (Hewitt, "Initializing New Word Embeddings for Pretrained
    Language Models", 2021), and its output bias that of the rarest word. So its logit is below the mean logit, far from
    those of the words that fit, and the model says what it said before.

    Args:
        checkpoint: the trained model.
        vocabulary: the pieces of the checkpoint, and new words behind them.
    """
    new = len(vocabulary) - len(checkpoint.vocabulary)
    first = max(vars(checkpoint.special).values()) + 1

    def extended(rows: Tensor) -> Tensor:
        one = rows[first:].mean(0) if rows.dim() > 1 else rows[first:].min()
        return torch.cat([rows, one.expand(new, *rows.shape[1:])])

    # a tied matrix has two names and stays one tensor
    made = {value.data_ptr(): extended(value) for name, value in checkpoint.model.items() if name in _WORDS}
    weights = {name: made[value.data_ptr()] if name in _WORDS else value for name, value in checkpoint.model.items()}
    return replace(checkpoint, model=weights, vocabulary=vocabulary)
