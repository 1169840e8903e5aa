"""Captions as ids, and reading them back from what a search did in each step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from caprun.arrays import Float32Array, Float64Array, Ids


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """A caption as ids."""

    ids: tuple[int, ...]
    """Its pieces, without END."""
    log_probs: Float64Array
    """Of each piece, and last that of END where the caption is finished; the model's own, whatever chose it."""
    finished: bool
    """False where `max_length` came before END, or bans left nothing to say."""
    alpha: Float32Array | None
    """(pieces, regions): where the decoder looked for each piece."""
    alternatives: tuple["Hypothesis", ...] = ()
    """The others of `n_best`, after this one; fewer where there are fewer."""
    sources: tuple[tuple[int, ...], ...] | None = None
    """Of each of `ids`, the positions in `log_probs` and `alpha` that it stands for, where a phrase was rewritten after
    the search; None where each stands for its own."""

    @property
    def log_prob(self) -> float:
        """Of the whole caption."""
        return float(self.log_probs.sum())

    def positions(self, pieces: Sequence[int]) -> list[int]:
        """Returns the positions in `log_probs` and `alpha` that the pieces at these places of `ids` stand for."""
        if self.sources is None:
            return list(pieces)
        return [position for piece in pieces for position in self.sources[piece]]


class SearchStep(NamedTuple):
    """What a search did in one step; what is needed of it in the end alone is left for then."""

    row: Ids
    """(rows,): the photos it was about."""
    parent: Ids | None
    """(rows, beams): the states of the step before that its beams go on from, as `Steps` counts them, but within this
    step's rows; None where each goes on from its own, or from the only one of its photo."""
    token: list[list[int]]
    """rows x beams: the piece each says."""
    log_prob: Float32Array
    """(rows, beams of the step before, candidates), of all that could be said."""
    choice: Ids | None
    """(rows, beams): which of them is said, as an index into all candidates; None for the first of each beam."""
    alpha: Float32Array | None
    """(rows, beams of the step before, regions): where those looked to say it."""

    def gained(self) -> list[list[float]]:
        """Rows x beams: the log-probability of the piece each says."""
        gained: list[list[float]] = (
            self.log_prob[:, :, 0] if self.choice is None else self.log_prob.take(self.choice)
        ).tolist()
        return gained


class CaptionEnd(NamedTuple):
    """Where a caption's last piece is found."""

    step: int
    """-1: before the first; the caption is empty and unfinished."""
    beam: int
    finished: bool


class Trace:
    """Reads captions back, from their last piece to their first.

    Args:
        log: all steps of a search.
        photos: the size of its batch.
    """

    def __init__(self, log: Sequence[SearchStep], photos: int) -> None:
        # single elements are many times faster to read from lists than from arrays
        self._tokens = [step.token for step in log]
        self._gained = [step.gained() for step in log]
        self._parents = [None if step.parent is None else step.parent.tolist() for step in log]
        self._widths = [step.log_prob.shape[1] for step in log]
        self._alphas = [step.alpha for step in log]
        self._positions = [
            None if len(step.row) == photos else {photo: i for i, photo in enumerate(step.row.tolist())} for step in log
        ]

    def hypothesis(self, photo: int, places: Sequence[CaptionEnd]) -> Hypothesis:
        """A photo's captions, the first with the others as its alternatives."""
        first, *others = (self._read(photo, place) for place in places)
        return replace(first, alternatives=tuple(others)) if others else first

    def pieces(self, photo: int, place: CaptionEnd) -> tuple[int, ...]:
        """What is said up to a place."""
        return self._read(photo, place).ids

    def _read(self, photo: int, place: CaptionEnd) -> Hypothesis:
        ids: list[int] = []
        log_probs: list[float] = []
        alpha: list[Float32Array] = []
        beam = place.beam
        for step in range(place.step, -1, -1):
            positions, parents, seen = self._positions[step], self._parents[step], self._alphas[step]
            at = photo if positions is None else positions[photo]
            ids.append(self._tokens[step][at][beam])
            log_probs.append(self._gained[step][at][beam])
            beam = (beam if parents is None else parents[at][beam]) % self._widths[step]
            if seen is not None:
                alpha.append(seen[at, beam])
        if place.finished:  # END is no piece of the caption; what was looked at to say it is nobody's affair
            del ids[0], alpha[:1]
        return Hypothesis(
            tuple(reversed(ids)),
            np.array(log_probs[::-1], np.float64),
            place.finished,
            np.stack(alpha[::-1]) if alpha else None,
        )
