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
