"""Adds the new words of captions to a vocabulary of whole words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from caprun.bundle.vocabulary import Vocabulary
from captioner.text.build import build_tokenizer
from captioner.text.tokenizer import Tokenizer


def grown(tokenizer: Tokenizer, captions: Sequence[str]) -> Vocabulary:
    """Returns the tokenizer's vocabulary with the new words of captions behind its pieces, the most frequent first.

    A word is new if it occurs at least `min_count` times and is not known; `vocabulary_size` limits the whole. Pieces
    that spell words, as those of bpe, spell new ones too, so such a vocabulary stays as it is.
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
