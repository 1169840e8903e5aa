"""CIDEr of a split, or of single captions given a split's statistics; equal to the values of `pycocoevalcap`."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from caprun.arrays import Float64Array
from captioner.evaluation.ngrams import MAX_ORDER, CountedPhoto, Ngram, Sentence

SIGMA = 6.0  # of the length penalty, in words

_Weighted = tuple[dict[Ngram, float], list[float]]


class Cider:
    """Scores captions, given how rare each n-gram is in the references of a set of photos.

    Args:
        references: for each photo of the set, its reference captions.

    Vedantam et al., "CIDEr: Consensus-based Image Description Evaluation" (2015), equations 1 to 3, in the variant
    that the paper names CIDEr-D and the COCO evaluation code names CIDEr: counts clipped to the reference's, a
    Gaussian penalty on the difference in length, and a factor of 10.

    The more photos have an n-gram in a reference, the less it weighs; if all photos have it, it weighs nothing. Scores
    therefore depend on the set of photos, cannot be compared between splits, and are 0 for a single photo.
    """

    def __init__(self, references: Iterable[Sequence[Sentence]]) -> None:
        photos = 0
        frequency: Counter[Ngram] = Counter()  # number of photos with the n-gram in at least one reference
        for of_photo in references:
            photos += 1
            frequency.update({ngram for reference in of_photo for ngram in reference.ngrams})
        self._unseen = math.log(photos) if photos else 0.0
        self._rarity = {ngram: self._unseen - math.log(in_photos) for ngram, in_photos in frequency.items()}

    def scores(self, candidates: Iterable[Sentence], references: Sequence[Sentence]) -> list[float]:
        """Scores several captions of one photo, each in 0..10, against the photo's references."""
        weighted = [(len(reference.words), self._tf_idf(reference)) for reference in references]
        return [self._score(candidate, weighted) for candidate in candidates]

    def _tf_idf(self, sentence: Sentence) -> _Weighted:
        """Computes equation 1 for all orders together, and the norm for each order."""
        weights = {ngram: times * self._rarity.get(ngram, self._unseen) for ngram, times in sentence.ngrams.items()}
        squares = [0.0] * MAX_ORDER
        for ngram, weight in weights.items():
            squares[len(ngram) - 1] += weight**2
        return weights, [math.sqrt(square) for square in squares]

    def _score(self, candidate: Sentence, references: Sequence[tuple[int, _Weighted]]) -> float:
        weights, norms = self._tf_idf(candidate)
        score = 0.0
        for length, (reference_weights, reference_norms) in references:
            products = [0.0] * MAX_ORDER
            for ngram, weight in weights.items():
                reference_weight = reference_weights.get(ngram, 0.0)
                products[len(ngram) - 1] += min(weight, reference_weight) * reference_weight
            # an order without weighted n-grams has a norm of 0 and adds nothing
            cosines = (p / (a * b) for p, a, b in zip(products, norms, reference_norms, strict=True) if p > 0)
            # `pycocoevalcap` measures length in pairs of words: the difference is the same, except for an empty
            # caption, whose score is 0 anyway
            difference = len(candidate.words) - length
            score += sum(cosines) / MAX_ORDER * math.exp(-(difference**2) / (2 * SIGMA**2))
        return score * 10 / len(references)


def cider_scores(photos: Sequence[CountedPhoto]) -> Float64Array:
    """Computes CIDEr of each photo's caption among all photos given, float64 (photos,), in 0..10.

    Their mean is the CIDEr of published captioning results.
    """
    measure = Cider(photo.references for photo in photos)
    return np.array([measure.scores([photo.candidate], photo.references)[0] for photo in photos])
