"""Rewards equal the reference implementation's CIDEr-D and BLEU-4 with END."""

from __future__ import annotations

import numpy as np
import pytest

from caprun.bundle.vocabulary import Joining, Vocabulary
from captioner.evaluation.bleu import bleu
from captioner.evaluation.cider import Cider
from captioner.evaluation.ngrams import count, sentence
from captioner.evaluation.rewards import CaptionRewards, Rewarded
from captioner.text.splitting import joining

END = "<end>"
WORDS = ("a", "dog", "cat", "runs", "sits", "on", "the", "grass", "red", "ball")
REFERENCES = [
    ["a dog runs on the grass", "the dog runs", "a red dog sits on the grass"],
    ["a cat sits on the red ball", "the cat sits on a ball on the grass"],
    ["the red ball", "a ball on the grass", "a zebra on the red grass", "on the grass a ball"],
]
CAPTIONS = [
    (0, "a dog runs on the grass", True),
    (0, "a dog runs on the", True),
    (0, "a dog runs on the", False),
    (0, "a a a a dog dog a dog a dog", True),
    (0, "", True),
    (0, "grass", True),
    (1, "the cat sits on the grass", True),
    (1, "dog", False),
    (2, "red the red the red the ball sits on red the", True),
    (2, "a ball on the grass", True),
]


def score(references: list[list[str]], captions: list[tuple[int, str, bool]], vocabulary: Vocabulary) -> Rewarded:
    rewards = CaptionRewards([[caption.split() for caption in photo] for photo in references], vocabulary)
    ids = {piece: index for index, piece in enumerate(vocabulary.pieces)}
    said = [[ids[piece] for piece in caption.split()] for _, caption, _ in captions]
    return rewards.score(np.array([photo for photo, _, _ in captions]), said, np.array([end for _, _, end in captions]))


def with_end(caption: str, *, ended: bool = True) -> str:
    return f"{caption} {END}".strip() if ended else caption


@pytest.fixture(scope="module")
def found() -> Rewarded:
    return score(REFERENCES, CAPTIONS, Vocabulary(WORDS))


def test_cider_d_with_end_equals_the_reference_implementations(found):
    reference = pytest.importorskip("pycocoevalcap.cider.cider_scorer")
    # the reference implementation takes document frequencies from the photos that it scores, so all are added
    for (photo, caption, ended), cider in zip(CAPTIONS, found.cider, strict=True):
        scorer = reference.CiderScorer(n=4, sigma=6.0)
        for number, of_photo in enumerate(REFERENCES):
            said = with_end(caption, ended=ended) if number == photo else "nothing"
            scorer += (said, [with_end(one) for one in of_photo])
        assert cider == pytest.approx(scorer.compute_score()[1][photo], abs=1e-9), caption


def test_bleu_4_with_end_equals_the_reference_implementations(found):
    reference = pytest.importorskip("pycocoevalcap.bleu.bleu_scorer")
    for (photo, caption, ended), worth in zip(CAPTIONS, found.bleu_4, strict=True):
        scorer = reference.BleuScorer(with_end(caption, ended=ended), [with_end(one) for one in REFERENCES[photo]], n=4)
        expected = scorer.compute_score(option="closest", verbose=0)[1][3][0]
        assert worth == pytest.approx(expected, abs=1e-9), caption


def test_rewards_of_many_captions_equal_the_metrics_of_each_caption():
    rng = np.random.default_rng(0)
    words = [f"w{number}" for number in range(30)]
    drawn = [[rng.choice(words, rng.integers(1, 14)).tolist() for _ in range(rng.integers(1, 6))] for _ in range(40)]
    vocabulary = Vocabulary((*words, "never"))
    photos = rng.integers(0, 40, 200)
    said = [rng.integers(0, 31, rng.integers(0, 14)).tolist() for _ in photos]
    ended = rng.random(200) < 0.7
    found = CaptionRewards(drawn, vocabulary).score(photos, said, ended)
    references = [[[*words, END] for words in of_photo] for of_photo in drawn]
    cider = Cider([[sentence(words) for words in of_photo] for of_photo in references])
    for index, photo in enumerate(photos.tolist()):
        caption = [vocabulary.pieces[piece] for piece in said[index]] + [END] * bool(ended[index])
        theirs = [sentence(words) for words in references[photo]]
        assert found.cider[index] == pytest.approx(cider.scores([sentence(caption)], theirs)[0], abs=1e-9)
        assert found.bleu_4[index] == pytest.approx(bleu(count([caption], [references[photo]]))[3], abs=1e-9)


