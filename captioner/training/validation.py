"""Validation at the end of an epoch: teacher-forced scores and the scores of free-running captions."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caprun.bundle.vocabulary import Vocabulary
from caprun.errors import UsageError
from caprun.search.bans import Bans
from caprun.search.decoding import search
from caprun.search.hypothesis import Hypothesis
from caprun.search.neutral import Neutralizer
from captioner.backends.pytorch import model_steps
from captioner.config import Config
from captioner.datasets import Example
from captioner.evaluation.meteor import Meteor
from captioner.evaluation.metrics import score, scores_by_dataset
from captioner.evaluation.teacher_forced import TeacherForced, tally
from captioner.models.caption_model import CaptionModel
from captioner.models.checkpoint import Checkpoint
from captioner.text.build import language_of
from captioner.text.gender_neutral import neutral_words
from captioner.text.metric_words import ends_with, segmentation, tokenize
from captioner.training.inputs.batches import Batch, Batches
from captioner.training.processes import Processes

PHOTOS = 50
"""Photos per batch; larger than in training, because no gradients are stored."""


def check_search(config: Config, end: int, vocabulary: Vocabulary) -> None:
    """Checks the search options before the first epoch; `end` is the id of END.

    Raises:
        UsageError: the vocabulary cannot express the words of an option, or has no words for `search.neutral`.
    """
    Bans.of(config.search, end, vocabulary)
    if config.search.neutral and neutral_words(vocabulary, language_of(config.data)) is None:
        raise UsageError("search.neutral is true, but this vocabulary has no neutral words; leave it out.")


@dataclass(frozen=True)
class Validation:
    """The dev split, and the checkpoint that determines the search, vocabulary and language of captions.

    Raises:
        UsageError: the vocabulary cannot express the words of a search option, or has no words for `search.neutral`.
    """

    batches: Batches
    examples: Sequence[Example]
    checkpoint: Checkpoint
    meteor: Meteor | None = None
    """Only in the first process, if Java is installed."""

    def __post_init__(self) -> None:
        check_search(self.checkpoint.config, self.checkpoint.special.end, self.checkpoint.vocabulary)

    @functools.cached_property
    def protocol(self) -> dict[str, Any]:
        """The description of the split and its scores that is stored with them."""
        references = [reference for example in self.examples for reference in example.references]
        return {
            "split": "dev",
            "photos": len(self.examples),
            "references": len(references),
            "captions": "free",
            "segmentation": segmentation(references),
        }

    @functools.cached_property
    def neutral(self) -> Neutralizer | None:
        """The replacements of `search.neutral`; None if the vocabulary has no neutral words."""
        vocabulary = self.checkpoint.vocabulary
        words = neutral_words(vocabulary, language_of(self.checkpoint.config.data))
        return None if words is None else words.neutralizer(vocabulary)

    def captions(self, model: CaptionModel, features: Tensor, batch: Batch) -> list[Hypothesis]:
        """Returns the captions of a batch's photos; `features` is `model.features(batch.seen)`."""
        special, options = self.checkpoint.special, self.checkpoint.config.search
        return search(
            model_steps(model, model.start(features)),
            len(features),
            special.start,
            special.end,
            options,
            vocabulary=self.checkpoint.vocabulary,
            identities=batch.photos.tolist(),
            neutral=self.neutral if options.neutral else None,
        )


@dataclass(frozen=True)
class Validated:
    """The result of a validation."""

    scores: dict[str, float]
    """Teacher-forced `dev_loss` (nats per word), `accuracy` and `top_5` (shares of words); the scores of the captions,
    their mean number of `words`, and the share of `bad_endings`. With several datasets, also the scores of each, such
    as `cider@NAME`."""
    captions: list[Hypothesis]
    """The caption of every photo, in order."""


@torch.inference_mode()
def validate(model: CaptionModel, validation: Validation, processes: Processes) -> Validated:
    """Validates a model on all photos of a split; each process takes a share, and all return the same result.

    Args:
        model: the model, in eval mode.
        validation: the split.
        processes: the processes that share the work.
    """
    checkpoint, forced = validation.checkpoint, TeacherForced()
    found: dict[int, Hypothesis] = {}
    for batch in validation.batches.in_order():
        features = model.features(batch.seen.to(model.unsaid.device))
        teacher = model(features, batch.tokens.to(features.device))
        forced += tally(teacher.logits, teacher.targets)
        found |= zip(batch.photos.tolist(), validation.captions(model, features, batch), strict=True)
    forced = TeacherForced(*processes.sums(astuple(forced)))
    found = {photo: caption for share in processes.gather(found) for photo, caption in share.items()}
    captions = [found[photo] for photo in range(validation.batches.photos)]
    texts = [checkpoint.vocabulary.text(caption.ids) for caption in captions]
    scores: dict[str, float] = {}
    if processes.first:
        references = [example.references for example in validation.examples]
        scores = score(texts, references, validation.meteor)
        scores |= scores_by_dataset(texts, references, [example.dataset for example in validation.examples])
    scores = processes.from_first(scores)
    bad_endings = checkpoint.config.self_critical.bad_endings
    return Validated(forced.as_dict() | scores | form(texts, bad_endings), captions)


def form(captions: Sequence[str], bad_endings: Collection[str]) -> dict[str, float]:
    """Returns the mean number of `words` of captions and the share that ends with one of `bad_endings`."""
    words, endings = [tokenize(caption) for caption in captions], [tokenize(ending) for ending in bad_endings]
    return {
        "words": float(np.mean([len(caption) for caption in words])),
        "bad_endings": float(np.mean([ends_with(caption, endings) for caption in words])),
    }
