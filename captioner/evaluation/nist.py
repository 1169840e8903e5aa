"""NIST of a corpus: n-gram precision in which a rare n-gram counts for more, as `mteval-v13a` computes it."""

import math
from collections import Counter
from collections.abc import Sequence

from captioner.evaluation.ngrams import MAX_ORDER, Ngram, Photo, count

_BETA = math.log(0.5) / math.log(1.5) ** 2  # captions two thirds as long as their references score half


def nist(
    candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> tuple[float, float, float, float]:
    """Corpus NIST-1 to NIST-4, from 0 up; a good score is around 5 for captions.

    Doddington, "Automatic Evaluation of Machine Translation Quality Using N-gram Co-Occurrence Statistics" (2002),
    section 3: the sum over orders n of (information of the caption's n-grams that a reference has) / (n-grams in the
    captions), both over the whole corpus, times exp(beta * log(min(L / R, 1))^2). The information of an n-gram is log2
    of (how often its first n-1 words are in the references / how often it is itself), and for a word (words in the
    references / how often it is). L is the words in all captions; R is the words in the references, averaged over a
    photo's references and summed over photos.

    As in NIST's own `mteval`, and unlike NLTK's `corpus_nist`, a caption's n-gram counts as often as in the one
    reference that has it most often; NLTK takes for every photo and order the single reference that gives the highest
    precision, and that one's length.

    Arguments and errors are those of `captioner.evaluation.bleu.bleu`.
    """
    return nist_of(count(candidates, references))


def nist_of(photos: Sequence[Photo]) -> tuple[float, float, float, float]:
    """`nist` of what is counted already."""
    frequency: Counter[Ngram] = Counter()
    for photo in photos:
        for reference in photo.references:
            frequency.update(reference.ngrams)
    # the n-gram of no words, before every word
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
    for known, said in zip(information, proposed, strict=True):
        total += known / max(said, 1)
        totals.append(total * brevity_penalty)
    nist_1, nist_2, nist_3, nist_4 = totals
    return nist_1, nist_2, nist_3, nist_4
