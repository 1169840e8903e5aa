"""What may not be said next: repeated pieces and n-grams, suppressed pieces, and ends that come too early."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from caprun.errors import UsageError
from caprun.options import SearchOptions
from caprun.steps import Floats, Ids
from caprun.vocabulary import Vocabulary

Mask = npt.NDArray[np.bool_]

_NEVER = np.float32(-np.inf)


@dataclass(frozen=True, eq=False)
class Bans:
    """The bans of a search; see `SearchOptions`."""

    end: int
    min_length: int
    ngram: int
    window: int
    suppressed: Mask | None
    """By piece; None: no piece is."""
    suppressed_count: int
    bad_endings: Mask | None
    """Likewise."""

    @classmethod
    def of(cls, options: SearchOptions, end: int, vocabulary: Vocabulary | None) -> "Bans | None":
        """The bans that a search's options ask for; None if they ask for none.

        Raises:
            UsageError: they name pieces, and there is no vocabulary, or one that spells them otherwise or may.
        """
        suppressed = _mask(options.suppress, "suppress", vocabulary)
        bad_endings = _mask(options.bad_endings, "bad_endings", vocabulary)
        ngram, window = options.no_repeat_ngram, options.no_repeat_word
        if ngram == 1:  # no piece twice, however long ago
            ngram, window = 0, options.max_length
        if not (options.min_length or ngram or window) and suppressed is None and bad_endings is None:
            return None
        count = 0 if suppressed is None else int(suppressed.sum())
        return cls(end, options.min_length, ngram, window, suppressed, count, bad_endings)

    def most(self, step: int) -> int:
        """The most pieces that can be banned after `step` pieces: so many more candidates leave enough of them."""
        count = self.suppressed_count + min(step, self.window)
        count += step < self.min_length or self.bad_endings is not None
        if self.ngram:
            count += max(0, step - self.ngram + 1)
        return count

    def applied(self, history: Ids, candidate: Ids, log_prob: Floats) -> Floats:
        """The candidates' log-probabilities, -inf where they may not be said.

        Args:
            history: (rows, beams, step), the pieces of each beam, START not among them.
            candidate, log_prob: (rows, beams, k).
        """
        for banned in self._banned(history, candidate):
            log_prob = np.where(banned, _NEVER, log_prob)
        return log_prob

    def _banned(self, history: Ids, candidate: Ids) -> Iterator[Mask]:
        """Each ban that is about this step: where it applies, broadcast to (rows, beams, k)."""
        step = history.shape[2]
        if self.suppressed is not None:
            yield self.suppressed[candidate]
        if step < self.min_length:
            yield candidate == self.end
        elif self.bad_endings is not None and step:
            yield (candidate == self.end) & self.bad_endings[history[:, :, -1:]]
        if self.window and step:
            yield _among(candidate, history[:, :, -self.window :])
        if self.ngram and step >= self.ngram:
            follows = self._begins_again(history)
            if follows.any():
                yield _among(candidate, np.where(follows, history[:, :, self.ngram - 1 :], -1))

    def _begins_again(self, history: Ids) -> Mask:
        """(rows, beams, starts): where an n-gram starts whose pieces but the last are those said last."""
        starts = history.shape[2] - self.ngram + 1
        same: Mask = history[:, :, :starts] == history[:, :, starts, None]
        for offset in range(1, self.ngram - 1):
            same &= history[:, :, offset : offset + starts] == history[:, :, starts + offset, None]
        return same


def _among(candidate: Ids, pieces: Ids) -> Mask:
    """Which candidates (rows, beams, k) are among a beam's pieces (rows, beams, any)."""
    one = pieces.shape[2] == 1  # the usual case, in one operation
    found: Mask = candidate == pieces if one else (candidate[:, :, :, None] == pieces[:, :, None, :]).any(3)
    return found


@functools.lru_cache(maxsize=16)
def _mask(pieces: tuple[str, ...], name: str, vocabulary: Vocabulary | None) -> Mask | None:
    if not pieces:
        return None
    if vocabulary is None:
        raise UsageError(f"{name} names pieces; the search must be told the vocabulary.")
    joining = vocabulary.joining
    spells = bool(joining.continuation or joining.word_start or joining.unspaced)
    index = {piece: i for i, piece in enumerate(vocabulary.pieces)}
    mask = np.zeros(len(vocabulary), np.bool_)
    for piece in pieces:
        found = index.get(piece, index.get(joining.word_start + piece))
        if found is not None:
            mask[found] = True
        elif (lower := piece.lower()) in index or joining.word_start + lower in index:
            raise UsageError(
                f"{name} names {piece!r}, which is no piece of the model's vocabulary, but {lower!r} is; name that."
            )
        elif spells:  # where pieces are whole words, one that is not there is never said
            raise UsageError(
                f"{name} names {piece!r}, which is no piece of the model's vocabulary: it may be spelled in several."
            )
    return mask if mask.any() else None
