"""Search against brute force, against a textbook, and against itself in other batches."""

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from caprun.decoding import Hypothesis, Ids, SearchOptions, StepOutput, search
from caprun.errors import UsageError

PAD, START, END, UNK = range(4)
REGIONS = 3
Floats = npt.NDArray[np.float32]


class World:
    """A language in which every history of a photo has a distribution of its own."""

    def __init__(self, seed: int, words: int, end: float = 0.0, *, hurry: float = 0.0) -> None:
        self.seed, self.vocabulary, self.end, self.hurry = seed, 4 + words, end, hurry

    @functools.cache  # noqa: B019 - a world lives as long as its test
    def log_probs(self, photo: int, said: tuple[int, ...]) -> Floats:
        """Of what may follow START and `said`; some photos are in more of a hurry than others to say END."""
        logits = np.random.default_rng([self.seed, photo, *said]).normal(0, 2, self.vocabulary)
        logits[END] += self.end + self.hurry * (photo * 2 % 5)
        logits[[PAD, START, UNK]] = -np.inf
        return (logits - np.log(np.exp(logits).sum())).astype(np.float32)

    def alpha(self, photo: int, said: tuple[int, ...]) -> Floats:
        """Where the decoder looks to say what follows `said`."""
        return np.random.default_rng([1, photo, *said]).dirichlet(np.ones(REGIONS)).astype(np.float32)


class FakeSteps:
    """A decoder whose states are histories: one that is handed the wrong state or row says something else."""

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


def run(world: World, photos: Sequence[int], options: SearchOptions) -> list[Hypothesis]:
    return search(FakeSteps(world, photos), len(photos), START, END, options)


def found(hypotheses: list[Hypothesis]) -> list[Found]:
    return [Found(hypothesis.ids, hypothesis.finished) for hypothesis in hypotheses]


def textbook(world: World, photo: int, options: SearchOptions) -> Found:
    """Beam search of one photo with lists and no early stop."""
    live: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    finished: list[tuple[float, tuple[int, ...]]] = []
    for length in range(1, options.max_length + 1):
        extended = [
            (total + float(gain), (*said, piece))
            for total, said in live
            for piece, gain in enumerate(world.log_probs(photo, said))
            if np.isfinite(gain)
        ]
        kept = sorted(extended, key=lambda pair: -pair[0])[: options.beam_size]
        finished += [(total / length**options.length_penalty, said) for total, said in kept if said[-1] == END]
        live = [(total, said) for total, said in kept if said[-1] != END]
        if not live:
            break
    best = max(finished or live)[1]
    return Found(best[:-1], True) if finished else Found(best, False)


def exhaustive(world: World, photo: int, options: SearchOptions) -> Found:
    """The best of all captions there are."""
    words = range(4, world.vocabulary)
    captions = [said for n in range(options.max_length) for said in itertools.product(words, repeat=n)]

    def score(said: tuple[int, ...]) -> float:
        pieces = (*said, END)
        total = sum(float(world.log_probs(photo, pieces[:i])[piece]) for i, piece in enumerate(pieces))
        return float(total / len(pieces) ** options.length_penalty)

    return Found(max(captions, key=score), True)


@pytest.mark.parametrize("length_penalty", [0, 0.7, 1])
@pytest.mark.parametrize(("words", "max_length", "every_prefix"), [(2, 4, 24), (4, 3, 80)])
def test_beam_search_returns_the_brute_force_optimum_where_the_beam_holds_every_prefix(
    words: int, max_length: int, every_prefix: int, length_penalty: float
) -> None:
    options = SearchOptions(every_prefix, max_length, length_penalty)
    for seed in range(20):
        world = World(seed, words, end=-1.5)
        assert found(run(world, range(4), options)) == [exhaustive(world, photo, options) for photo in range(4)]


@pytest.mark.parametrize("length_penalty", [0, 0.7, 1, 2])
@pytest.mark.parametrize("beam_size", [1, 2, 3, 4, 5])
def test_a_batch_is_searched_as_a_textbook_searches_each_photo(beam_size: int, length_penalty: float) -> None:
    """The textbook does not stop early: that search does is no reason to find anything else."""
    options = SearchOptions(beam_size, 9, length_penalty)
    for seed in range(12):
        world = World(seed, words=7, end=-1, hurry=0.4)
        assert found(run(world, range(6), options)) == [textbook(world, photo, options) for photo in range(6)]


@pytest.mark.parametrize("beam_size", [1, 3, 5])
def test_a_caption_does_not_depend_on_the_batch_it_is_in(beam_size: int) -> None:
    world, options = World(3, words=9, end=-4, hurry=2), SearchOptions(beam_size, 12, 0.7)
    steps = FakeSteps(world, range(10))
    together = search(steps, 10, START, END, options)
    assert len({len(rows) for rows in steps.rows}) >= 3, "photos were to finish at different steps"
    assert any(rows != list(range(len(rows))) for rows in steps.rows), "and not the last of them first"
    for photo, hypothesis in enumerate(together):
        (alone,) = run(world, [photo], options)
        assert (alone.ids, alone.finished) == (hypothesis.ids, hypothesis.finished)
        np.testing.assert_array_equal(alone.log_probs, hypothesis.log_probs)
    backwards = run(world, range(9, -1, -1), options)
    assert found(backwards) == found(together)[::-1]


