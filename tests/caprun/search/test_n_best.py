"""A search returns several captions per photo, from one beam or from diverse groups."""

import itertools

import numpy as np
import pytest

from caprun.search.hypothesis import Hypothesis
from caprun.search.options import SearchOptions
from tests.caprun.search.support.worlds import END, World, all_found, exhaustive, run, textbook


@pytest.mark.parametrize("length_penalty", [0, 0.7, 1])
def test_the_n_best_equal_brute_force_if_the_beam_holds_every_prefix(length_penalty: float) -> None:
    options = SearchOptions(80, 3, length_penalty, n_best=12)
    for seed in range(10):
        world = World(seed, 4, end=-1.5)
        expected = [exhaustive(world, photo, options) for photo in range(3)]
        assert [all_found(one) for one in run(world, range(3), options)] == expected


@pytest.mark.parametrize("length_penalty", [0, 0.7, 2])
@pytest.mark.parametrize(("beam_size", "n_best"), [(1, 1), (2, 2), (3, 2), (5, 5)])
def test_the_n_best_equal_a_textbook_search_without_early_stopping(
    beam_size: int, n_best: int, length_penalty: float
) -> None:
    options = SearchOptions(beam_size, 9, length_penalty, n_best=n_best)
    for seed in range(10):
        world = World(seed, words=7, end=-1, hurry=0.4)
        expected = [textbook(world, photo, options) for photo in range(5)]
        assert [all_found(one) for one in run(world, range(5), options)] == expected


@pytest.mark.parametrize("n_best", [1, 2, 3, 4])
def test_a_larger_n_best_does_not_change_the_better_captions(n_best: int) -> None:
    for seed in range(10):
        world = World(seed, words=7, end=-1, hurry=0.4)
        for few, many in zip(
            run(world, range(5), SearchOptions(5, 9, n_best=n_best)),
            run(world, range(5), SearchOptions(5, 9, n_best=5)),
            strict=True,
        ):
            assert all_found(few) == all_found(many)[:n_best]


def test_captions_are_distinct_and_the_best_comes_first() -> None:
    for hypothesis in run(World(2, words=7, end=-1), range(8), SearchOptions(5, 9, 0.7, n_best=5)):
        captions = [hypothesis, *hypothesis.alternatives]
        assert len(captions) == len({one.ids for one in captions}) == 5
        scores = [one.log_prob / len(one.log_probs) ** 0.7 for one in captions if one.finished]
        assert all(first >= second for first, second in itertools.pairwise(scores))
        assert sorted((one.finished for one in captions), reverse=True) == [one.finished for one in captions]
        assert not any(one.alternatives for one in hypothesis.alternatives)


def test_there_are_only_as_many_captions_as_the_language_allows() -> None:
    (hypothesis,) = run(World(0, words=1), [0], SearchOptions(50, 3, n_best=50))
    assert sorted(one.ids for one in (hypothesis, *hypothesis.alternatives)) == [(), (4,), (4, 4), (4, 4, 4)]


def test_the_best_unfinished_captions_are_returned_if_none_ends() -> None:
    options = SearchOptions(4, 6, 1.0, n_best=3)
    world = World(5, words=4, end=-np.inf)
    for photo, hypothesis in enumerate(run(world, range(4), options)):
        assert all_found(hypothesis) == textbook(world, photo, options)
        assert [finished for _, finished in all_found(hypothesis)] == [False] * 3


@pytest.mark.parametrize("diversity", [0, 0.3, 3])
@pytest.mark.parametrize(("beam_size", "groups", "n_best"), [(2, 2, 2), (4, 2, 1), (4, 2, 3), (6, 3, 6), (3, 3, 3)])
def test_a_search_in_groups_equals_a_textbook_search(
    beam_size: int, groups: int, n_best: int, diversity: float
) -> None:
    options = SearchOptions(beam_size, 8, 0.7, groups=groups, n_best=n_best, diversity=diversity)
    for seed in range(8):
        world = World(seed, words=6, end=-1, hurry=0.4)
        expected = [textbook(world, photo, options) for photo in range(4)]
        assert [all_found(one) for one in run(world, range(4), options)] == expected


@pytest.mark.parametrize("words", [1, 2])
def test_groups_can_be_wider_than_the_vocabulary(words: int) -> None:
    options = SearchOptions(40, 4, 0.7, groups=4, n_best=6)
    world = World(1, words)
    for photo, hypothesis in enumerate(run(world, range(4), options)):
        assert all_found(hypothesis) == textbook(world, photo, options)


def test_the_first_group_does_not_depend_on_the_other_groups() -> None:
    for seed in range(10):
        world = World(seed, words=6, end=-1)
        for grouped, alone in zip(
            run(world, range(4), SearchOptions(6, 8, groups=3, n_best=6, diversity=2)),
            run(world, range(4), SearchOptions(2, 8, n_best=1)),
            strict=True,
        ):
            assert all_found(alone)[0] in all_found(grouped)


def test_more_diversity_leaves_fewer_pieces_in_common() -> None:
    def in_common(diversity: float) -> int:
        options = SearchOptions(3, 8, 0, groups=3, n_best=3, diversity=diversity)
        found = [one for seed in range(10) for one in run(World(seed, words=8, end=-2), range(5), options)]
        return sum(_in_common(one) for one in found)

    assert in_common(0.5) > in_common(2) > in_common(20) == 0


def _in_common(hypothesis: Hypothesis) -> int:
    captions = [one.ids for one in (hypothesis, *hypothesis.alternatives)]
    pairs = itertools.combinations(captions, 2)
    return sum(one == other for pair in pairs for one, other in zip(*pair, strict=False))


def test_captions_of_groups_do_not_depend_on_their_batch() -> None:
    options = SearchOptions(4, 9, 0.7, groups=2, n_best=4)
    world = World(3, words=6, end=-3, hurry=1)
    for photo, hypothesis in enumerate(run(world, range(8), options)):
        (alone,) = run(world, [photo], options)
        assert all_found(alone) == all_found(hypothesis)


def test_groups_and_diversity_do_not_change_log_probabilities() -> None:
    world = World(3, words=6, end=-1)
    (hypothesis,) = run(world, [0], SearchOptions(4, 9, 0.7, groups=4, n_best=4, diversity=5))
    assert len(hypothesis.alternatives) >= 2
    for one in (hypothesis, *hypothesis.alternatives):
        said = (*one.ids, END) if one.finished else one.ids
        assert one.log_probs.tolist() == [float(world.log_probs(0, said[:i])[piece]) for i, piece in enumerate(said)]
