"""A neutral search treats each group of words as one word with the sum of their probabilities."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from caprun.arrays import Float32Array
from caprun.bundle.neutral_words import NeutralWords
from caprun.bundle.vocabulary import Joining, Vocabulary
from caprun.errors import BundleError, UsageError
from caprun.search.decoding import search
from caprun.search.hypothesis import Hypothesis
from caprun.search.neutral import Neutralizer
from caprun.search.options import SearchOptions
from caprun.search.steps import StepOutput
from tests.caprun.search.support.worlds import (
    END,
    START,
    FakeSteps,
    World,
    all_found,
    exhaustive,
    found,
    run,
    textbook,
    vocabulary,
)
from tests.caprun.search.test_sampling import draw, sampled

GROUPS = {4: (5, 7), 8: (6,)}
"""The gendered pieces that each neutral piece replaces."""
WORDS = {f"p{gendered}": f"p{neutral}" for neutral, group in GROUPS.items() for gendered in group}
BANS: dict[str, Any] = {"no_repeat_ngram": 2, "no_repeat_word": 1, "min_length": 3, "bad_endings": ("p8",)}
SEARCHES = {
    "greedy": SearchOptions(1, 9),
    "greedy, bans": SearchOptions(1, 9, **BANS),
    "beam 2": SearchOptions(2, 9),
    "beam 4": SearchOptions(4, 9, n_best=2),
    "beam 4, bans": SearchOptions(4, 9, n_best=2, **BANS),
    "repeatable": SearchOptions(3, 9, no_repeat_word=9, repeatable=("p9",)),
    "suppressed": SearchOptions(3, 9, suppress=("p4",)),
    "groups": SearchOptions(4, 9, groups=2, n_best=2, diversity=1.0),
}


class NeutralWorld(World):
    """The language of a world, with each group as one word."""

    def __init__(self, world: World) -> None:
        super().__init__(world.seed, world.vocabulary - 4, world.end, hurry=world.hurry)
        self._world = world

    def log_probs(self, photo: int, said: tuple[int, ...]) -> Float32Array:  # type: ignore[override]
        """Returns the log-probabilities of the next piece."""
        log_probs = self._world.log_probs(photo, said).astype(np.float64)
        for neutral, gendered in GROUPS.items():
            log_probs[neutral] = np.log(np.exp(log_probs[[neutral, *gendered]]).sum())
            log_probs[list(gendered)] = -np.inf
        return log_probs.astype(np.float32)


def world(seed: int) -> World:
    return World(seed, words=6, end=-1, hurry=0.4)


def run_neutral(
    spoken: World, photos: Sequence[int], options: SearchOptions, phrases: Mapping[str, str] | None = None
) -> list[Hypothesis]:
    """Searches a batch of photos with neutral words."""
    pieces = vocabulary(spoken)
    neutral = NeutralWords("en", WORDS, phrases or {}).neutralizer(pieces)
    options = replace(options, neutral=True)
    steps = FakeSteps(spoken, photos, alpha=True)
    return search(steps, len(photos), START, END, options, vocabulary=pieces, identities=list(photos), neutral=neutral)


@pytest.mark.parametrize("asked", SEARCHES.values(), ids=SEARCHES)
def test_a_neutral_search_equals_a_textbook_over_summed_probabilities(asked: SearchOptions) -> None:
    allowed = asked if not asked.repeatable else replace(asked, repeatable=(*asked.repeatable, *WORDS.values()))
    for seed in range(8):
        expected = [textbook(NeutralWorld(world(seed)), photo, allowed) for photo in range(5)]
        assert [all_found(one) for one in run_neutral(world(seed), range(5), asked)] == expected


def test_the_n_best_neutral_captions_are_found_if_the_beam_holds_all() -> None:
    asked = SearchOptions(100, 4, 0.7, n_best=5)
    for photo in range(5):
        (hypothesis,) = run_neutral(world(1), [photo], asked)
        neutral = NeutralWorld(world(1))
        gendered = {piece for group in GROUPS.values() for piece in group}
        every = [one for one in exhaustive(neutral, photo, replace(asked, n_best=100)) if not gendered & {*one.ids}]
        assert all_found(hypothesis) == every[:5]


@pytest.mark.parametrize("cut", [{}, {"top_k": 3}, {"top_p": 0.7, "temperature": 1.5}, {"suppress": ("p8",)}], ids=str)
def test_sampling_draws_from_the_summed_probabilities(cut: dict[str, Any]) -> None:
    for seed in range(5):
        asked = sampled(seed=seed, n_best=3, **cut)
        expected = [draw(NeutralWorld(world(seed)), photo, asked) for photo in range(5)]
        assert [all_found(one) for one in run_neutral(world(seed), range(5), asked)] == expected


@pytest.mark.parametrize(
    "options", [SearchOptions(1, 9), SearchOptions(3, 9), sampled()], ids=["greedy", "beam", "drawn"]
)
def test_log_probabilities_are_logarithms_of_the_sums(options: SearchOptions) -> None:
    neutral = NeutralWorld(world(0))
    for photo, hypothesis in enumerate(run_neutral(world(0), range(5), options)):
        said = (*hypothesis.ids, END) if hypothesis.finished else hypothesis.ids
        expected = [float(neutral.log_probs(photo, said[:i])[piece]) for i, piece in enumerate(said)]
        np.testing.assert_allclose(hypothesis.log_probs, expected, rtol=1e-6)


def test_no_log_probability_is_above_zero() -> None:
    """The probabilities of a group that is all but certain are rounded one by one, so their sum can exceed 1."""
    pieces = Vocabulary(("<pad>", "<start>", "<end>", "<unk>", *map(str, range(3000))))
    neutral = NeutralWords("en", {str(i): "0" for i in range(1, 3000)}).neutralizer(pieces)
    log_prob = np.full((1, 1, 3004), np.float32(-np.inf))
    log_prob[:, :, 4:] = np.nextafter(np.float32(np.log(1 / 3000)), np.float32(0))
    output = StepOutput(log_prob, np.arange(3004)[None, None], None)
    zero = np.zeros((1, 1), np.int64)
    merged = neutral.step(lambda *_: output, zero[0], zero, zero, 2)
    assert (merged.candidate[0, 0, 0], merged.log_prob[0, 0, 0]) == (4, 0)


@pytest.mark.parametrize(
    "options",
    [SearchOptions(1, 9), SearchOptions(3, 9, n_best=3), SearchOptions(4, 9, groups=2, n_best=4), sampled(n_best=2)],
    ids=["greedy", "beam", "groups", "drawn"],
)
def test_a_caption_does_not_depend_on_its_batch(options: SearchOptions) -> None:
    together = run_neutral(world(3), range(8), options)
    for photo, hypothesis in enumerate(together):
        (alone,) = run_neutral(world(3), [photo], options)
        assert all_found(alone) == all_found(hypothesis)
        np.testing.assert_array_equal(alone.log_probs, hypothesis.log_probs)
    backwards = run_neutral(world(3), range(7, -1, -1), options)
    assert [all_found(one) for one in backwards] == [all_found(one) for one in together][::-1]


def test_gendered_words_occur_without_neutral_and_never_with_it() -> None:
    gendered = {piece for group in GROUPS.values() for piece in group}

    def said(hypotheses: list[Hypothesis]) -> set[int]:
        return {piece for one in hypotheses for every in (one, *one.alternatives) for piece in every.ids}

    for options in (SearchOptions(1, 9), SearchOptions(4, 9, n_best=4, groups=2), sampled(n_best=3)):
        plain = {piece for seed in range(5) for piece in said(run(world(seed), range(5), options))}
        neutral = {piece for seed in range(5) for piece in said(run_neutral(world(seed), range(5), options))}
        assert gendered <= plain
        assert gendered & neutral == set()
        assert set(GROUPS) <= neutral


def test_groups_are_summed_over_the_whole_vocabulary_before_the_cut_to_k() -> None:
    """The sums include the least likely words of each group."""
    spoken = World(0, words=200)
    neutral = NeutralWords("en", WORDS).neutralizer(vocabulary(spoken))
    zero = np.zeros((1, 1), np.int64)
    output = neutral.step(FakeSteps(spoken, [0]), zero[0], zero, zero + START, 3)
    assert output.candidate.shape == output.log_prob.shape == (1, 1, 3)
    expected = NeutralWorld(spoken).log_probs(0, ())
    best = np.argsort(-expected, kind="stable")[:3]
    assert output.candidate.tolist() == [[best.tolist()]]
    np.testing.assert_allclose(output.log_prob[0, 0], expected[best], rtol=1e-6)


def test_a_neutral_search_without_neutral_words_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^`neutral` is True, but the model has no neutral words; leave it out\.$"):
        search(FakeSteps(world(0), [0]), 1, START, END, SearchOptions(neutral=True))


def test_neutral_words_are_not_used_without_the_option() -> None:
    neutral = NeutralWords("en", WORDS, {"p4": "p8"}).neutralizer(vocabulary(world(0)))
    given = search(FakeSteps(world(0), range(5)), 5, START, END, SearchOptions(3, 9), neutral=neutral)
    assert found(given) == found(run(world(0), range(5), SearchOptions(3, 9)))


def test_a_decoder_that_returns_a_piece_twice_is_refused() -> None:
    class Repeating(FakeSteps):
        def __call__(self, *given: Any) -> StepOutput:
            output = super().__call__(*given)
            return output._replace(candidate=np.where(output.candidate == 5, 9, output.candidate))

    neutral = NeutralWords("en", WORDS).neutralizer(vocabulary(world(0)))
    with pytest.raises(BundleError, match="does not return each piece of its vocabulary once"):
        search(Repeating(world(0), [0]), 1, START, END, SearchOptions(neutral=True), neutral=neutral)


# --- Phrases


PIECES = Vocabulary(
    ("<pad>", "<start>", "<end>", "<unk>", "a", "an", "and", "person", "people", "two", "child", "is", ",", "##s"),
    Joining(continuation="##"),
)
PHRASES = {
    "a person and a person": "two people",
    "a person and person": "two people",
    "an person": "a person",
    "person person": "person",
}


def hypothesis(caption: str, alternatives: tuple[Hypothesis, ...] = ()) -> Hypothesis:
    ids = tuple(PIECES.pieces.index(word) for word in caption.split())
    log_probs = -np.arange(1.0, len(ids) + 2)
    alpha: npt.NDArray[np.float32] = np.arange(len(ids) * 2, dtype=np.float32).reshape(-1, 2)
    return Hypothesis(ids, log_probs, True, alpha, alternatives)


def words(one: Hypothesis) -> str:
    return " ".join(PIECES.pieces[piece] for piece in one.ids)


@pytest.fixture
def neutral() -> Neutralizer:
    return NeutralWords("en", {"is": "person"}, PHRASES).neutralizer(PIECES)


@pytest.mark.parametrize(
    ("said", "written", "sources"),
    [
        ("a person and a person is", "two people is", ((0,), (1, 2, 3, 4), (5,))),
        ("is a person and person", "is two people", ((0,), (1,), (2, 3, 4))),
        ("an person is", "a person is", ((0,), (1,), (2,))),
        ("a person person", "a person", ((0,), (1, 2))),
        ("a person and a person and a person and a person", "two people and two people", None),
        ("a person and a", "a person and a", None),
        ("a person and a person ##s", "a person and a person ##s", None),
        ("", "", None),
    ],
)
def test_a_clumsy_phrase_is_rewritten_and_refers_to_its_original_pieces(
    neutral: Neutralizer, said: str, written: str, sources: tuple[tuple[int, ...], ...] | None
) -> None:
    before = hypothesis(said)
    after = neutral.rephrased(before)
    assert words(after) == written
    assert sources is None or after.sources == sources
    positions = after.positions(range(len(after.ids)))
    assert positions == list(range(len(before.ids))), "everything said is in one word, once"
    assert after.log_prob == before.log_prob
    np.testing.assert_array_equal(after.log_probs, before.log_probs)


def test_the_longest_phrase_is_rewritten() -> None:
    phrases = {"a person": "a child", **PHRASES}
    neutral = NeutralWords("en", {"is": "person"}, phrases).neutralizer(PIECES)
    said = ("a person and a person is", "a person is and a person")
    assert [words(neutral.rephrased(hypothesis(one))) for one in said] == ["two people is", "a child is and a child"]


def test_alternatives_that_become_equal_are_merged_unless_sampled(neutral: Neutralizer) -> None:
    others = ("a person and person", "a child", "two people", "an child", "a child")
    first = hypothesis("a person and a person", tuple(map(hypothesis, others)))
    found = neutral.all_rephrased(first, drawn=False)
    assert [words(one) for one in (found, *found.alternatives)] == ["two people", "a child", "an child"]
    drawn = neutral.all_rephrased(first, drawn=True)
    assert [words(one) for one in drawn.alternatives] == ["two people", "a child", "two people", "an child", "a child"]


def test_a_search_rephrases_its_captions() -> None:
    asked = SearchOptions(3, 9)
    plain = run_neutral(world(2), range(5), asked)
    phrases = {f"p{one.ids[0]} p{one.ids[1]}": "p9" for one in plain if len(one.ids) > 1}
    assert phrases
    for before, after in zip(plain, run_neutral(world(2), range(5), asked, phrases), strict=True):
        if len(before.ids) > 1:
            assert after.ids[0] == 9
            assert after.log_prob == before.log_prob
