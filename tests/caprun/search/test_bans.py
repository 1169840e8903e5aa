"""Bans remove captions from the search and change nothing else."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from caprun.bundle.vocabulary import Joining, Vocabulary
from caprun.errors import UsageError
from caprun.search.decoding import search
from caprun.search.hypothesis import Hypothesis
from caprun.search.options import SearchOptions
from tests.caprun.search.support.worlds import (
    END,
    START,
    FakeSteps,
    Found,
    World,
    all_found,
    is_allowed,
    run,
    textbook,
    vocabulary,
)

BANS: dict[str, dict[str, Any]] = {
    "min_length": {"min_length": 5},
    "ngrams": {"no_repeat_ngram": 2},
    "trigrams": {"no_repeat_ngram": 3},
    "pieces": {"no_repeat_ngram": 1},
    "neighbours": {"no_repeat_word": 1},
    "window": {"no_repeat_word": 3},
    "repeatable": {"no_repeat_word": 9, "repeatable": ("p4", "p6")},
    "repeatable pieces": {"no_repeat_ngram": 1, "repeatable": ("p5",)},
    "suppress": {"suppress": ("p4", "p6")},
    "bad_endings": {"bad_endings": ("p5", "p7")},
    "all": {
        "min_length": 3,
        "no_repeat_ngram": 2,
        "no_repeat_word": 2,
        "repeatable": ("p7",),
        "suppress": ("p4",),
        "bad_endings": ("p5", "p6"),
    },
}


def repeating(seed: int) -> World:
    """Returns a language in which nearly every caption breaks a ban: it has four words, and some photos end early."""
    return World(seed, words=4, end=-2, hurry=1)


@pytest.mark.parametrize("beam_size", [1, 2, 3, 5])
@pytest.mark.parametrize("bans", BANS.values(), ids=BANS)
def test_a_search_with_bans_equals_a_textbook_over_the_whole_vocabulary(bans: dict[str, Any], beam_size: int) -> None:
    """The search requests enough candidates, however many are banned."""
    options = SearchOptions(beam_size, 9, 0.7, n_best=beam_size, **bans)
    for seed in range(8):
        world = repeating(seed)
        expected = [textbook(world, photo, options) for photo in range(5)]
        assert [all_found(one) for one in run(world, range(5), options)] == expected


@pytest.mark.parametrize("bans", BANS.values(), ids=BANS)
def test_bans_are_obeyed_and_would_be_broken_without_the_option(bans: dict[str, Any]) -> None:
    def breaches(options: SearchOptions) -> int:
        found = [one for seed in range(15) for one in run(repeating(seed), range(5), options)]
        return sum(not _is_kept(one, replace(options, **bans)) for one in found)

    plain = SearchOptions(3, 9)
    assert breaches(plain) > 0
    assert breaches(replace(plain, **bans)) == 0


def _is_kept(hypothesis: Hypothesis, options: SearchOptions) -> bool:
    said = (*hypothesis.ids, END) if hypothesis.finished else hypothesis.ids
    return all(is_allowed(said[:i], piece, options) for i, piece in enumerate(said))


@pytest.mark.parametrize("bans", BANS.values(), ids=BANS)
@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_caption_with_bans_does_not_depend_on_its_batch(beam_size: int, bans: dict[str, Any]) -> None:
    options = SearchOptions(beam_size, 9, 0.7, n_best=beam_size, **bans)
    world = World(3, words=4, end=-2, hurry=1)
    together = run(world, range(8), options)
    for photo, hypothesis in enumerate(together):
        (alone,) = run(world, [photo], options)
        assert all_found(alone) == all_found(hypothesis)
        np.testing.assert_array_equal(alone.log_probs, hypothesis.log_probs)
    backwards = run(world, range(7, -1, -1), options)
    assert [all_found(one) for one in backwards] == [all_found(one) for one in together][::-1]


@pytest.mark.parametrize("beam_size", [1, 4])
def test_bans_do_not_change_log_probabilities(beam_size: int) -> None:
    options = SearchOptions(beam_size, 9, 0.7, **BANS["all"])
    world = repeating(0)
    for photo, hypothesis in enumerate(run(world, range(5), options)):
        said = (*hypothesis.ids, END) if hypothesis.finished else hypothesis.ids
        expected = [float(world.log_probs(photo, said[:i])[piece]) for i, piece in enumerate(said)]
        assert hypothesis.log_probs.tolist() == expected


def test_a_caption_ends_as_soon_as_it_has_its_minimum_length() -> None:
    world = World(0, words=5, end=50.0)
    for least in (0, 1, 7):
        for beam_size in (1, 3):
            (hypothesis,) = run(world, [0], SearchOptions(beam_size, 8, 1.0, min_length=least))
            assert (len(hypothesis.ids), hypothesis.finished) == (least, True)


@pytest.mark.parametrize("beam_size", [1, 3])
@pytest.mark.parametrize(
    ("bans", "pieces"),
    [
        ({"no_repeat_ngram": 1, "min_length": 9}, 2),  # two words, each once, and END is still banned
        ({"no_repeat_word": 9, "min_length": 9}, 2),
        ({"suppress": ("p4", "p5"), "min_length": 1}, 0),
        ({"suppress": ("p4", "p5"), "bad_endings": ("p4",)}, 0),
    ],
)
def test_a_caption_stops_if_bans_leave_nothing_to_add(bans: dict[str, Any], pieces: int, beam_size: int) -> None:
    world = World(0, words=2, end=0)
    options = SearchOptions(beam_size, 12, 0.7, **bans)
    for photo, hypothesis in enumerate(run(world, range(3), options)):
        assert len(hypothesis.ids) == pieces
        assert Found(hypothesis.ids, hypothesis.finished) == textbook(world, photo, options)[0]
        assert np.isfinite(hypothesis.log_probs).all()


def test_the_search_stops_if_bans_leave_nothing_to_add_for_any_photo() -> None:
    world = World(0, words=2, end=-1)
    steps = FakeSteps(world, range(3))
    options = SearchOptions(3, 100, 0.7, no_repeat_ngram=1, min_length=99)
    search(steps, 3, START, END, options)
    assert len(steps.rows) == 3


def test_extra_candidates_are_requested_only_for_possible_bans() -> None:
    def asked(bans: dict[str, Any]) -> list[int]:
        counts: list[int] = []
        world = World(0, words=30, end=-9)

        class Counting(FakeSteps):
            def __call__(self, row: Any, parent: Any, token: Any, k: int) -> Any:
                counts.append(k)
                return super().__call__(row, parent, token, k)

        search(Counting(world, [0]), 1, START, END, SearchOptions(3, 5, **bans), vocabulary=vocabulary(world))
        return counts

    assert asked({}) == [3, 3, 3, 3, 3]
    assert asked({"min_length": 2}) == [4, 4, 3, 3, 3]
    assert asked({"no_repeat_word": 2}) == [3, 4, 5, 5, 5]
    assert asked({"no_repeat_ngram": 3}) == [3, 3, 3, 4, 5]
    assert asked({"suppress": ("p4", "p5")}) == [5, 5, 5, 5, 5]


@pytest.mark.parametrize("name", ["suppress", "bad_endings"])
@pytest.mark.parametrize("joining", [Joining(continuation="##"), Joining(word_start="▁"), Joining(unspaced="のは")])
def test_an_unknown_word_is_refused_if_several_pieces_could_spell_it(joining: Joining, name: str) -> None:
    with pytest.raises(UsageError, match=f"`{name}` names 'dog', which is not in"):
        search_with(Vocabulary(("<pad>", "<start>", "<end>", "<unk>", "d", "og"), joining), {name: ("dog",)})


def search_with(pieces: Vocabulary, bans: dict[str, Any]) -> Hypothesis:
    world = World(0, words=len(pieces) - 4, end=-1)
    (hypothesis,) = search(FakeSteps(world, [0]), 1, START, END, SearchOptions(2, 9, **bans), vocabulary=pieces)
    return hypothesis


def test_an_unknown_word_is_ignored_if_every_piece_is_a_word() -> None:
    words = Vocabulary(("<pad>", "<start>", "<end>", "<unk>", "a", "cat"))
    assert search_with(words, {"suppress": ("dog",)}).ids == search_with(words, {}).ids
    assert 5 not in search_with(words, {"suppress": ("cat", "dog")}).ids


@pytest.mark.parametrize("joining", [Joining(), Joining(word_start="▁")])
def test_the_error_for_a_capitalised_word_suggests_the_known_lower_case(joining: Joining) -> None:
    words = Vocabulary(("<pad>", "<start>", "<end>", "<unk>", "a", f"{joining.word_start}boy"), joining)
    with pytest.raises(UsageError, match=r"`suppress` names 'Boy', which is not in .*; use 'boy', which is\."):
        search_with(words, {"suppress": ("Boy",)})


def test_a_piece_is_found_with_or_without_its_word_start() -> None:
    pieces = Vocabulary(("<pad>", "<start>", "<end>", "<unk>", "▁a", "▁cat"), Joining(word_start="▁"))
    for name in ("cat", "▁cat"):
        assert set(search_with(pieces, {"suppress": (name,), "min_length": 3}).ids) == {4}


@pytest.mark.parametrize("name", ["suppress", "bad_endings"])
def test_a_word_is_banned_and_not_the_same_letters_inside_a_word(name: str) -> None:
    joining = Joining(word_start="▁")
    pieces = Vocabulary(("<pad>", "<start>", "<end>", "<unk>", "a", "▁a", "▁cat"), joining)
    (spelling,) = pieces.spellings(("a",), name, at_end=False)
    assert spelling == (frozenset([5]),)


@pytest.mark.parametrize("name", ["suppress", "bad_endings"])
def test_words_cannot_be_banned_without_a_vocabulary(name: str) -> None:
    options = SearchOptions(**{name: ("a",)})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=f"`{name}` names words; give the search a vocabulary"):
        search(FakeSteps(World(0, 4), [0]), 1, START, END, options)


def test_bans_are_obeyed_in_sampling_and_in_groups(check: Callable[[SearchOptions], None]) -> None:
    check(SearchOptions(3, 9, temperature=2.0, n_best=4, **BANS["all"]))
    check(SearchOptions(4, 9, groups=2, n_best=4, **BANS["all"]))


@pytest.fixture
def check() -> Callable[[SearchOptions], None]:
    def check(options: SearchOptions) -> None:
        for seed in range(10):
            for hypothesis in run(repeating(seed), range(4), options):
                assert all(_is_kept(one, options) for one in (hypothesis, *hypothesis.alternatives))

    return check


CHINESE = Vocabulary(
    ("<pad>", "<start>", "<end>", "<unk>", "男", "人", "男人", "一个男", "人在", "在", "草地", "▁a", "▁run"),
    Joining(word_start="▁", unspaced="男人一个在草地"),
)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("text", ["人", "男人", "个男人在"])
def test_a_text_without_spaces_is_suppressed_in_every_spelling(text: str, beams: int) -> None:
    said_without_bans = 0
    for seed in range(30):
        for suppressed in (text, ""):
            options = SearchOptions(beams, 9, n_best=beams, suppress=(suppressed,) if suppressed else ())
            world = World(seed, words=len(CHINESE) - 4, end=-1)
            (found,) = search(FakeSteps(world, [0]), 1, START, END, options, vocabulary=CHINESE)
            captions = ["".join(CHINESE.pieces[i] for i in one.ids) for one in (found, *found.alternatives)]
            if suppressed:
                assert not any(text in caption for caption in captions)
            else:
                said_without_bans += any(text in caption for caption in captions)
    assert said_without_bans or text == "个男人在"


def test_a_bad_ending_without_spaces_is_banned_only_at_the_end() -> None:
    endings, holds = set(), False
    for seed in range(40):
        world = World(seed, words=len(CHINESE) - 4)
        options = SearchOptions(3, 9, n_best=3, bad_endings=("在", "男人"))
        (found,) = search(FakeSteps(world, [0]), 1, START, END, options, vocabulary=CHINESE)
        for one in (found, *found.alternatives):
            text = CHINESE.text(one.ids)
            if one.finished:
                endings.add(text[-1:])
                assert not text.endswith(("在", "男人"))
            holds |= "男人" in text
    assert holds
    assert {"人", "地"} <= endings


def test_repeatable_words_are_whole_pieces_and_others_are_ignored() -> None:
    said = set()
    for seed in range(40):
        world = World(seed, words=len(CHINESE) - 4, end=-1)
        options = SearchOptions(3, 9, n_best=3, no_repeat_word=9, repeatable=("男人", "run", "dog"))
        (found,) = search(FakeSteps(world, [0]), 1, START, END, options, vocabulary=CHINESE)
        for one in (found, *found.alternatives):
            said |= {CHINESE.pieces[piece] for piece in one.ids if one.ids.count(piece) > 1}
    assert said == {"男人", "▁run"}


def test_punctuation_is_repeatable() -> None:
    pieces = Vocabulary(("<pad>", "<start>", "<end>", "<unk>", ",", "cat"))
    bans = {"no_repeat_word": 9, "repeatable": ("a",), "min_length": 4}
    assert search_with(pieces, bans).ids.count(4) > 1
    assert search_with(pieces, bans).ids.count(5) <= 1


def test_the_error_for_a_capitalised_repeatable_word_suggests_the_known_lower_case() -> None:
    pieces = Vocabulary(("<pad>", "<start>", "<end>", "<unk>", "a", "cat"))
    with pytest.raises(UsageError, match=r"`repeatable` names 'A', which is not in .*; use 'a', which is\."):
        search_with(pieces, {"no_repeat_word": 9, "repeatable": ("A",)})


def test_one_long_piece_does_not_multiply_the_memory_of_repeatable_words() -> None:
    """An array of text has room for the longest piece in every place: here, 80 GB."""
    pieces = ("<pad>", "<start>", "<end>", "<unk>", "a", "x" * 1_000_000, *map(str, range(20_000)))
    assert search_with(Vocabulary(pieces), {"no_repeat_word": 9, "repeatable": ("a",)}).ids


def test_repeatable_words_need_no_vocabulary_if_everything_may_be_repeated() -> None:
    world = World(0, words=4)
    plain, repeatable = (
        search(FakeSteps(world, [0]), 1, START, END, SearchOptions(3, 9, repeatable=words)) for words in ((), ("a",))
    )
    assert plain[0].ids == repeatable[0].ids


def test_a_text_that_cannot_be_spelled_is_ignored_and_a_word_is_refused() -> None:
    assert list(CHINESE.spellings(("run", "人鱻"), "suppress", at_end=False)) == [(frozenset([12]),)]
    with pytest.raises(UsageError, match="`suppress` names 'dog'"):
        list(CHINESE.spellings(("dog",), "suppress", at_end=False))


def test_a_long_text_is_spelled_immediately_or_refused() -> None:
    """A text of n letters has more than 2 ** (n / 2) spellings in pieces of one and two letters."""
    pieces = Vocabulary(("<pad>", "<start>", "<end>", "<unk>", "の", "のの", "は"), Joining(unspaced="のはヘ"))
    for name in ("suppress", "bad_endings"):
        at_end = name == "bad_endings"
        for lost in ("の" * 100 + "ヘ", "ヘ" + "の" * 100):
            assert list(pieces.spellings((lost,), name, at_end=at_end)) == []
        (spelling,) = pieces.spellings(("は" * 100,), name, at_end=at_end)
        assert spelling == (frozenset([6]),) * 100
        with pytest.raises(UsageError, match=f"`{name}` names 'の.*more than 1,000 ways; name a shorter text"):
            list(pieces.spellings(("の" * 100,), name, at_end=at_end))
