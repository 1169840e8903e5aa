"""Byte-pair encoding (Sennrich et al., 2016) learnt from the captions, on characters, so that every piece prints.

A word is cut into the pieces that its captions' most frequent merges lead to, single characters at the worst: no
caption whose characters were seen has an unknown piece, whatever its words. The first piece of a word begins with `▁`.
Scripts that write no spaces (Chinese, Japanese, Thai) have no words to begin: there every piece counts as one, `▁`
stands only where the caption has a space, and `Joining.unspaced` lists their letters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, groupby
from typing import Any

from caprun.bundle.vocabulary import Vocabulary
from captioner.config import DataConfig
from captioner.errors import CaptionerError
from captioner.text.splitting import is_unspaced, joining, split
from captioner.text.tokenizer import SPECIAL, SPECIAL_PIECES, Tokenizer, import_error

DEFAULT_SIZE = 8000
WORD_START = "▁"

Merges = list[tuple[str, str]]


def build_bpe(config: DataConfig, captions: Iterable[str]) -> BpeTokenizer:
    """Learn the merges of pairs seen at least `min_count` times, until the vocabulary has its size.

    Raises:
        CaptionerError: the captions have no word, or more characters than the vocabulary is to have pieces.
    """
    library = _library()
    texts = [_text(caption, config) for caption in captions]
    size = config.vocabulary_size or DEFAULT_SIZE
    characters = len(set(chain(*texts)) - {" "}) + len(SPECIAL_PIECES)
    if not any(texts):
        raise CaptionerError("No word is in the training captions, so bpe has nothing to learn from; add captions.")
    if characters > size:
        raise CaptionerError(
            f"data.vocabulary_size is {size}, and the captions' characters and the special pieces are {characters}; "
            "raise it to several times that."
        )
    learner = library.Tokenizer(library.models.BPE())
    learner.pre_tokenizer = library.pre_tokenizers.WhitespaceSplit()
    trainer = library.trainers.BpeTrainer(
        vocab_size=size - len(SPECIAL_PIECES), min_frequency=config.min_count, show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    learnt = json.loads(learner.to_str())["model"]
    pieces = sorted(learnt["vocab"], key=learnt["vocab"].__getitem__)
    vocabulary = Vocabulary((*SPECIAL_PIECES, *pieces), joining(pieces, word_start=WORD_START, unspaced=True))
    return BpeTokenizer(vocabulary, config, [(left, right) for left, right in learnt["merges"]])


def restore_bpe(config: DataConfig, vocabulary: Vocabulary, state: Mapping[str, Any]) -> BpeTokenizer:
    """See `captioner.text.tokenizer.restore_tokenizer`.

    Raises:
        CaptionerError: the state holds no merges of this vocabulary.
    """
    try:
        merges = [(left, right) for left, right in state["merges"]]
        pieces = set(vocabulary.pieces)
        if not all({left, right, left + right} <= pieces for left, right in merges):
            raise ValueError("merges of another vocabulary")
    except (KeyError, TypeError, ValueError):
        raise CaptionerError("The checkpoint's merges are missing or not its vocabulary's; copy it again.") from None
    return BpeTokenizer(vocabulary, config, merges)


class BpeTokenizer(Tokenizer):
    """Captions to ids of pieces of their words.

    Args:
        vocabulary: as `build_bpe` made it.
        config: how captions are written (lower_case, punctuation) and cut (max_length).
        merges: the pairs of pieces that become one, the first learnt first.
    """

    def __init__(self, vocabulary: Vocabulary, config: DataConfig, merges: Merges) -> None:
        super().__init__(vocabulary, config.max_length)
        self._config, self._merges = config, merges
        library = _library()
        unknown = SPECIAL_PIECES[SPECIAL.unk]
        pieces = {piece: index for index, piece in enumerate(vocabulary.pieces)}
        self._model = library.Tokenizer(library.models.BPE(pieces, merges, unk_token=unknown))
        self._model.pre_tokenizer = library.pre_tokenizers.WhitespaceSplit()

    def ids(self, caption: str) -> list[int]:
        """Of its pieces; see `Tokenizer.ids`."""
        return list(self._model.encode(_text(caption, self._config)).ids)

    def state(self) -> dict[str, Any]:
        """The merges: `{"merges": [[left, right], ...]}`."""
        return {"merges": [list(pair) for pair in self._merges]}


def _text(caption: str, config: DataConfig) -> str:
    """The parts of a caption that merges stay within, a space between them."""
    return " ".join(_parts(caption, config))


def _parts(caption: str, config: DataConfig) -> Iterator[str]:
    before = ""
    # a mark that someone typed is not to be taken for ours
    for token in split(caption.replace(WORD_START, " "), lower_case=config.lower_case, punctuation=config.punctuation):
        for position, run in enumerate(_runs(token.text)):
            spaced = position == 0 and token.spaced
            if is_unspaced(run[0]):
                # apart from the run, which would otherwise have each of its beginnings in the vocabulary twice
                yield from (WORD_START,) if spaced and before else ()
                yield run
            elif spaced or (position == 0 and not is_unspaced(before)):
                yield WORD_START + run
            else:
                yield run
            before = run[-1]


def _runs(token: str) -> Iterator[str]:
    """The runs of characters of scripts that write spaces between words, and of those that do not, by turns."""
    return ("".join(run) for _, run in groupby(token, is_unspaced))


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise import_error("tokenizers", "train", "bpe") from None
    return tokenizers
