"""Greedy and beam search in NumPy over a step function: the one definition of search.

What takes a step (ONNX Runtime, PyTorch, TorchScript) is behind `Steps`; what is searched is the same for all.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from caprun.errors import UsageError

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class StepOutput(NamedTuple):
    """What a decoder says after one step."""

    log_prob: Floats
    """(rows, beams, k): log-probabilities of the k likeliest next pieces, the likeliest first."""
    candidate: Ids
    """(rows, beams, k): those pieces."""
    alpha: Floats | None
    """(rows, beams, regions): where each beam looked, if the model attends and somebody wants to know."""


class Steps(Protocol):
    """A decoder that has seen a batch of photos and carries their state from step to step."""

    def __call__(self, row: Ids, parent: Ids, token: Ids, k: int) -> StepOutput:
        """Read one piece a beam and say which may follow.

        Args:
            row: (rows,), the photos still being captioned, as indices into the batch.
            parent: (rows, beams), the states to go on from, as indices into the rows x beams states that the call
                before left (at first: one state a photo).
            token: (rows, beams), the pieces said last.
            k: how many candidates to return; a smaller vocabulary has fewer.
        """
        ...


@dataclass(frozen=True)
class SearchOptions:
    """How captions are searched for.

    Raises:
        UsageError: a value out of its range.
    """

    beam_size: int = 3
    """Captions kept at every step; 1 is greedy search."""
    max_length: int = 22
    """Most steps: a caption has at most as many pieces, its END counted."""
    length_penalty: float = 0.7
    """A caption's score is its log-probability over its length (END counted) to this power; 0 prefers short ones."""

    def __post_init__(self) -> None:
        for name, low, high in (("beam_size", 1, 100), ("max_length", 1, 1000), ("length_penalty", 0, 10)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise UsageError(f"{name} is {value}; it must lie between {low} and {high}.")


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """A caption as ids."""

    ids: tuple[int, ...]
    """Its pieces, without END."""
    log_probs: npt.NDArray[np.float64]
    """Of each piece, and last that of END where the caption is finished."""
    finished: bool
    """False where `max_length` came before END."""
    alpha: Floats | None
    """(pieces, regions): where the decoder looked for each piece."""

    @property
    def log_prob(self) -> float:
        """Of the whole caption."""
        return float(self.log_probs.sum())


def search(steps: Steps, photos: int, start: int, end: int, options: SearchOptions) -> list[Hypothesis]:
    """Find a caption for each of a batch of photos.

    At every step the best `beam_size` extensions of a photo's captions are kept; those that end are finished, the
    rest live on. A photo is done when no live caption can still beat its best finished one: log-probabilities only
    fall, so `log_prob / max_length ** length_penalty` bounds what a live one can reach. A photo of which nothing has
    finished at `max_length` gets its best unfinished caption.

    Args:
        steps: the decoder, at its first step.
        photos: how many photos it has seen.
        start, end: ids of START and END.
        options: width, length and penalty.

    Returns:
        One hypothesis a photo, in order. None depends on what else is in the batch.
    """
    width, longest = options.beam_size, options.max_length
    said = np.zeros((longest, photos, width), np.int64)  # piece said at each step
    origin = np.zeros((longest, photos, width), np.int64)  # beam of the step before it
    gained = np.zeros((longest, photos, width), np.float64)  # its log-probability
    looked: list[tuple[Ids, Floats]] = []  # rows and their alpha at each step
    best_score = np.full(photos, -np.inf)
    best_at = np.full((photos, 2), -1)  # step and beam of the best finished caption
    live_at = np.zeros((photos, 2), np.int64)  # and of the best live one

    row = np.arange(photos)
    parent, token = row[:, None], np.full((photos, 1), start, np.int64)
    total = np.zeros((photos, 1))  # log-probability of each beam; -inf for one that is no more
    for step in range(longest):
        output = steps(row, parent, token, width)
        beams = token.shape[1]
        if output.alpha is not None:
            looked.append((row, output.alpha))
        extended = (total[:, :, None] + output.log_prob).reshape(len(row), -1)
        kept = np.argsort(-extended, axis=1, kind="stable")[:, :width]
        beam = kept // output.log_prob.shape[2]
        total = np.take_along_axis(extended, kept, 1)
        token = np.take_along_axis(output.candidate.reshape(len(row), -1), kept, 1)
        across = slice(0, kept.shape[1])
        said[step, row, across], origin[step, row, across] = token, beam
        gained[step, row, across] = np.take_along_axis(output.log_prob.reshape(len(row), -1), kept, 1)

        score = np.where(token == end, total, -np.inf) / (step + 1) ** options.length_penalty
        _keep_best(best_score, best_at, row, score, step)
        total = np.where(token == end, -np.inf, total)
        live_at[row] = np.stack([np.full(len(row), step), total.argmax(1)], 1)

        reachable = total.max(1) / longest**options.length_penalty
        live = np.flatnonzero((reachable > best_score[row]) & np.isfinite(reachable))
        if not len(live):
            break
        parent = live[:, None] * beams + beam[live]
        row, token, total = row[live], token[live], total[live]

    finished = best_at[:, 0] >= 0
    best_at[~finished] = live_at[~finished]
    return [
        _trace(photo, best_at[photo], bool(finished[photo]), said, origin, gained, looked) for photo in range(photos)
    ]


def _keep_best(
    best_score: npt.NDArray[np.float64], best_at: Ids, row: Ids, score: npt.NDArray[np.float64], step: int
) -> None:
    winner = score.argmax(1)
    score = score[np.arange(len(row)), winner]
    better = score > best_score[row]
    best_score[row[better]] = score[better]
    best_at[row[better], 0] = step
    best_at[row[better], 1] = winner[better]


def _trace(
    photo: int,
    at: Ids,
    finished: bool,
    said: Ids,
    origin: Ids,
    gained: npt.NDArray[np.float64],
    looked: list[tuple[Ids, Floats]],
) -> Hypothesis:
    """Walk back from a caption's last piece to its first."""
    ids: list[int] = []
    log_probs: list[float] = []
    alpha: list[Floats] = []
    beam = int(at[1])
    for step in range(int(at[0]), -1, -1):
        ids.append(int(said[step, photo, beam]))
        log_probs.append(float(gained[step, photo, beam]))
        beam = int(origin[step, photo, beam])
        if looked:
            row, seen = looked[step]
            alpha.append(seen[np.searchsorted(row, photo), beam])
    if finished:  # END is no piece of the caption; what was looked at to say it is nobody's affair
        del ids[0], alpha[:1]
    return Hypothesis(
        tuple(reversed(ids)),
        np.array(log_probs[::-1]),
        finished,
        np.stack(alpha[::-1]) if alpha else None,
    )
