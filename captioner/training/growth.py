"""Adds the new words of captions to a vocabulary of whole words, and rows for them to a trained model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from caprun.bundle.vocabulary import Vocabulary
from captioner.models.checkpoint import Checkpoint
from captioner.text.build import build_tokenizer
from captioner.text.tokenizer import Tokenizer

_WORDS = ("decoder.embedding.weight", "decoder.output.weight", "decoder.output.bias")
"""Parameters with a row for each piece."""


def grown_vocabulary(tokenizer: Tokenizer, captions: Sequence[str]) -> Vocabulary:
    """Returns the tokenizer's vocabulary, followed by the new words of captions, the most frequent first.

    A word is new if it occurs at least `min_count` times and is not known; `vocabulary_size` limits the total.
    Subword vocabularies, such as BPE, already spell new words and are returned unchanged.
    """
    vocabulary, config = tokenizer.vocabulary, tokenizer.config
    if tokenizer.words is None:
        return vocabulary
    counts = Counter(word for caption in captions for word in tokenizer.words(caption))
    known = set(vocabulary.pieces)
    found = [word for word, count in counts.items() if count >= config.min_count and word not in known]
    room = max(0, config.vocabulary_size - len(vocabulary)) if config.vocabulary_size else None
    new = sorted(found, key=lambda word: (-counts[word], word))[:room]
    if not new:
        return vocabulary
    rules, theirs = (
        vocabulary.joining,
        build_tokenizer(replace(config, min_count=1, vocabulary_size=0), captions).vocabulary.joining,
    )
    rules = replace(
        rules,
        no_space_before=(*rules.no_space_before, *(word for word in theirs.no_space_before if word in new)),
        no_space_after=(*rules.no_space_after, *(word for word in theirs.no_space_after if word in new)),
        unspaced="".join(sorted({*rules.unspaced, *theirs.unspaced})),
    )
    return Vocabulary((*vocabulary.pieces, *new), rules)


def grown_model(checkpoint: Checkpoint, vocabulary: Vocabulary) -> Checkpoint:
    """Returns a checkpoint with rows for the new words of a vocabulary; existing weights stay the same bit for bit.

    A new word's row is the mean of the rows of all words (Hewitt, "Initializing New Word Embeddings for Pretrained
    Language Models", 2021), and its output bias is the lowest of all words. Its logit is therefore below the mean
    logit, far from those of likely words, and the model's captions stay the same.
    `vocabulary` has the checkpoint's pieces, followed by the new words.
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