def test_an_end_is_worth_less_where_no_reference_ends():
    references = [["a boy is playing in a park", "a boy is playing"], ["a dog", "two dogs run"]]
    vocabulary = Vocabulary(("a", "boy", "is", "playing", "in", "park"))
    ends_well, ends_badly, goes_on = (
        score(references, [(0, caption, ended)], vocabulary).cider[0]
        for caption, ended in (
            ("a boy is playing", True),
            ("a boy is playing in a", True),
            ("a boy is playing in a", False),
        )
    )
    assert ends_badly < goes_on
    assert ends_badly < ends_well


def test_subword_pieces_are_scored_as_the_words_that_they_form():
    pieces = ("▁a", "▁do", "g", "▁runs", "▁on", "▁the", "▁gr", "ass", ",", "▁un", "known")
    vocabulary = Vocabulary(pieces, joining(pieces, word_start="▁"))
    rewards = CaptionRewards([[caption.split() for caption in photo] for photo in REFERENCES], vocabulary)
    said = [[0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 8, 3, 4, 5, 6, 7], [9, 10, 9, 10]]
    found = rewards.score(np.zeros(3, np.int64), said, np.ones(3, bool)).cider
    expected = score(REFERENCES, [(0, "a dog runs on the grass", True)], Vocabulary(WORDS)).cider[0]
    assert found[0] == pytest.approx(expected)
    assert found[1] == pytest.approx(expected)  # punctuation marks are not words
    strange = CaptionRewards([[["x"]], [["y"]]], Vocabulary(("un", "known"), Joining(continuation="kn")))
    assert strange.score(np.array([0]), [[0, 1]], np.array([False])).cider == [0]
    assert found[2] < found[0]


def test_cider_of_a_single_photo_is_zero():
    assert score([["a dog"]], [(0, "a dog", True)], Vocabulary(WORDS)).cider[0] == 0


def test_words_in_any_script_are_scored():
    references = [["собака бежит", "чёрная собака"], ["قطة نائمة", "the cat"]]
    vocabulary = Vocabulary(("собака", "бежит", "قطة", "نائمة"))
    found = score(references, [(0, "собака бежит", True), (1, "قطة نائمة", True), (1, "собака", True)], vocabulary)
    assert found.cider[0] > 3
    assert found.cider[1] > 3
    assert found.cider[2] == 0  # END is in the references of all photos


def test_a_captions_reward_does_not_depend_on_the_other_captions(found):
    alone = [score(REFERENCES, [one], Vocabulary(WORDS)) for one in CAPTIONS]
    assert [one.cider[0] for one in alone] == pytest.approx(found.cider.tolist(), abs=1e-12)
    assert [one.bleu_4[0] for one in alone] == pytest.approx(found.bleu_4.tolist(), abs=1e-12)


def test_references_too_short_for_long_n_grams_are_scored():
    found = score(
        [["dog"], ["cat", ""]], [(0, "dog", True), (1, "", True), (1, "a dog runs on", False)], Vocabulary(WORDS)
    )
    assert found.cider[0] == pytest.approx(10 * 2 / 4)  # only two of four orders have n-grams
    assert np.isfinite(found.cider).all()
    assert np.isfinite(found.bleu_4).all()


def test_length_is_relative_to_the_mean_length_of_the_photos_references():
    references = [["a dog runs", "a dog"], ["a cat"]]
    captions = [(0, "a dog", True), (0, "a dog runs on the", True), (0, "a dog runs on the", False), (1, "a cat", True)]
    longer = score(references, captions, Vocabulary(WORDS)).longer
    # END counts as a word, even if the caption was cut off
    assert longer == pytest.approx([3 / 3.5 - 1, 6 / 3.5 - 1, 6 / 3.5 - 1, 0])


def test_bad_endings_are_found_at_the_end_of_captions_in_any_vocabulary():
    plain = Vocabulary(("a", "dog", "the"))
    begun = Vocabulary(("▁a", "▁dog", "▁the", "s"), Joining(word_start="▁"))
    chinese = Vocabulary(("狗", "在草", "地上", "一", "个"), Joining(word_start="▁", unspaced="一上个在地狗草"))
    references = {plain: [["a", "dog"]], begun: [["a", "dog"]], chinese: [["狗", "在", "草", "地", "上"]]}

    def ending_badly(vocabulary: Vocabulary, *ids: list[int]) -> list[bool]:
        rewards = CaptionRewards([references[vocabulary]], vocabulary, ("a", "the", "上", "一个"))
        ended = np.ones(len(ids), bool)
        return rewards.score(np.zeros(len(ids), np.int64), ids, ended).ends_badly.tolist()

    assert ending_badly(plain, [1, 2], [2, 1], [0], []) == [True, False, True, False]
    assert ending_badly(begun, [1, 2], [0, 3], [2, 3]) == [True, False, False]
    assert ending_badly(chinese, [0, 1, 2], [0, 3, 4], [3, 4, 0], [1]) == [True, True, False, False]
