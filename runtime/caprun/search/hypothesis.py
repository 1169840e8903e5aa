"""Captions as ids, and the trace of a search that they are read from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from caprun.arrays import Float32Array, Float64Array, Ids


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """A caption as ids."""

    ids: tuple[int, ...]
    """Pieces without END."""
    log_probs: Float64Array
    """Log-probability of each piece, and of END if the caption is finished; always the model's."""
    finished: bool
    """False if the caption was cut at `max_length`, or if bans left no piece to continue with."""
    alpha: Float32Array | None
    """Attention weights of each piece, (pieces, regions); None if not requested."""
    alternatives: tuple["Hypothesis", ...] = ()
    """The other captions of `n_best`, at most `n_best - 1`."""
    sources: tuple[tuple[int, ...], ...] | None = None
    """For a caption with a rewritten phrase: the positions in `log_probs` and `alpha` that each of `ids` stands for."""

    @property
    def log_prob(self) -> float:
        """Log-probability of the whole caption."""
        return float(self.log_probs.sum())

    def positions(self, pieces: Sequence[int]) -> list[int]:
        """Finds the positions in `log_probs` and `alpha` of the pieces at these indices of `ids`."""
        if self.sources is None:
            return list(pieces)
        return [position for piece in pieces for position in self.sources[piece]]


class SearchStep(NamedTuple):
    """The record of one step of a search; single elements are read much faster from lists than from arrays."""

    row: Ids
    """Photos of the step; (rows,)."""
    parent: Ids | None
    """States of the previous step that the beams continue, counted within this step's rows, (rows, beams); None if each
    beam continues its own state or the only one of its photo."""
    token: list[list[int]]
    """Piece of each beam; rows x beams."""
    gained: list[list[float]]
    """Log-probability of that piece; rows x beams."""
    width: int
    """Beams of the previous step."""
    alpha: Float32Array | None
    """Attention weights, (rows, beams of the previous step, regions); None if not requested."""


class CaptionEnd(NamedTuple):
    """The place of a caption's last piece."""

    step: int
    """Step of the piece; -1 for an empty, unfinished caption."""
    beam: int
    finished: bool


class Trace:
    """Reads captions from all steps of a search over a batch of photos, from their last piece to their first."""

    def __init__(self, log: Sequence[SearchStep], photos: int) -> None:
        self._log = log
        self._parents = [None if step.parent is None else step.parent.tolist() for step in log]
        self._positions = [
            None if len(step.row) == photos else {photo: i for i, photo in enumerate(step.row.tolist())} for step in log
        ]

    def hypothesis(self, photo: int, places: Sequence[CaptionEnd]) -> Hypothesis:
        """Reads a photo's captions; the first has the others as alternatives."""
        first, *others = (self._read(photo, place) for place in places)
        return replace(first, alternatives=tuple(others)) if others else first

    def _read(self, photo: int, place: CaptionEnd) -> Hypothesis:
        ids: list[int] = []
        log_probs: list[float] = []
        alpha: list[Float32Array] = []
        beam = place.beam
        for number in range(place.step, -1, -1):
            step, positions, parents = self._log[number], self._positions[number], self._parents[number]
            at = photo if positions is None else positions[photo]
            ids.append(step.token[at][beam])
            log_probs.append(step.gained[at][beam])
            beam = (beam if parents is None else parents[at][beam]) % step.width
            if step.alpha is not None:
                alpha.append(step.alpha[at, beam])
        if place.finished:  # END is not a piece of the caption, and its attention weights are not used
            del ids[0], alpha[:1]
        return Hypothesis(
            tuple(reversed(ids)),
            np.array(log_probs[::-1], np.float64),
            place.finished,
            np.stack(alpha[::-1]) if alpha else None,
        )
