"""Random languages, a decoder that speaks them, and plain reference searches."""

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from caprun.arrays import Float32Array, Ids
from caprun.bundle.vocabulary import Vocabulary
from caprun.search.decoding import search
from caprun.search.hypothesis import Hypothesis
from caprun.search.options import SearchOptions
from caprun.search.steps import StepOutput

PAD, START, END, UNK = range(4)
REGIONS = 3


class World:
    """A language that has a separate distribution for every history of every photo."""

    def __init__(self, seed: int, words: int, end: float = 0.0, *, hurry: float = 0.0) -> None:
        self.seed, self.vocabulary, self.end, self.hurry = seed, 4 + words, end, hurry

    @functools.cache  # noqa: B019 - a world exists only during its test
    def log_probs(self, photo: int, said: tuple[int, ...]) -> Float32Array:
        """Returns the log-probabilities after START and `said`; END is likelier for some photos than for others."""
        logits = np.random.default_rng([self.seed, photo, *said]).normal(0, 2, self.vocabulary)
        logits[END] += self.end + self.hurry * (photo * 2 % 5)
        logits[[PAD, START, UNK]] = -np.inf
        return (logits - np.log(np.exp(logits).sum())).astype(np.float32)

    def alpha(self, photo: int, said: tuple[int, ...]) -> Float32Array:
        """Returns the attention weights for the piece after `said`."""
        return np.random.default_rng([1, photo, *said]).dirichlet(np.ones(REGIONS)).astype(np.float32)


class FakeSteps:
    """A decoder with histories as states, so a wrong state or row gives other captions."""

    def __init__(self, world: World, photos: Sequence[int], *, alpha: bool = False) -> None:
        self.world, self.photos, self.alpha = world, photos, alpha
        self.states: list[tuple[int, tuple[int, ...]]] = [(photo, ()) for photo in photos]
        self.rows: list[list[int]] = []

    def __call__(self, row: Ids, parent: Ids, token: Ids, k: int) -> StepOutput:
        assert row.dtype == parent.dtype == token.dtype == np.int64
        assert parent.shape == token.shape == (len(row), parent.shape[1])
        states = []
        for index, parents, tokens in zip(row, parent, token, strict=True):
            for state, said in zip(parents, tokens, strict=True):
                photo, history = self.states[state]
                assert photo == self.photos[index], "a state of one photo goes on in the row of another"
                assert self.rows or said == START
                states.append((photo, (*history, int(said)) if self.rows else ()))
        self.states = states
        self.rows.append(row.tolist())
        log_prob = np.stack([self.world.log_probs(*state) for state in states])
        candidate = np.argsort(-log_prob, axis=1, kind="stable")[:, : min(k, self.world.vocabulary)]
        shape = (*token.shape, candidate.shape[1])
        alpha = np.stack([self.world.alpha(*state) for state in states]).reshape(*token.shape, REGIONS)
        return StepOutput(
            np.take_along_axis(log_prob, candidate, 1).reshape(shape),
            candidate.reshape(shape),
            alpha if self.alpha else None,
        )


class Found(NamedTuple):
    ids: tuple[int, ...]
    finished: bool


def vocabulary(world: World) -> Vocabulary:
    """Returns a vocabulary with pieces named after their ids: `p4`, `p5` and so on."""
    return Vocabulary(tuple(f"p{i}" for i in range(world.vocabulary)))


def run(
    world: World, photos: Sequence[int], options: SearchOptions, *, identities: Sequence[int] | None = None
) -> list[Hypothesis]:
    """Searches a batch of photos; their identities default to their numbers."""
    steps = FakeSteps(world, photos)
    identities = photos if identities is None else identities
    return search(steps, len(photos), START, END, options, vocabulary=vocabulary(world), identities=list(identities))


def found(hypotheses: Sequence[Hypothesis]) -> list[Found]:
    """Returns the best caption of each photo."""
    return [Found(hypothesis.ids, hypothesis.finished) for hypothesis in hypotheses]


def all_found(hypothesis: Hypothesis) -> list[Found]:
    """Returns the caption of a photo, followed by its alternatives."""
    return found([hypothesis, *hypothesis.alternatives])


def is_allowed(said: tuple[int, ...], piece: int, options: SearchOptions) -> bool:
    """Returns whether the bans allow a piece after `said`."""
    if f"p{piece}" in options.suppress:
        return False
    if piece == END:
        too_early = len(said) < options.min_length
        return not (too_early or (said and f"p{said[-1]}" in options.bad_endings))
    size = options.no_repeat_ngram
    window = len(said) if size == 1 else options.no_repeat_word
    if window and piece in said[-window:] and f"p{piece}" not in options.repeatable:
        return False
    longer = (*said, piece)
    grams = [longer[i : i + size] for i in range(len(longer) - size + 1)] if size > 1 else []
    return len(set(grams)) == len(grams)


Live = list[tuple[float, tuple[int, ...]]]


def textbook(world: World, photo: int, options: SearchOptions) -> list[Found]:
    """Returns a photo's n best captions in a plain beam search over the whole vocabulary, without early stopping."""
    each = options.beam_size // options.groups
    live: list[Live] = [[(0.0, ())] for _ in range(options.groups)]
    finished: list[Live] = [[] for _ in range(options.groups)]
    came_to: list[Live] = [[(0.0, ())] for _ in range(options.groups)]
    for length in range(1, options.max_length + 1):
        taken: list[int] = []
        for group in range(options.groups):
            extended = [
                (total + float(gain), (*said, piece))
                for total, said in live[group]
                for piece, gain in enumerate(world.log_probs(photo, said))
                if np.isfinite(gain) and is_allowed(said, piece, options)
            ]
            before = taken.copy()
            extended.sort(key=lambda pair: -pair[0] + options.diversity * before.count(pair[1][-1]))
            kept = extended[:each]
            taken += [said[-1] for _, said in kept if said[-1] != END]
            finished[group] += [
                (total / length**options.length_penalty, said) for total, said in kept if said[-1] == END
            ]
            live[group] = [(total, said) for total, said in kept if said[-1] != END]
            if live[group]:
                came_to[group] = [(total / length**options.length_penalty, said) for total, said in live[group]]
    ranked = [
        sorted(ended, reverse=True) + (sorted(cut, reverse=True) if live_on or not ended else [])
        for ended, cut, live_on in zip(finished, came_to, live, strict=True)
    ]
    best: Live = []
    for turn in itertools.zip_longest(*ranked):
        for one in turn:
            if one is not None and len(best) < options.n_best and one not in best:
                best.append(one)
    best.sort(key=lambda pair: (END not in pair[1], -pair[0]))
    return [Found(tuple(piece for piece in said if piece != END), END in said) for _, said in best]


def exhaustive(world: World, photo: int, options: SearchOptions) -> list[Found]:
    """Returns the n best of all possible captions."""
    words = range(4, world.vocabulary)
    captions = [said for n in range(options.max_length) for said in itertools.product(words, repeat=n)]

    def score(said: tuple[int, ...]) -> float:
        pieces = (*said, END)
        total = sum(float(world.log_probs(photo, pieces[:i])[piece]) for i, piece in enumerate(pieces))
        return float(total / len(pieces) ** options.length_penalty)

    return [Found(said, True) for said in sorted(captions, key=score, reverse=True)[: options.n_best]]
