"""The metrics equal pycocoevalcap's and values computed by hand."""

import math
from collections import Counter

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from captioner.evaluation import bleu as bleu_module
from captioner.evaluation import cider as cider_module
from captioner.evaluation import ngrams
from captioner.evaluation import nist as nist_module
from captioner.evaluation import rouge as rouge_module
from captioner.evaluation.cider import Cider as CiderOfPhotos
from captioner.evaluation.metrics import TEACHER_FORCED_TITLES, TITLES, named, score, shown
from captioner.evaluation.ngrams import count, sentence
from captioner.text.metric_words import tokenize

VOCABULARY = ["a", "man", "dog", "on", "the", "beach", "surfs", "t-shirt"]


def bleu(*corpus):
    return bleu_module.bleu(count(*corpus))


def nist(*corpus):
    return nist_module.nist(count(*corpus))


def rouge_l(*corpus):
    return rouge_module.rouge_l(count(*corpus))


def cider_scores(*corpus):
    return cider_module.cider_scores(count(*corpus))


def cider(*corpus):
    return float(cider_scores(*corpus).mean())


Corpus = tuple[list[list[str]], list[list[list[str]]]]


def random_sentence(rng: np.random.Generator, shortest: int) -> list[str]:
    # the first words of the vocabulary are frequent, as some words are in captions
    picks = rng.geometric(0.3, size=rng.integers(shortest, 13)) - 1
    return [VOCABULARY[pick % len(VOCABULARY)] for pick in picks]


def random_corpus(seed: int, photos: int) -> Corpus:
    """Returns candidates and references, some of them empty or of one word; the first reference is never empty."""
    rng = np.random.default_rng(seed)
    references = [[random_sentence(rng, shortest=0) for _ in range(rng.integers(1, 6))] for _ in range(photos)]
    references[0][0] = random_sentence(rng, shortest=1)  # pycocoevalcap fails if no reference has a word
    candidates = [random_sentence(rng, shortest=0) for _ in range(photos)]
    for i in range(0, photos, 7):
        candidates[i] = candidates[i][: int(rng.integers(0, 2))]
    for i in range(3, photos, 10):
        candidates[i] = references[i][0]
    return candidates, references


def for_pycocoevalcap(corpus: Corpus) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    candidates, references = corpus
    gts = {i: [" ".join(reference) for reference in of_photo] for i, of_photo in enumerate(references)}
    return gts, {i: [" ".join(candidate)] for i, candidate in enumerate(candidates)}


CORPORA = [random_corpus(seed, photos) for seed, photos in enumerate([1, 1, 2, 2, 3, 5, 8, 20, 60, 300])]
every_corpus = pytest.mark.parametrize("corpus", CORPORA, ids=lambda corpus: f"{len(corpus[0])} photos")


def words_of(sentence: str) -> list[str]:
    return sentence.split()


def exactly(expected):
    return pytest.approx(expected, rel=0, abs=1e-9)


# --- Compared with pycocoevalcap, which published results come from


def test_random_corpora_have_empty_and_one_word_captions():
    lengths = {len(candidate) for candidates, _ in CORPORA for candidate in candidates}
    assert lengths >= set(range(13))
    assert any(not reference for _, references in CORPORA for of_photo in references for reference in of_photo)


@every_corpus
def test_bleu_equals_pycocoevalcap(corpus):
    expected, _ = Bleu(4).compute_score(*for_pycocoevalcap(corpus), verbose=0)
    assert bleu(*corpus) == exactly(tuple(expected))


@every_corpus
def test_rouge_l_equals_pycocoevalcap(corpus):
    expected, _ = Rouge().compute_score(*for_pycocoevalcap(corpus))
    assert rouge_l(*corpus) == exactly(expected)


@every_corpus
def test_cider_equals_pycocoevalcap(corpus):
    expected, expected_scores = Cider().compute_score(*for_pycocoevalcap(corpus))
    assert cider(*corpus) == exactly(expected)
    np.testing.assert_allclose(cider_scores(*corpus), expected_scores, rtol=0, atol=1e-9)


def test_empty_candidates_score_as_in_pycocoevalcap():
    corpus = ([[], []], [[["a", "dog"]], [["a", "man"], []]])
    gts, res = for_pycocoevalcap(corpus)
    assert bleu(*corpus) == exactly(tuple(Bleu(4).compute_score(gts, res, verbose=0)[0]))
    assert rouge_l(*corpus) == exactly(Rouge().compute_score(gts, res)[0]) == 0.5  # empty matches empty
    assert cider(*corpus) == exactly(Cider().compute_score(gts, res)[0]) == 0.0


def test_a_corpus_without_words_scores_zero():
    assert bleu([[]], [[[]]]) == exactly((0, 0, 0, 0))
    assert cider([[]], [[[]]]) == 0.0


