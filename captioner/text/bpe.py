"""Byte-pair encoding (Sennrich et al., 2016) of characters, learnt from the captions; every piece is printable.

A word is split by the most frequent merges, in the worst case into single characters, so a caption has no unknown piece
if its characters are known. The first piece of a word starts with `▁`. In scripts without spaces (Chinese, Japanese,
Thai) words have no visible beginning: `▁` occurs only where the caption has a space, and `Joining.unspaced` lists their
letters. Chinese characters are never merged, because merges would produce pieces for entire phrases, each with few
captions to learn it from; characters work better than words in most tasks (Li et al., 2019).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, groupby
from typing import Any

from tokenizers import Tokenizer as Model
from tokenizers import models, pre_tokenizers, trainers

from caprun.bundle.vocabulary import Vocabulary
from captioner.config import DataConfig
from captioner.errors import CaptionerError
from captioner.text.scripts import HAN_OR_KANA, is_ideograph, is_unspaced, script_of
from captioner.text.splitting import joining, split
from captioner.text.tokenizer import SPECIAL, SPECIAL_PIECES, Tokenizer

DEFAULT_SIZE = 8000
WORD_START = "▁"

Merges = list[tuple[str, str]]


def build_bpe(config: DataConfig, captions: Iterable[str]) -> Tokenizer:
    """Learns merges of pairs that occur at least `min_count` times, until the vocabulary is full.

    Raises:
        CaptionerError: the captions have no words, or more characters than the vocabulary has room for.
    """
    texts = [_text(caption, config) for caption in captions]
    size = config.vocabulary_size or DEFAULT_SIZE
    characters = len(set(chain(*texts)) - {" "}) + len(SPECIAL_PIECES)
    if not any(texts):
        raise CaptionerError("The training captions have no words, which bpe needs; add captions.")
    if characters > size:
        raise CaptionerError(
            f"data.vocabulary_size is {size}, but there are {characters} characters and special pieces; raise "
            "it to several times that number."
        )
    learner = Model(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(SPECIAL_PIECES), min_frequency=config.min_count, show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    learnt = json.loads(learner.to_str())["model"]
    pieces = sorted(learnt["vocab"], key=learnt["vocab"].__getitem__)
    vocabulary = Vocabulary((*SPECIAL_PIECES, *pieces), joining(pieces, word_start=WORD_START))
    return _tokenizer(config, vocabulary, [(left, right) for left, right in learnt["merges"]])


def restore_bpe(config: DataConfig, vocabulary: Vocabulary, state: Mapping[str, Any]) -> Tokenizer:
    """Restores a tokenizer; see `captioner.text.build.restore_tokenizer`.

    Raises:
        CaptionerError: the state has no merges, or merges of another vocabulary.
    """
    try:
        merges = [(left, right) for left, right in state["merges"]]
        pieces = set(vocabulary.pieces)
        if not all({left, right, left + right} <= pieces for left, right in merges):
            raise ValueError("merges of another vocabulary")
    except (KeyError, TypeError, ValueError):
        raise CaptionerError(
            "The checkpoint's merges are missing or do not match its vocabulary; copy the file again."
        ) from None
    return _tokenizer(config, vocabulary, merges)


def _tokenizer(config: DataConfig, vocabulary: Vocabulary, merges: Merges) -> Tokenizer:
    pieces = {piece: index for index, piece in enumerate(vocabulary.pieces)}
    model = Model(models.BPE(pieces, merges, unk_token=SPECIAL_PIECES[SPECIAL.unk]))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Tokenizer(
        vocabulary,
        config,
        lambda caption: list(model.encode(_text(caption, config)).ids),
        {"merges": [list(pair) for pair in merges]},
    )


def _text(caption: str, config: DataConfig) -> str:
    """Returns the parts of a caption, separated by spaces; pieces are merged only within a part."""
    return " ".join(_parts(caption, config))


def _parts(caption: str, config: DataConfig) -> Iterator[str]:
    before = ""
    # a `▁` in a caption must not look like the beginning of a word
    for token in split(caption.replace(WORD_START, " "), lower_case=config.lower_case, punctuation=config.punctuation):
        for position, run in enumerate(_runs(token.text)):
            spaced = position == 0 and token.spaced
            if is_unspaced(run[0]):
                # Chinese and Japanese have no spaces; in Thai, spaces end phrases
                spaced = spaced and not (before and script_of(before) == script_of(run[0]) == HAN_OR_KANA)
                # a separate part; otherwise the vocabulary would have the start of each run twice
                yield from (WORD_START,) if spaced and before else ()
                yield run
            elif spaced or (position == 0 and not is_unspaced(before)):
                yield WORD_START + run
            else:
                yield run
            before = run[-1]


def _runs(token: str) -> Iterator[str]:
    """Yields runs of characters, all from scripts with or all from scripts without spaces between words.

    Each Chinese character is a separate run.
    """
    for _, run in groupby(token, is_unspaced):
        for ideographs, part in groupby(run, is_ideograph):
            characters = list(part)
            yield from characters if ideographs else ["".join(characters)]
