"""ROUGE-L of a corpus, equal to the value of `pycocoevalcap`."""

from collections.abc import Sequence

import numpy as np

from captioner.evaluation.ngrams import CountedPhoto

_BETA = 1.2  # weight of recall over precision; the value of the COCO evaluation server


def rouge_l(photos: Sequence[CountedPhoto]) -> float:
    """Computes the mean over photos of ROUGE-L, in 0..1, from the longest common subsequence with a reference.

    Lin, "ROUGE: A Package for Automatic Evaluation of Summaries" (2004), equations 2 to 4. As in `pycocoevalcap`,
    the best precision and the best recall of a photo can come from different references.
    """
    scores = []
    for candidate, references in photos:
        # `pycocoevalcap` splits an empty caption at spaces into one empty word, which matches that of an empty
        # reference; doing the same keeps its values
        words = candidate.words or [""]
        precision = recall = 0.0
        for reference in references:
            reference_words = reference.words or [""]
            common = _longest_common_subsequence(words, reference_words)
            precision = max(precision, common / len(words))
            recall = max(recall, common / len(reference_words))
        if precision == 0:  # then recall is 0 too
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
