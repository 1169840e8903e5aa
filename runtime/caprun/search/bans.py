"""Pieces that a search must not choose: repeated pieces and n-grams, suppressed pieces, and premature or bad ends."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from caprun.arrays import Float32Array, Ids
from caprun.errors import UsageError
from caprun.search.options import SearchOptions

if TYPE_CHECKING:
    from caprun.bundle.vocabulary import Vocabulary

Mask = npt.NDArray[np.bool_]

Spelling = tuple[Mask, ...]
"""For each of several consecutive pieces, a mask of the vocabulary, (pieces,), with the pieces that match."""

_NEVER = np.float32(-np.inf)


@dataclass(frozen=True, eq=False)
class Bans:
    """The bans of a search; see `SearchOptions`."""

    end: int
    min_length: int
    ngram: int
    window: int
    repeatable: Mask | None
    """Marks pieces that the window does not ban, (pieces,); None if it bans all."""
    suppressed: tuple[Spelling, ...]
    """Consecutive pieces, the last of which is suppressed."""
    suppressed_count: int
    bad_endings: tuple[Spelling, ...]
    """Consecutive pieces after which END is banned."""

    @classmethod
    def of(cls, options: SearchOptions, end: int, vocabulary: "Vocabulary | None") -> "Bans | None":
        """Creates the bans of search options; None if there are none.

        Raises:
            UsageError: The options name words, and there is no vocabulary or it cannot spell them.
        """
        # the cache hashes the whole vocabulary, so it is skipped if an option names no words
        suppressed = _spellings(options.suppress, "suppress", vocabulary) if options.suppress else ()
        bad_endings = _spellings(options.bad_endings, "bad_endings", vocabulary) if options.bad_endings else ()
        ngram, window = options.no_repeat_ngram, options.no_repeat_word
        if ngram == 1:  # no piece twice, at any distance
            ngram, window = 0, options.max_length
        repeatable = _pieces(options.repeatable, "repeatable", vocabulary) if options.repeatable and window else None
        if not (options.min_length or ngram or window or suppressed or bad_endings):
            return None
        count = int(np.logical_or.reduce([spelling[-1] for spelling in suppressed]).sum()) if suppressed else 0
        return cls(end, options.min_length, ngram, window, repeatable, suppressed, count, bad_endings)

    def allowing(self, pieces: Ids) -> "Bans":
        """Returns these bans with more repeatable pieces, if some pieces are repeatable."""
        if self.repeatable is None:
            return self
        repeatable = self.repeatable.copy()
        repeatable[pieces] = True
        return replace(self, repeatable=repeatable)

    def most(self, step: int) -> int:
        """Computes how many pieces can be banned after `step` pieces, and so how many extra candidates are needed."""
        count = self.suppressed_count + min(step, self.window)
        count += step < self.min_length or bool(self.bad_endings)
        if self.ngram:
            count += max(0, step - self.ngram + 1)
        return count

    def applied(self, history: Ids, candidate: Ids, log_prob: Float32Array) -> Float32Array:
        """Returns log-probabilities that are -inf for banned candidates.

        Args:
            history: Pieces of each beam without START; (rows, beams, step).
            candidate: Ids of the candidates; (rows, beams, k).
            log_prob: Their log-probabilities; (rows, beams, k).
        """
        for banned in self._banned(history, candidate):
            log_prob = np.where(banned, _NEVER, log_prob)
        return log_prob

    def _banned(self, history: Ids, candidate: Ids) -> Iterator[Mask]:
        """Yields where each ban of this step applies, broadcastable to (rows, beams, k)."""
        step = history.shape[2]
        for *before, last in self.suppressed:
            if step >= len(before):
                yield _said(before, history) & last[candidate]
        if step < self.min_length:
            yield candidate == self.end
        else:
            for spelling in self.bad_endings:
                if step >= len(spelling):
                    yield (candidate == self.end) & _said(spelling, history)
        if self.window and step:
            repeats = _among(candidate, history[:, :, -self.window :])
            yield repeats if self.repeatable is None else repeats & ~self.repeatable[candidate]
        if self.ngram and step >= self.ngram:
            follows = self._begins_again(history)
            if follows.any():
                yield _among(candidate, np.where(follows, history[:, :, self.ngram - 1 :], -1))

    def _begins_again(self, history: Ids) -> Mask:
        """Finds the n-grams whose first n - 1 pieces equal the last n - 1 pieces; (rows, beams, starts)."""
        starts = history.shape[2] - self.ngram + 1
        same: Mask = history[:, :, :starts] == history[:, :, starts, None]
        for offset in range(1, self.ngram - 1):
            same &= history[:, :, offset : offset + starts] == history[:, :, starts + offset, None]
        return same


def _among(candidate: Ids, pieces: Ids) -> Mask:
    """Returns which candidates, (rows, beams, k), are among a beam's pieces, (rows, beams, any)."""
    one = pieces.shape[2] == 1  # the usual case needs one operation
    found: Mask = candidate == pieces if one else (candidate[:, :, :, None] == pieces[:, :, None, :]).any(3)
    return found


def _said(spelling: Sequence[Mask], history: Ids) -> Mask:
    """Returns which beams end with consecutive pieces, one in each mask; (rows, beams, 1)."""
    said = np.ones((*history.shape[:2], 1), np.bool_)
    for position, mask in enumerate(spelling, -len(spelling)):
        said &= mask[history[:, :, position, None]]
    return said


@functools.lru_cache(maxsize=16)
def _pieces(words: tuple[str, ...], option: str, vocabulary: "Vocabulary | None") -> Mask:
    """Marks pieces that are one of the words, or punctuation, (pieces,); words that are not one piece are ignored."""
    if vocabulary is None:
        raise UsageError(f"`{option}` names words; give the search a vocabulary.")
    punctuation = [not any(map(str.isalnum, text)) for text in vocabulary.texts]
    return np.array(vocabulary.marked(words, option), np.bool_) | np.array(punctuation, np.bool_)


@functools.lru_cache(maxsize=16)
def _spellings(words: tuple[str, ...], option: str, vocabulary: "Vocabulary | None") -> tuple[Spelling, ...]:
    if vocabulary is None:
        raise UsageError(f"`{option}` names words; give the search a vocabulary.")
    single = np.zeros(len(vocabulary), np.bool_)
    longer: list[Spelling] = []
    for pieces in vocabulary.spellings(words, option, at_end=option == "bad_endings"):
        masks = [np.isin(np.arange(len(vocabulary)), list(ids)) for ids in pieces]
        if len(masks) == 1:
            single |= masks[0]
        else:
            longer.append(tuple(masks))
    return (*([(single,)] if single.any() else []), *longer)
