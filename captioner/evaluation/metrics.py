"""How well do captions match their references: BLEU, ROUGE-L and CIDEr, as published results compute them.

Published image captioning scores come from the COCO evaluation code (`pycocoevalcap`); the three metrics here return
its numbers, from lists of words, without Java and without torch. `score` starts from raw captions.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_ORDER = 4  # n-grams of 1 to 4 words, in BLEU and in CIDEr

Ngram = tuple[str, ...]

TITLES = {
    "bleu_1": "BLEU-1",
    "bleu_2": "BLEU-2",
    "bleu_3": "BLEU-3",
    "bleu_4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "cider": "CIDEr",
}
"""What the scores are called where people read them."""


@dataclass(frozen=True)
class Scores:
    """The scores of one split."""

    bleu_1: float
    """Corpus BLEU with n-grams of up to 1 word, in 0..1; `bleu_2` to `bleu_4` likewise."""
    bleu_2: float
    bleu_3: float
    bleu_4: float
    rouge_l: float
    """Mean ROUGE-L, in 0..1."""
    cider: float
    """Mean CIDEr, in 0..10; papers often print it times 100."""

    def as_dict(self) -> dict[str, float]:
        """Every score by its field's name."""
        return asdict(self)


def score(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """Tokenize raw captions and references, and compute every metric.

    Args:
        captions: one caption a photo; it may be empty.
        references: for each photo, in the same order, its reference captions.

    Raises:
        ValueError: there is no photo, the lengths differ, or a photo has no reference.
        TypeError: the references of a photo are one string instead of a list of them.
    """
    for i, of_photo in enumerate(references):
        if isinstance(of_photo, str):
            raise TypeError(f"the references of the photo at index {i} are one string: put it in a list")
    photos = _count([tokenize(caption) for caption in captions], [[tokenize(r) for r in refs] for refs in references])
    return Scores(*_bleu(photos), rouge_l=_rouge_l(photos), cider=float(_cider_scores(photos).mean()))


# --- Words -----------------------------------------------------------------------------------------------------------

# One letter stands for each kind of character, so that the pattern of a word is plain: `re` has no class of combining
# marks, and without them it would cut Hindi and decomposed accents apart. A word does not start with a mark, or the
# invisible variation selector behind an emoji would be one.
_LETTER, _MARK, _JOINER, _OTHER = "LMJO"
_WORD = re.compile(f"{_LETTER}[{_LETTER}{_MARK}]*(?:{_JOINER}{_LETTER}[{_LETTER}{_MARK}]*)*")

# Typographic variants of a joiner become the plain one: which of them a keyboard made says nothing about a caption.
_PLAIN_JOINERS = str.maketrans({"’": "'", "\N{HYPHEN}": "-", "\N{NON-BREAKING HYPHEN}": "-"})
_ZERO_WIDTH_SPACE = "\N{ZERO WIDTH SPACE}"


def tokenize(caption: str) -> list[str]:
    """Split a caption into its words: lower-cased, punctuation removed.

    A word is a run of letters, digits and combining marks of any script, in Unicode's composed form (NFC); a hyphen or
    an apostrophe inside it stays (`t-shirt`, `l'eau`). Everything else separates words. Scripts that put no space
    between words (Chinese, Japanese, Thai) come out as one word for each phrase: segment them first.

    This is the protocol of papers that "lower-case and remove punctuation". The Penn Treebank tokenizer of
    `pycocoevalcap` differs from it in English contractions and possessives (`man's` is `man` and `'s` there) and in
    numbers (`3.5` stays one word there).
    """
    # Joiners and soft hyphens are invisible and inside words, so they go without a trace, and first, as a mark behind
    # one could not be composed with its letter. The zero-width space is the one of their category that ends a word.
    visible = (c for c in caption if c == _ZERO_WIDTH_SPACE or unicodedata.category(c) != "Cf")
    text = unicodedata.normalize("NFC", "".join(visible)).lower().translate(_PLAIN_JOINERS)
    kinds = "".join(map(_kind, text))
    return [text[match.start() : match.end()] for match in _WORD.finditer(kinds)]


def _kind(character: str) -> str:
    if character in "-'":
        return _JOINER
    category = unicodedata.category(character)[0]
    if category in "LN":
        return _LETTER
    return _MARK if category == "M" else _OTHER


# --- What the metrics share ------------------------------------------------------------------------------------------


class _Sentence(NamedTuple):
    words: Sequence[str]
    ngrams: Counter[Ngram]  # of 1 to MAX_ORDER words


class _Photo(NamedTuple):
    candidate: _Sentence
    references: list[_Sentence]  # at least one


def _count(candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> list[_Photo]:
    """Check what all metrics were given, and count its n-grams once for all of them."""
    if len(candidates) != len(references):
        raise ValueError(f"there are {len(candidates)} captions but references for {len(references)} photos")
    if not candidates:
        raise ValueError("there is no caption to score")
    photos = []
    for i, (candidate, of_photo) in enumerate(zip(candidates, references, strict=True)):
        if not of_photo:
            raise ValueError(f"the photo at index {i} has no reference caption: give it one or leave it out")
        photos.append(_Photo(_sentence(candidate), [_sentence(reference) for reference in of_photo]))
    return photos


def _sentence(words: Sequence[str]) -> _Sentence:
    if isinstance(words, str):  # it is a sequence of strings too, and would be scored letter by letter
        raise TypeError(f"a list of words is needed, not the string {words!r}: tokenize it first")
    ngrams: Counter[Ngram] = Counter()
    for order in range(1, MAX_ORDER + 1):
        # n copies of the sentence, each one word further, side by side: columns are the n-grams
        ngrams.update(zip(*(words[start:] for start in range(order)), strict=False))
    return _Sentence(words, ngrams)


# --- BLEU ------------------------------------------------------------------------------------------------------------

# Added to numerators and denominators by `pycocoevalcap`, so that a corpus without any match scores almost 0 instead
# of failing. They also keep a perfect match about 1e-9 away from 1.
_TINY, _SMALL = 1e-15, 1e-9


def bleu(
    candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> tuple[float, float, float, float]:
    """Corpus BLEU-1 to BLEU-4, each in 0..1.

    Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation" (2002), section 2.3:
    `BP * exp(sum of log(p_n) / N)` for `n` from 1 to `N`. The brevity penalty takes for each photo the reference
    whose length is closest, the shorter one of two.

    Args:
        candidates: the words of one caption a photo.
        references: for each photo, the words of each of its reference captions.

    Raises:
        ValueError: there is no photo, the lengths differ, or a photo has no reference.
        TypeError: a caption is a string instead of a list of words.
    """
    return _bleu(_count(candidates, references))


def _bleu(photos: Sequence[_Photo]) -> tuple[float, float, float, float]:
    matched, proposed = [0] * MAX_ORDER, [0] * MAX_ORDER
    candidate_length = reference_length = 0
    for candidate, references in photos:
        length = len(candidate.words)
        candidate_length += length
        # the length itself breaks ties, in favour of the shorter reference
        reference_length += min((abs(len(r.words) - length), len(r.words)) for r in references)[1]
        for ngram, count in candidate.ngrams.items():
            # an n-gram counts at most as often as in the one reference that has it most often
            matched[len(ngram) - 1] += min(count, max(r.ngrams.get(ngram, 0) for r in references))
            proposed[len(ngram) - 1] += count

    ratio = (candidate_length + _TINY) / (reference_length + _SMALL)
    brevity_penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    # running products of the precisions p_1 to p_n
    products = np.cumprod((np.array(matched) + _TINY) / (np.array(proposed) + _SMALL))
    bleu_1, bleu_2, bleu_3, bleu_4 = (
        brevity_penalty * float(product) ** (1 / order) for order, product in enumerate(products, start=1)
    )
    return bleu_1, bleu_2, bleu_3, bleu_4


# --- ROUGE-L ---------------------------------------------------------------------------------------------------------

_BETA = 1.2  # how much more recall weighs than precision; the value of the COCO evaluation server


def rouge_l(candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> float:
    """Mean over photos of ROUGE-L, in 0..1: the longest common subsequence of words with a reference.

    Lin, "ROUGE: A Package for Automatic Evaluation of Summaries" (2004), equations 2 to 4. As in `pycocoevalcap`,
    the best precision and the best recall of a photo may come from different references.

    Arguments and errors are those of `bleu`.
    """
    return _rouge_l(_count(candidates, references))


def _rouge_l(photos: Sequence[_Photo]) -> float:
    scores = []
    for candidate, references in photos:
        # `pycocoevalcap` splits an empty caption at spaces into one empty word; this keeps its numbers, also where a
        # reference is empty too, which is then a match
        words = candidate.words or [""]
        precision = recall = 0.0
        for reference in references:
            reference_words = reference.words or [""]
            common = _longest_common_subsequence(words, reference_words)
            precision = max(precision, common / len(words))
            recall = max(recall, common / len(reference_words))
        if precision == 0:  # and then recall is 0 too
            scores.append(0.0)
        else:
            scores.append((1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision))
    return float(np.mean(scores))


def _longest_common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    # row[j]: the length for the part of `a` read so far and b[:j]
    row = [0] * (len(b) + 1)
    for word in a:
        diagonal = 0
        for j, other in enumerate(b, start=1):
            above = row[j]
            row[j] = diagonal + 1 if word == other else max(above, row[j - 1])
            diagonal = above
    return row[-1]


# --- CIDEr -----------------------------------------------------------------------------------------------------------

_SIGMA = 6.0  # of the length penalty, in words


def cider(candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> float:
    """Mean over photos of `cider_scores`: CIDEr as published captioning results give it, in 0..10.

    Arguments and errors are those of `bleu`.
    """
    return float(cider_scores(candidates, references).mean())


def cider_scores(
    candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> NDArray[np.float64]:
    """CIDEr of each photo's caption, float64 (photos,), in 0..10.

    Vedantam et al., "CIDEr: Consensus-based Image Description Evaluation" (2015), equations 1 to 3, in the variant
    that the paper names CIDEr-D and that the COCO evaluation code calls CIDEr: counts clipped to the reference's, a
    Gaussian penalty on the difference in length, and a factor of 10.

    An n-gram weighs less the more photos have it in a reference, and nothing if all have it: scores depend on the
    whole set of photos, cannot be compared between splits, and are 0 for a photo alone.

    Arguments and errors are those of `bleu`.
    """
    return _cider_scores(_count(candidates, references))


def _cider_scores(photos: Sequence[_Photo]) -> NDArray[np.float64]:
    # in how many photos an n-gram occurs, in any number of their references
    document_frequency = Counter(
        ngram for _, references in photos for ngram in {n for r in references for n in r.ngrams}
    )
    unseen = math.log(len(photos))
    inverse_frequency = {ngram: unseen - math.log(count) for ngram, count in document_frequency.items()}

    def tf_idf(sentence: _Sentence) -> tuple[dict[Ngram, float], list[float]]:
        """Equation 1 for all orders together, and the norm for each order."""
        weights = {ngram: count * inverse_frequency.get(ngram, unseen) for ngram, count in sentence.ngrams.items()}
        squares = [0.0] * MAX_ORDER
        for ngram, weight in weights.items():
            squares[len(ngram) - 1] += weight**2
        return weights, [math.sqrt(square) for square in squares]

    scores = np.zeros(len(photos))
    for i, (candidate, references) in enumerate(photos):
        weights, norms = tf_idf(candidate)
        for reference in references:
            reference_weights, reference_norms = tf_idf(reference)
            products = [0.0] * MAX_ORDER
            for ngram, weight in weights.items():
                reference_weight = reference_weights.get(ngram, 0.0)
                products[len(ngram) - 1] += min(weight, reference_weight) * reference_weight
            # an order without n-grams of any weight has a norm of 0 and adds nothing
            cosines = (p / (a * b) for p, a, b in zip(products, norms, reference_norms, strict=True) if p > 0)
            # `pycocoevalcap` measures length in pairs of words: the same difference, except to an empty caption, where
            # there is nothing to penalise
            difference = len(candidate.words) - len(reference.words)
            scores[i] += sum(cosines) / MAX_ORDER * math.exp(-(difference**2) / (2 * _SIGMA**2))
        scores[i] *= 10 / len(references)
    return scores