# --- Compared with values computed by hand


def test_bleu_of_a_perfect_match_is_one():
    sentence = words_of("a man rides a wave")
    assert bleu([sentence], [[["other"], sentence]]) == pytest.approx((1, 1, 1, 1), abs=1e-8)


def test_bleu_counts_a_repeated_word_as_often_as_one_reference_has_it():
    # the example of Papineni et al., section 2.1
    references = [words_of("the cat is on the mat"), words_of("there is a cat on the mat")]
    bleu_1, *_ = bleu([["the"] * 7], [references])
    assert bleu_1 == exactly(2 / 7)


def test_bleu_penalises_a_corpus_shorter_than_its_references():
    bleu_1, bleu_2, *_ = bleu([["a", "cat"]], [[["a", "cat", "sleeps"]]])
    assert (bleu_1, bleu_2) == pytest.approx((math.exp(1 - 3 / 2),) * 2, abs=1e-8)


def test_bleu_uses_the_shorter_of_two_references_equally_close_in_length():
    words = words_of("a cat sleeps here")
    bleu_1, *_ = bleu([words[:3]], [[words, words[:2]]])
    assert bleu_1 == pytest.approx(1, abs=1e-8)


def test_bleu_is_computed_over_the_corpus_and_not_averaged_over_photos():
    bleu_1, *_ = bleu([["a"], ["x", "y", "z"]], [[["a"]], [["b", "c", "d"]]])
    assert bleu_1 == exactly(1 / 4)


def test_rouge_l_follows_word_order():
    # the example of Lin, section 3.1: the same words match, in a different order
    references = [[words_of("police killed the gunman")]]
    assert rouge_l([words_of("police kill the gunman")], references) == exactly(3 / 4)
    assert rouge_l([words_of("the gunman kill police")], references) == exactly(2 / 4)


def test_rouge_l_uses_the_best_precision_and_the_best_recall_of_all_references():
    # precision and recall: 1/2 and 1 with the first reference, 2/2 and 2/4 with the second
    score_of_photo = rouge_l([["a", "dog"]], [[["a"], ["a", "dog", "runs", "off"]]])
    assert score_of_photo == exactly(1.0)


def test_rouge_l_weighs_recall_above_precision():
    # one of two words is right: first precision 1/2 and recall 1, then the reverse
    assert rouge_l([["a", "dog"]], [[["a"]]]) == exactly(2.44 * 0.5 / (1 + 1.44 * 0.5))
    assert rouge_l([["a"]], [[["a", "dog"]]]) == exactly(2.44 * 0.5 / (0.5 + 1.44))


def test_cider_of_a_perfect_match_is_ten():
    sentences = [words_of("a man rides a wave"), words_of("two dogs run on grass")]
    np.testing.assert_allclose(cider_scores(sentences, [[s] for s in sentences]), [10, 10], rtol=0, atol=1e-9)


def test_cider_averages_four_orders_under_a_length_penalty():
    # no word is in both photos, so each n-gram weighs log(2), which cancels: 2 of 3 words, 1 of 2 pairs, 1 word short
    scores = cider_scores([["a", "b"], ["x"]], [[["a", "b", "c"]], [["y"]]])
    expected = 10 / 4 * (2 / math.sqrt(2 * 3) + 1 / math.sqrt(1 * 2)) * math.exp(-1 / (2 * 6**2))
    np.testing.assert_allclose(scores, [expected, 0], rtol=0, atol=1e-9)


def test_cider_gains_nothing_from_a_repeated_word():
    # clipped at one "a": 1 * 1 / (2 * 1); the pair "a a" matches nothing
    scores = cider_scores([["a", "a"], ["x"]], [[["a"]], [["y"]]])
    assert scores[0] == exactly(10 / 4 * (1 / 2) * math.exp(-1 / 72))


def test_cider_ignores_words_that_every_photo_has():
    assert cider([["a"], ["a"]], [[["a"]], [["a"]]]) == 0.0


def test_cider_of_a_single_photo_is_zero():
    assert cider([["a", "dog"]], [[["a", "dog"]]]) == 0.0


def test_cider_scores_are_one_float64_per_photo():
    scores = cider_scores(*CORPORA[-1])
    assert (scores.shape, scores.dtype) == ((300,), np.float64)
    assert cider(*CORPORA[-1]) == scores.mean()


def test_cider_scores_each_of_several_captions_of_a_photo_separately():
    candidates, references = CORPORA[-2]
    counted = [[sentence(words) for words in of_photo] for of_photo in references]
    of_first = CiderOfPhotos(counted).scores([sentence(words) for words in candidates[:5]], counted[0])
    alone = [cider_scores([words, *candidates[1:]], references)[0] for words in candidates[:5]]
    assert of_first == exactly(alone)


# --- NIST


