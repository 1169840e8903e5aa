"""Validation at the end of an epoch: teacher-forced numbers, and the scores of free-running captions."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import torch

from caprun.bundle.vocabulary import Special, Vocabulary
from caprun.errors import UsageError
from caprun.search.bans import Bans
from caprun.search.decoding import search
from caprun.search.hypothesis import Hypothesis
from caprun.search.neutral import Neutralizer
from caprun.search.options import SearchOptions
from captioner.backends.pytorch import ModelSteps
from captioner.evaluation.meteor import Meteor
from captioner.evaluation.metrics import score, scores_by_dataset
from captioner.evaluation.teacher_forced import TeacherForced, tally
from captioner.models.caption_model import CaptionModel
from captioner.text.gender_neutral import neutral_words
from captioner.text.metric_words import tokenize
from captioner.training.inputs.batches import Batches
from captioner.training.processes import Processes

PHOTOS = 50
"""A batch, for there is no gradient to hold."""


@dataclass(frozen=True)
class Validation:
    """The dev split and how it is captioned."""

    batches: Batches
    references: Sequence[Sequence[str]]
    protocol: Mapping[str, Any]
    """Said beside every score: split, photos, references."""
    vocabulary: Vocabulary
    special: Special
    search: SearchOptions
    meteor: Meteor | None = None
    """In the first process, where there is Java."""
    bad_endings: Collection[str] = ()
    """Words that a caption should not end with."""
    dataset_of: Sequence[str] = ()
    """Name of each photo's dataset, where there are several; their scores are computed apart, too."""
    language: str | None = None
    """Code of the captions' language, where it is known."""

    def __post_init__(self) -> None:
        # refuses now what it would after an epoch
        Bans.of(self.search, self.special.end, self.vocabulary)
        if self.search.neutral and self.neutral is None:
            raise UsageError("search.neutral is true and there are no neutral words for this vocabulary; leave it out.")

    @functools.cached_property
    def neutral(self) -> Neutralizer | None:
        """What `search.neutral` says; None where the vocabulary has no neutral words."""
        words = neutral_words(self.vocabulary, self.language)
        return None if words is None else words.neutralizer(self.vocabulary)


@dataclass(frozen=True)
class Validated:
    """What came of it."""

    scores: dict[str, float]
    """dev_loss (nats a word), accuracy and top_5 (shares of words) with a teacher; BLEU and its kin without, and of the
    captions the mean `words` and the share that has a bad ending. With several datasets, also the scores of each:
    `cider@NAME`."""
    captions: list[Hypothesis]
    """Of every photo, in order."""


@torch.inference_mode()
def validate(model: CaptionModel, validation: Validation, processes: Processes) -> Validated:
    """Look at every photo of the split, each process at its share; all processes return the same.

    Args:
        model: put it in eval mode first.
        validation: the split.
        processes: who else takes a share.
    """
    device = model.unsaid.device
    special, options = validation.special, validation.search
    forced = TeacherForced()
    found: list[Hypothesis] = []
    photos = validation.batches.share().tolist()
    for batch in validation.batches.in_order():
        features = model.features(batch.seen.to(device))
        teacher = model(features, batch.tokens.to(device))
        forced += tally(teacher.logits, teacher.targets)
        found += search(
            ModelSteps(model, model.start(features)),
            len(features),
            special.start,
            special.end,
            options,
            vocabulary=validation.vocabulary,
            identities=photos[len(found) : len(found) + len(features)],
            neutral=validation.neutral if options.neutral else None,
        )
    forced = TeacherForced(*processes.sums(astuple(forced)))
    shares = processes.gather(list(zip(photos, found, strict=True)))
    by_photo = {photo: hypothesis for share in shares for photo, hypothesis in share}
    captions = [by_photo[photo] for photo in range(validation.batches.photos)]
    texts = [validation.vocabulary.text(caption.ids) for caption in captions]
    scores: dict[str, float] = {}
    if processes.first:
        scores = score(texts, validation.references, validation.meteor).as_dict()
        scores |= scores_by_dataset(texts, validation.references, validation.dataset_of)
    scores = processes.from_first(scores)
    return Validated(forced.as_dict() | scores | form(texts, validation.bad_endings), captions)


def form(captions: Sequence[str], bad_endings: Collection[str]) -> dict[str, float]:
    """Of one caption or more, the mean number of `words`, and `bad_endings`: the share that ends with such a word."""
    words = [tokenize(caption) for caption in captions]
    return {
        "words": float(np.mean([len(caption) for caption in words])),
        "bad_endings": float(np.mean([caption[-1:] != [] and caption[-1] in bad_endings for caption in words])),
    }