def test_beam_one_is_greedy() -> None:
    world = World(0, words=9, end=-0.5)
    for photo, hypothesis in enumerate(run(world, range(8), SearchOptions(1, 15, 1.0))):
        said: tuple[int, ...] = ()
        while len(said) < 15 and END not in said:
            said = (*said, int(world.log_probs(photo, said).argmax()))
        assert hypothesis.ids == tuple(piece for piece in said if piece != END)
        assert hypothesis.finished == (END in said)


@pytest.mark.parametrize("beam_size", [1, 2, 4])
def test_where_nothing_ends_the_best_unfinished_caption_is_returned(beam_size: int) -> None:
    world, options = World(5, words=4, end=-np.inf), SearchOptions(beam_size, 6, 1.0)
    for photo, hypothesis in enumerate(run(world, range(4), options)):
        assert hypothesis.finished is False
        assert len(hypothesis.ids) == len(hypothesis.log_probs) == 6
        assert Found(hypothesis.ids, False) == textbook(world, photo, options)


def test_a_caption_that_ended_is_preferred_to_a_likelier_one_that_did_not() -> None:
    world, options = World(0, words=3, end=-6), SearchOptions(3, 5, 0.0)
    expected = [textbook(world, photo, options) for photo in range(60)]
    assert {finished for _, finished in expected} == {True, False}, "some photos end and others do not"
    assert found(run(world, range(60), options)) == expected


@pytest.mark.parametrize("end", [0.0, -np.inf])
def test_each_piece_has_the_log_probability_and_the_alpha_the_decoder_gave_for_it(end: float) -> None:
    world, options = World(7, words=6, end=end, hurry=0.3), SearchOptions(4, 7, 1.0)
    hypotheses = search(FakeSteps(world, range(5), alpha=True), 5, START, END, options)
    for photo, hypothesis in enumerate(hypotheses):
        said = (*hypothesis.ids, END) if hypothesis.finished else hypothesis.ids
        log_probs = [world.log_probs(photo, said[:i])[piece] for i, piece in enumerate(said)]
        np.testing.assert_array_equal(hypothesis.log_probs, np.array(log_probs, np.float64))
        assert hypothesis.log_prob == pytest.approx(sum(map(float, log_probs)))
        if hypothesis.ids:
            looked = [world.alpha(photo, said[:i]) for i in range(len(hypothesis.ids))]
            np.testing.assert_array_equal(hypothesis.alpha, np.stack(looked))


def test_without_attention_there_is_no_alpha() -> None:
    assert all(hypothesis.alpha is None for hypothesis in run(World(0, 4), range(3), SearchOptions(2, 5)))


def test_an_empty_caption_is_a_caption() -> None:
    (hypothesis,) = search(FakeSteps(World(0, 4, end=50.0), [0], alpha=True), 1, START, END, SearchOptions(3, 5))
    assert (hypothesis.ids, hypothesis.finished, len(hypothesis.log_probs)) == ((), True, 1)


def test_search_stops_when_no_live_caption_can_win() -> None:
    steps = FakeSteps(World(0, 6, end=4.0), range(4))
    search(steps, 4, START, END, SearchOptions(3, 30, 1.0))
    assert len(steps.rows) < 30


def test_at_most_max_length_steps_are_taken() -> None:
    steps = FakeSteps(World(0, 6, end=-np.inf), range(2))
    search(steps, 2, START, END, SearchOptions(2, 7, 1.0))
    assert len(steps.rows) == 7


@pytest.mark.parametrize("end", [0.0, -np.inf])
@pytest.mark.parametrize("words", [1, 2])
def test_a_beam_wider_than_the_vocabulary_returns_only_captions_that_can_be_said(words: int, end: float) -> None:
    world, options = World(11, words, end=end), SearchOptions(50, 4, 1.0)
    for photo, hypothesis in enumerate(run(world, range(5), options)):
        assert set(hypothesis.ids) <= set(range(4, world.vocabulary))
        assert np.isfinite(hypothesis.log_prob)
        assert Found(hypothesis.ids, hypothesis.finished) == textbook(world, photo, options)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("beam_size", value) for value in (0, -1, 101, 10**9)),
        *(("max_length", value) for value in (0, -5, 1001)),
        *(("length_penalty", value) for value in (-0.1, 10.5, float("nan"), float("inf"))),
    ],
)
def test_an_option_out_of_its_range_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"{name} is {value}"):
        SearchOptions(**{name: value})  # type: ignore[arg-type]


def test_the_limits_of_an_option_are_within_its_range() -> None:
    SearchOptions(1, 1, 0)
    SearchOptions(100, 1000, 10)
