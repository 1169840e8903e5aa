"""BERT's WordPiece, limited to the pieces of a `vocab.txt` that occur in the training captions.

A word is split by the greedy longest match of BERT's tokenizer (Devlin et al., 2019; Wu et al., 2016). Its vocabulary
was made for Wikipedia, and captions use few of its 30,522 pieces. Only pieces that occur at least `min_count` times are
kept, together with the single characters that spell words with rarer pieces. So words of the training captions that
BERT knows are never unknown. Lower-casing also removes accents, as in BERT's uncased models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer as Model
from tokenizers import models, normalizers, pre_tokenizers

from caprun.bundle.vocabulary import Vocabulary
from captioner.config import DataConfig
from captioner.errors import CaptionerError
from captioner.text.splitting import joining, split
from captioner.text.tokenizer import SPECIAL, SPECIAL_PIECES, Tokenizer

_CONTINUATION = "##"
_UNKNOWN = SPECIAL_PIECES[SPECIAL.unk]
_LONGEST_WORD = 100  # characters; BERT treats longer words as unknown

# BERT turns marks inside words into separate pieces, `t - shirt`; `split` leaves no other such marks
_INSIDE_WORDS = ("-", "'")


def build_wordpiece(config: DataConfig, file: str, captions: Iterable[str]) -> Tokenizer:
    """Builds a tokenizer with the pieces that the captions need.

    Raises:
        CaptionerError: the file cannot be read or has no piece of the captions, or the vocabulary has no room for
            single characters.
    """
    known = _read(Path(file).expanduser())
    texts = [_text(caption, config) for caption in captions]
    counts = _count(texts, known, config)
    if not counts:
        raise CaptionerError(
            f"No piece of {file} is in the training captions; name a BERT vocab.txt for their language."
        )
    characters = _count(texts, (p for p in known if len(p.removeprefix(_CONTINUATION)) == 1), config)
    frequent = [p for p in _by_count(counts) if counts[p] >= config.min_count and p not in characters]
    used = _count(texts, (*characters, *frequent), config)
    if config.vocabulary_size and len(used) > config.vocabulary_size - len(SPECIAL_PIECES):
        room = config.vocabulary_size - len(SPECIAL_PIECES) - len(characters)
        if room < 0:
            raise CaptionerError(
                f"data.vocabulary_size is {config.vocabulary_size}, but there are {config.vocabulary_size - room} "
                "characters and special pieces; raise it to several times that number."
            )
        used = _count(texts, (*characters, *frequent[:room]), config)
    pieces = _by_count(used)
    rules = joining(pieces, continuation=_CONTINUATION, before=_INSIDE_WORDS, after=_INSIDE_WORDS)
    return restore_wordpiece(config, Vocabulary((*SPECIAL_PIECES, *pieces), rules))


def restore_wordpiece(config: DataConfig, vocabulary: Vocabulary) -> Tokenizer:
    """Restores a tokenizer from the vocabulary of `build_wordpiece`."""
    ids = {piece: index for index, piece in enumerate(vocabulary.pieces)}
    model = _model(ids, config.lower_case, vocabulary.pieces[SPECIAL.unk])
    return Tokenizer(vocabulary, config, lambda caption: list(model.encode(_text(caption, config)).ids))


def _read(file: Path) -> list[str]:
    """Returns the pieces of a file, without blank and special ones."""
    try:
        # splitlines() would also split at pieces that are Unicode line breaks
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise CaptionerError(
            f"The WordPiece vocabulary {file} cannot be read: {error.strerror}; name BERT's vocab.txt as "
            "data.tokenizer=wordpiece:FILE."
        ) from None
    except UnicodeDecodeError:
        raise CaptionerError(f"The WordPiece vocabulary {file} is not UTF-8 text; name BERT's vocab.txt.") from None
    pieces = dict.fromkeys(line.strip() for line in lines)
    return [piece for piece in pieces if piece and piece not in SPECIAL_PIECES]


def _text(caption: str, config: DataConfig) -> str:
    tokens = split(caption, lower_case=config.lower_case, punctuation=config.punctuation)
    return " ".join(token.text for token in tokens)


def _count(texts: Iterable[str], pieces: Iterable[str], config: DataConfig) -> Counter[str]:
    """Counts the pieces of the texts, split with a vocabulary of only these pieces."""
    model = _model({piece: index for index, piece in enumerate((_UNKNOWN, *pieces))}, config.lower_case)
    counts = Counter(piece for text in texts for piece in model.encode(text).tokens)
    del counts[_UNKNOWN]
    return counts


def _by_count(counts: Counter[str]) -> list[str]:
    return sorted(counts, key=lambda piece: (-counts[piece], piece))


def _model(ids: dict[str, int], lower_case: bool, unknown: str = _UNKNOWN) -> Model:
    model = Model(
        models.WordPiece(
            ids, unk_token=unknown, max_input_chars_per_word=_LONGEST_WORD, continuing_subword_prefix=_CONTINUATION
        )
    )
    model.normalizer = normalizers.BertNormalizer(lowercase=lower_case)
    model.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return model