def nist_by_the_formula(corpus: Corpus, longest: int) -> float:
    """Computes Doddington (2002), section 3, n-gram by n-gram, without the counts that the metrics share."""
    candidates, references = corpus

    def grams(words: list[str], n: int) -> list[str]:
        return [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]

    everything = [reference for of_photo in references for reference in of_photo]
    score = 0.0
    for n in range(1, longest + 1):
        known = Counter(gram for words in everything for gram in grams(words, n))
        begun = Counter(gram for words in everything for gram in grams(words, n - 1))
        gained, said = 0.0, 0
        for words, of_photo in zip(candidates, references, strict=True):
            left = Counter()
            for reference in of_photo:
                left |= Counter(grams(reference, n))
            for gram in grams(words, n):
                said += 1
                if left[gram]:
                    left[gram] -= 1
                    before = sum(map(len, everything)) if n == 1 else begun[gram.rpartition(" ")[0]]
                    gained += math.log2(before / known[gram])
        score += gained / said if said else 0
    length = sum(map(len, candidates))
    usual = sum(np.mean([len(words) for words in of_photo]) for of_photo in references)
    ratio = min(1.0, length / usual)
    return score * math.exp(math.log(0.5) * (math.log(ratio) / math.log(2 / 3)) ** 2) if ratio else 0.0


@every_corpus
def test_nist_equals_the_formula_computed_n_gram_by_n_gram(corpus):
    assert nist(*corpus) == exactly([nist_by_the_formula(corpus, n) for n in (1, 2, 3, 4)])


def test_nist_weighs_a_word_by_its_information_in_bits():
    # 8 words: "a" is a quarter of them (2 bits), "dog" and "cat" an eighth (3 bits); "a dog" is half of "a ..." (1 bit)
    references = [[words_of("a dog runs off")], [words_of("a cat sits down")]]
    nist_1, nist_2, *_ = nist([words_of("a dog x y"), words_of("z z z z")], references)
    assert (nist_1, nist_2) == exactly(((2 + 3) / 8, (2 + 3) / 8 + 1 / 6))


def test_nist_counts_a_repeated_word_as_often_as_one_reference_has_it():
    # two references with one "b" each, 8 words in total: 2 bits, counted once
    references = [[words_of("a b c d"), words_of("a b c d")]]
    assert nist([["b", "b", "b", "b"]], references)[0] == exactly(2 / 4)


def test_nist_halves_captions_two_thirds_as_long_as_the_mean_reference():
    references = [[words_of("a b"), words_of("a b c d e f g h i j")]]  # 6 on average
    whole = nist([words_of("a b x x x x")], references)[0]
    assert nist([words_of("a b x x")], references)[0] / 4 == exactly(0.5 * whole / 4 * 6 / 4)
    assert nist([words_of("a b x x x x x x")], references)[0] == exactly(
        whole * 6 / 8
    )  # a longer caption only has more words


def test_nist_of_an_empty_caption_is_zero():
    assert nist([[]], [[["a"]]]) == nist([[]], [[[]]]) == (0, 0, 0, 0)


# --- From raw captions


def test_score_returns_every_metric_of_the_tokenized_captions():
    captions = ["A dog runs.", "", "A man in a T-shirt"]
    references = [["a dog runs!", "The dog is running"], ["Two cats"], ["a man’s t-shirt", "A man, standing"]]
    words = [tokenize(c) for c in captions], [[tokenize(r) for r in refs] for refs in references]
    _, nist_2, _, nist_4 = nist(*words)
    expected = {
        **{f"bleu_{order}": value for order, value in enumerate(bleu(*words), 1)},
        "nist_2": nist_2,
        "nist_4": nist_4,
        "rouge_l": rouge_l(*words),
        "cider": cider(*words),
    }
    assert score(captions, references) == expected
    assert list(expected) == [name for name in TITLES if name != "meteor"]


def test_scores_are_shown_times_100_except_loss_and_nist():
    assert [shown(name, 0.4567) for name in ("bleu_1", "cider", "accuracy")] == ["45.7"] * 3
    assert (shown("nist_4", 4.5678), shown("dev_loss", 2.34567)) == ("4.57", "2.346")


def test_scores_missing_from_an_older_file_are_left_out():
    assert named({"cider": 0.5, "split": "dev", "bleu_1": 0.6, "seconds": 3.0}, TITLES) == {"bleu_1": 0.6, "cider": 0.5}
    assert named({"split": "dev"}, TEACHER_FORCED_TITLES) == {}


def test_score_counts_n_grams_once_for_all_metrics(monkeypatch):
    counted = []
    count = ngrams.sentence
    monkeypatch.setattr(ngrams, "sentence", lambda words: counted.append(words) or count(words))
    score(["a dog"], [["a dog", "the dog"]])
    assert len(counted) == 3
