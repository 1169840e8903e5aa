"""BLEU-1 to BLEU-4 of a corpus, equal to the values of `pycocoevalcap`."""

import math
from collections.abc import Sequence

import numpy as np

from captioner.evaluation.ngrams import MAX_ORDER, CountedPhoto

# `pycocoevalcap` adds these to numerators and denominators, so that a corpus without any match scores almost 0 instead
# of failing. They also keep a perfect match about 1e-9 away from 1.
TINY, SMALL = 1e-15, 1e-9


def bleu(photos: Sequence[CountedPhoto]) -> tuple[float, float, float, float]:
    """Computes corpus BLEU-1 to BLEU-4, each in 0..1.

    Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation" (2002), section 2.3:
    `BP * exp(sum of log(p_n) / N)` for `n` from 1 to `N`. The brevity penalty compares each caption with the reference
    closest in length, the shorter of two equally close ones.
    """
    matched, proposed = [0] * MAX_ORDER, [0] * MAX_ORDER
    candidate_length = reference_length = 0
    for candidate, references in photos:
        length = len(candidate.words)
        candidate_length += length
        # of equally close lengths, the tuple comparison picks the shorter
        reference_length += min((abs(len(r.words) - length), len(r.words)) for r in references)[1]
        for ngram, times in candidate.ngrams.items():
            # an n-gram's count is clipped to its largest count in any one reference
            matched[len(ngram) - 1] += min(times, max(r.ngrams.get(ngram, 0) for r in references))
            proposed[len(ngram) - 1] += times

    ratio = (candidate_length + TINY) / (reference_length + SMALL)
    brevity_penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    # running products of the precisions p_1 to p_n
    products = np.cumprod((np.array(matched) + TINY) / (np.array(proposed) + SMALL))
    bleu_1, bleu_2, bleu_3, bleu_4 = (
        brevity_penalty * float(product) ** (1 / order) for order, product in enumerate(products, start=1)
    )
    return bleu_1, bleu_2, bleu_3, bleu_4
