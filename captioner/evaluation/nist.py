"""NIST of a corpus: n-gram precision in which rare n-grams weigh more; equal to the values of `mteval-v13a`."""

import math
from collections import Counter
from collections.abc import Sequence

from captioner.evaluation.ngrams import MAX_ORDER, CountedPhoto, Ngram

_BETA = math.log(0.5) / math.log(1.5) ** 2  # captions two thirds as long as their references score half


def nist(photos: Sequence[CountedPhoto]) -> tuple[float, float, float, float]:
    """Computes corpus NIST-1 to NIST-4, each 0 or more; a good score for captions is around 5.

    Doddington, "Automatic Evaluation of Machine Translation Quality Using N-gram Co-Occurrence Statistics" (2002),
    section 3: the sum over orders n of (information of the caption's n-grams that a reference has) / (n-grams in the
    captions), both over the whole corpus, times exp(beta * log(min(L / R, 1))^2). The information of an n-gram is log2
    of (count of its first n-1 words in the references / its own count), and of a word log2 of (words in the
    references / its own count). L is the number of words in all captions; R is the number of words in the references,
    averaged over a photo's references and summed over photos.

    As in NIST's `mteval`, the count of an n-gram in a caption is clipped to its largest count in any one reference.
    NLTK's `corpus_nist` instead uses, for each photo and order, the reference with the highest precision.
    """
    frequency: Counter[Ngram] = Counter()
    for photo in photos:
        for reference in photo.references:
            frequency.update(reference.ngrams)
    # the empty n-gram precedes every word
    frequency[()] = sum(len(reference.words) for photo in photos for reference in photo.references)

    information, proposed = [0.0] * MAX_ORDER, [0] * MAX_ORDER
    length, reference_length = 0, 0.0
    for candidate, references in photos:
        length += len(candidate.words)
        reference_length += sum(len(reference.words) for reference in references) / len(references)
        for ngram, times in candidate.ngrams.items():
            proposed[len(ngram) - 1] += times
            matched = min(times, max(reference.ngrams.get(ngram, 0) for reference in references))
            if matched:
                information[len(ngram) - 1] += matched * math.log2(frequency[ngram[:-1]] / frequency[ngram])

    ratio = min(length / reference_length, 1.0) if reference_length else 1.0
    brevity_penalty = math.exp(_BETA * math.log(ratio) ** 2) if ratio > 0 else 0.0
    total, totals = 0.0, []
    for gained, count in zip(information, proposed, strict=True):
        total += gained / max(count, 1)
        totals.append(total * brevity_penalty)
    nist_1, nist_2, nist_3, nist_4 = totals
    return nist_1, nist_2, nist_3, nist_4
