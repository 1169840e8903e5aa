"""The search returns the captions of brute force and of a textbook implementation, in batches of any composition."""

import numpy as np
import pytest

from caprun.arrays import Float32Array
from caprun.search.decoding import search
from caprun.search.options import SearchOptions
from tests.caprun.search.support.worlds import (
    END,
    START,
    FakeSteps,
    Found,
    World,
    exhaustive,
    found,
    is_allowed,
    run,
    textbook,
)


@pytest.mark.parametrize("length_penalty", [0, 0.7, 1])
@pytest.mark.parametrize(("words", "max_length", "every_prefix"), [(2, 4, 24), (4, 3, 80)])
def test_beam_search_equals_brute_force_if_the_beam_holds_every_prefix(
    words: int, max_length: int, every_prefix: int, length_penalty: float
) -> None:
    options = SearchOptions(every_prefix, max_length, length_penalty)
    for seed in range(20):
        world = World(seed, words, end=-1.5)
        assert found(run(world, range(4), options)) == [exhaustive(world, photo, options)[0] for photo in range(4)]


@pytest.mark.parametrize("length_penalty", [0, 0.7, 1, 2])
@pytest.mark.parametrize("beam_size", [1, 2, 3, 4, 5])
def test_a_search_of_a_batch_equals_a_textbook_search_of_each_photo(beam_size: int, length_penalty: float) -> None:
    """The textbook search does not stop early; early stopping must not change the captions."""
    options = SearchOptions(beam_size, 9, length_penalty)
    for seed in range(12):
        world = World(seed, words=7, end=-1, hurry=0.4)
        assert found(run(world, range(6), options)) == [textbook(world, photo, options)[0] for photo in range(6)]


@pytest.mark.parametrize("beam_size", [1, 3, 5])
def test_a_caption_does_not_depend_on_its_batch(beam_size: int) -> None:
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


class Tied(World):
    """A language in which several pieces are often equally likely."""

    def log_probs(self, photo: int, said: tuple[int, ...]) -> Float32Array:
        return np.round(super().log_probs(photo, said) / 2)


@pytest.mark.parametrize("bans", [{}, {"min_length": 2, "no_repeat_ngram": 2}])
@pytest.mark.parametrize("photos", [1, 2, 3, 8])
def test_a_beam_of_one_is_greedy_search(photos: int, bans: dict[str, int]) -> None:
    """Each piece is the likeliest that is allowed, and of equally likely ones that with the lowest id."""
    options, ties = SearchOptions(1, 15, 1.0, **bans), 0
    for world in (kind(seed, words=9, end=-0.5) for kind in (World, Tied) for seed in range(6)):
        for photo, hypothesis in enumerate(run(world, range(photos), options)):
            said: tuple[int, ...] = ()
            gained: list[float] = []
            while len(said) < 15 and END not in said:
                log_probs = world.log_probs(photo, said).copy()
                log_probs[[not is_allowed(said, piece, options) for piece in range(world.vocabulary)]] = -np.inf
                ties += np.count_nonzero(log_probs == log_probs.max()) > 1
                gained.append(float(log_probs.max()))
                said = (*said, int(log_probs.argmax()))
            assert hypothesis.ids == tuple(piece for piece in said if piece != END)
            assert hypothesis.log_probs.tolist() == gained
            assert hypothesis.finished == (END in said)
    assert ties


@pytest.mark.parametrize("beam_size", [1, 2, 4])
def test_the_best_unfinished_caption_is_returned_if_none_ends(beam_size: int) -> None:
    world, options = World(5, words=4, end=-np.inf), SearchOptions(beam_size, 6, 1.0)
    for photo, hypothesis in enumerate(run(world, range(4), options)):
        assert hypothesis.finished is False
        assert len(hypothesis.ids) == len(hypothesis.log_probs) == 6
        assert Found(hypothesis.ids, False) == textbook(world, photo, options)[0]


def test_a_finished_caption_is_preferred_to_a_likelier_unfinished_one() -> None:
    world, options = World(0, words=3, end=-6), SearchOptions(3, 5, 0.0)
    expected = [textbook(world, photo, options)[0] for photo in range(60)]
    assert {finished for _, finished in expected} == {True, False}, "some photos end and others do not"
    assert found(run(world, range(60), options)) == expected


@pytest.mark.parametrize("end", [0.0, -np.inf])
def test_each_piece_has_the_decoders_log_probability_and_alpha(end: float) -> None:
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


def test_a_caption_can_be_empty() -> None:
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
def test_a_beam_wider_than_the_vocabulary_returns_only_possible_captions(words: int, end: float) -> None:
    world, options = World(11, words, end=end), SearchOptions(50, 4, 1.0)
    for photo, hypothesis in enumerate(run(world, range(5), options)):
        assert set(hypothesis.ids) <= set(range(4, world.vocabulary))
        assert np.isfinite(hypothesis.log_prob)
        assert Found(hypothesis.ids, hypothesis.finished) == textbook(world, photo, options)[0]
