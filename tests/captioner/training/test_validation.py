"""The search options for dev photos are checked before training starts."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch

from caprun.bundle.vocabulary import Joining, Vocabulary
from caprun.errors import UsageError
from caprun.search.options import SearchOptions
from captioner.config import Config, DataConfig
from captioner.models.checkpoint import Checkpoint
from captioner.text.tokenizer import SPECIAL
from captioner.training.validation import Validation


def validation(vocabulary: Vocabulary, search: SearchOptions, tokenizer: str = "word") -> Validation:
    config = Config(data=DataConfig(tokenizer=tokenizer), search=search)
    return Validation(cast("Any", None), [], Checkpoint(config, vocabulary, SPECIAL, {}, torch.empty(0), {}, {}))


def test_bad_endings_that_are_not_one_piece_are_refused_before_training() -> None:
    pieces = Vocabulary(("<pad>", "<start>", "<end>", "<unk>", "▁d", "og"), Joining(word_start="▁"))
    validation(pieces, SearchOptions(suppress=("d", "og")))
    with pytest.raises(UsageError, match="`bad_endings` names 'dog'"):
        validation(pieces, SearchOptions(bad_endings=("dog",)))


def test_neutral_is_refused_before_training_without_neutral_words() -> None:
    pieces = ("<pad>", "<start>", "<end>", "<unk>", "a", "the", "man")
    neutral = SearchOptions(neutral=True)
    assert validation(Vocabulary((*pieces, "person")), neutral).neutral is not None
    with pytest.raises(UsageError, match=r"search\.neutral is true, but this vocabulary has no neutral words"):
        validation(Vocabulary(pieces), neutral)
    with pytest.raises(UsageError, match=r"search\.neutral is true, but this vocabulary has no neutral words"):
        validation(Vocabulary((*pieces, "person")), neutral, "spacy:fr")
