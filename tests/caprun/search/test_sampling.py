"""Captions are sampled from the model's truncated distribution, independently for each photo."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from caprun.search.decoding import search
from caprun.search.options import SearchOptions
from tests.caprun.search.support.worlds import END, START, FakeSteps, Found, World, all_found, found, is_allowed, run

CUTS: dict[str, dict[str, Any]] = {
    "none": {},
    "hot": {"temperature": 3.0},
    "cold": {"temperature": 0.3},
    "top_k": {"top_k": 3},
    "top_p": {"top_p": 0.6},
    "both": {"top_k": 4, "top_p": 0.8, "temperature": 0.7},
    "bans": {"top_k": 3, "top_p": 0.8, "no_repeat_ngram": 2, "min_length": 2, "suppress": ("p4",)},
}


def sampled(**given: Any) -> SearchOptions:
    return SearchOptions(**{"max_length": 9, "temperature": 1.0, **given})


def shares(world: World, photo: int, said: tuple[int, ...], options: SearchOptions) -> dict[int, float]:
    """Returns the probability of drawing each piece, the likeliest first."""
    log_probs = world.log_probs(photo, said).astype(float)
    order = sorted(range(world.vocabulary), key=lambda piece: -log_probs[piece])
    order = [piece for piece in order if np.isfinite(log_probs[piece]) and is_allowed(said, piece, options)]
    order = order[: options.top_k or None]
    weights = np.array([np.exp((log_probs[piece] - log_probs[order[0]]) / options.temperature) for piece in order])
    weights /= weights.sum()
    kept: dict[int, float] = {}
    for piece, weight in zip(order, weights, strict=True):
        if sum(kept.values()) >= options.top_p:
            break
        kept[piece] = float(weight)
    return {piece: weight / sum(kept.values()) for piece, weight in kept.items()}


def draw(world: World, photo: int, options: SearchOptions) -> list[Found]:
    """Draws captions one after the other, by inverting the cumulative distribution at uniform numbers."""
    captions = []
    for numbers in np.random.default_rng([options.seed, photo]).random((options.n_best, options.max_length)):
        said: tuple[int, ...] = ()
        for number in numbers:
            pieces = shares(world, photo, said, options)
            at = int(np.searchsorted(np.cumsum(list(pieces.values())), number, side="right"))
            said = (*said, list(pieces)[at])
            if said[-1] == END:
                break
        captions.append(Found(tuple(piece for piece in said if piece != END), END in said))
    return captions


@pytest.mark.parametrize("n_best", [1, 3])
@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_sampling_equals_a_naive_implementation(cut: dict[str, Any], n_best: int) -> None:
    for seed in range(6):
        options = sampled(seed=seed, n_best=n_best, **cut)
        world = World(seed, words=7, end=-1, hurry=0.4)
        expected = [draw(world, photo, options) for photo in range(6)]
        assert [all_found(one) for one in run(world, range(6), options)] == expected


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_pieces_are_drawn_with_their_probabilities(cut: dict[str, Any]) -> None:
    options = sampled(max_length=3, **cut)
    world = World(1, words=7)
    count = 4000
    drawn = run(world, [0] * count, options, identities=range(count))
    first = Counter((*one.ids, END)[0] for one in drawn)
    expected = shares(world, 0, (), options)
    assert set(first) <= set(expected)
    for piece, share in expected.items():
        deviation = np.sqrt(share * (1 - share) / count)
        assert first[piece] / count == pytest.approx(share, abs=5 * deviation + 1e-9)


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_sampled_captions_do_not_depend_on_the_batch(cut: dict[str, Any]) -> None:
    options = sampled(seed=5, n_best=2, **cut)
    world = World(3, words=7, end=-3, hurry=1)
    steps = FakeSteps(world, range(10))
    together = run(world, range(10), options)
    search(steps, 10, START, END, sampled())
    assert len({len(rows) for rows in steps.rows}) > 2, "photos were to finish at different steps"
    for photo, hypothesis in enumerate(together):
        (alone,) = run(world, [photo], options)
        assert all_found(alone) == all_found(hypothesis)
        np.testing.assert_array_equal(alone.log_probs, hypothesis.log_probs)
    backwards = run(world, range(9, -1, -1), options)
    assert found(backwards) == found(together)[::-1]


def test_equal_seeds_draw_equal_captions_and_another_seed_does_not() -> None:
    world = World(0, words=9, end=-2)
    first, again = (found(run(world, range(8), sampled(seed=1))) for _ in range(2))
    assert first == again
    assert first != found(run(world, range(8), sampled(seed=2)))


def test_photos_with_different_identities_draw_different_captions() -> None:
    world = World(0, words=9, end=-2)
    drawn = run(world, [0] * 8, sampled(), identities=range(8))
    assert len({one.ids for one in drawn}) > 4
    assert len({one.ids for one in run(world, [0] * 8, sampled(), identities=[2**63] * 8)}) == 1


def test_a_larger_n_best_does_not_change_the_first_captions() -> None:
    world = World(0, words=9, end=-2)
    few, many = (run(world, range(4), sampled(n_best=n)) for n in (2, 30))
    assert [all_found(one) for one in few] == [all_found(one)[:2] for one in many]
    assert all(len(one.alternatives) == 29 for one in many)
    assert all(len(set(all_found(one))) > 15 for one in many)


@pytest.mark.parametrize(
    "greedy", [{"temperature": 0.001}, {"top_k": 1}, {"top_p": 1e-12}, {"top_p": 1e-300, "temperature": 100}]
)
def test_sampling_only_the_likeliest_piece_is_greedy_search(greedy: dict[str, Any]) -> None:
    for seed in range(5):
        world = World(seed, words=7, end=-1)
        assert found(run(world, range(5), sampled(**greedy))) == found(run(world, range(5), SearchOptions(1, 9)))


def test_temperature_and_truncation_do_not_change_log_probabilities() -> None:
    world = World(0, words=7, end=-1)
    for photo, one in enumerate(run(world, range(5), sampled(temperature=5.0, top_k=4, top_p=0.9))):
        said = (*one.ids, END) if one.finished else one.ids
        assert one.log_probs.tolist() == [float(world.log_probs(photo, said[:i])[p]) for i, p in enumerate(said)]


def test_each_drawn_caption_has_its_own_alpha() -> None:
    world = World(0, words=7, end=-1)
    options = sampled(n_best=3)
    drawn = search(FakeSteps(world, range(4), alpha=True), 4, START, END, options)
    for photo, hypothesis in enumerate(drawn):
        for one in (hypothesis, *hypothesis.alternatives):
            if one.ids:
                looked = [world.alpha(photo, one.ids[:i]) for i in range(len(one.ids))]
                np.testing.assert_array_equal(one.alpha, np.stack(looked))


@pytest.mark.filterwarnings("error")
def test_a_caption_stops_unfinished_if_bans_leave_nothing_to_draw() -> None:
    options = sampled(n_best=3, no_repeat_ngram=1, min_length=8)
    for hypothesis in run(World(0, words=2), range(3), options):
        for one in (hypothesis, *hypothesis.alternatives):
            assert (sorted(one.ids), one.finished, len(one.log_probs)) == ([4, 5], False, 2)
