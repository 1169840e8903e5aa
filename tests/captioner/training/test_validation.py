"""How dev photos are captioned is settled before a training begins."""

from __future__ import annotations

from typing import Any, cast

import pytest

from caprun.bundle.vocabulary import Joining, Vocabulary
from caprun.errors import UsageError
from caprun.search.options import SearchOptions
from captioner.text.tokenizer import SPECIAL
from captioner.training.validation import Validation


def test_words_that_a_search_cannot_forbid_are_refused_before_the_first_epoch() -> None:
    pieces = Vocabulary(("<pad>", "<start>", "<end>", "<unk>", "▁d", "og"), Joining(word_start="▁"))
    batches = cast("Any", None)
    Validation(batches, [], {}, pieces, SPECIAL, SearchOptions(suppress=("d", "og")))
    with pytest.raises(UsageError, match="`bad_endings` names 'dog'"):
        Validation(batches, [], {}, pieces, SPECIAL, SearchOptions(bad_endings=("dog",)))


def test_neutral_words_that_the_vocabulary_has_not_are_refused_before_the_first_epoch() -> None:
    pieces = ("<pad>", "<start>", "<end>", "<unk>", "a", "the", "man")
    batches, neutral = cast("Any", None), SearchOptions(neutral=True)
    assert Validation(batches, [], {}, Vocabulary((*pieces, "person")), SPECIAL, neutral).neutral is not None
    with pytest.raises(UsageError, match=r"search\.neutral is true, but this vocabulary has no neutral words"):
        Validation(batches, [], {}, Vocabulary(pieces), SPECIAL, neutral)
    with pytest.raises(UsageError, match=r"search\.neutral is true, but this vocabulary has no neutral words"):
        Validation(batches, [], {}, Vocabulary((*pieces, "person")), SPECIAL, neutral, language="fr")
