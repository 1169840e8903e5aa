"""Gender-neutral search: at every step, the probabilities of gendered words are added to those of neutral words."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from caprun.arrays import Float32Array, Ids
from caprun.errors import BundleError
from caprun.search.hypothesis import Hypothesis
from caprun.search.steps import WHOLE, Step, StepOutput


class Neutralizer:
    """A bundle's neutral words as ids, for searches; `caprun.bundle.neutral_words` makes it.

    Args:
        groups: For each neutral piece the gendered pieces that it replaces; no piece is in two groups.
        phrases: For each clumsy phrase its replacement, which has no more pieces than the phrase.
        pieces: Size of the vocabulary.
        word_starts: Finds where words begin in a caption.
    """

    def __init__(
        self,
        groups: Mapping[int, Sequence[int]],
        phrases: Mapping[tuple[int, ...], tuple[int, ...]],
        pieces: int,
        word_starts: Callable[[Sequence[int]], Collection[int]],
    ) -> None:
        members = [member for neutral, gendered in groups.items() for member in (neutral, *gendered)]
        self._word_starts = word_starts
        self.written = np.array(list(groups), np.int64)
        """The neutral piece of each group; int64 (groups,)."""
        self._first = np.cumsum([0, *(1 + len(gendered) for gendered in groups.values())])[:-1]
        """Position of the first member of each group among all members; (groups,)."""
        self._among_sorted = np.argsort(np.argsort(members))
        """Position of each member, group by group, among all members sorted by id; (members,)."""
        self._in_group = np.zeros(pieces, np.bool_)
        self._in_group[members] = True
        self._phrases = phrases
        self._longest = max(map(len, phrases), default=0)

    def step(self, steps: Step, row: Ids, parent: Ids, token: Ids, k: int) -> StepOutput:
        """Takes a step of a decoder and adds the probabilities of each group to its neutral piece.

        All members of a group count, however unlikely, so the decoder returns its whole vocabulary. See
        `caprun.search.steps.Steps` for the other arguments and the result.

        Raises:
            BundleError: A member of a group is missing from the candidates, or repeated.
        """
        output = steps(row, parent, token, WHOLE)
        rows, beams, pieces = output.candidate.shape
        log_prob, candidate = output.log_prob.reshape(-1, pieces), output.candidate.reshape(-1, pieces)
        in_group = self._in_group[candidate]
        count = len(self._among_sorted)
        if (in_group.sum(1) != count).any():
            raise BundleError("The decoder does not return each piece of its vocabulary once; export the bundle again.")
        # these contain the k likeliest candidates outside all groups
        most = min(pieces, k + count)
        others = np.where(in_group[:, :most], np.float32(-np.inf), log_prob[:, :most])
        sums = self._sums(log_prob[in_group].reshape(-1, count), candidate[in_group].reshape(-1, count))
        neutral = np.broadcast_to(self.written, sums.shape)
        log_prob = np.concatenate([others, sums], 1)
        candidate = np.concatenate([candidate[:, :most], neutral], 1)
        likeliest = (-log_prob).argsort(1, kind="stable")[:, : min(k, pieces - count + len(self.written))]
        return output._replace(
            log_prob=np.take_along_axis(log_prob, likeliest, 1).reshape(rows, beams, -1),
            candidate=np.take_along_axis(candidate, likeliest, 1).reshape(rows, beams, -1),
        )

    def _sums(self, log_prob: Float32Array, member: Ids) -> Float32Array:
        """Adds up the log-probabilities of members, (any, members) in any order, to those of groups, (any, groups)."""
        by_id = np.take_along_axis(log_prob, member.argsort(1), 1)
        sums = np.logaddexp.reduceat(by_id[:, self._among_sorted].astype(np.float64), self._first, 1)
        found: Float32Array = np.minimum(sums, 0).astype(np.float32)  # rounding may make a sum larger than 1
        return found

    def rephrased(self, hypothesis: Hypothesis) -> Hypothesis:
        """Rewrites the clumsy phrases of a caption; its log-probabilities do not change."""
        result = self._rewritten(hypothesis.ids)
        if result is None:
            return hypothesis
        return replace(
            hypothesis,
            ids=tuple(piece for piece, _ in result),
            sources=tuple(positions for _, positions in result),
        )

    def _rewritten(self, ids: tuple[int, ...]) -> list[tuple[int, tuple[int, ...]]] | None:
        """Returns each piece and the positions that it stands for; None if no phrase is rewritten.

        From left to right, the longest phrase of whole words is rewritten. Each written piece stands for the piece at
        its place in the phrase, and the last one for the rest of the phrase too.
        """
        result: list[tuple[int, tuple[int, ...]]] = []
        words: set[int] | None = None  # where words begin, computed at the first phrase
        position = 0
        while position < len(ids):
            ends = range(min(position + self._longest, len(ids)), position, -1)
            found = [end for end in ends if ids[position:end] in self._phrases]
            if found and words is None:
                words = {*self._word_starts(ids), len(ids)}
            end = next((end for end in found if words and {position, end} <= words), None)
            written = ids[position : position + 1] if end is None else self._phrases[ids[position:end]]
            end = end or position + 1
            begins = [*range(position, position + len(written)), end]
            result += [(piece, tuple(range(*span))) for piece, span in zip(written, pairwise(begins), strict=True)]
            position = end
        unchanged = all(ids[first] == piece and not others for piece, (first, *others) in result)
        return None if unchanged else result

    def all_rephrased(self, hypothesis: Hypothesis, *, drawn: bool) -> Hypothesis:
        """Rephrases a photo's captions; drops alternatives that have become equal, unless they were drawn."""
        first = self.rephrased(hypothesis)
        others: list[Hypothesis] = []
        for other in map(self.rephrased, hypothesis.alternatives):
            if drawn or other.ids not in {one.ids for one in (first, *others)}:
                others.append(other)
        return replace(first, alternatives=tuple(others))
