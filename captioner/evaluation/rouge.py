"""ROUGE-L of a corpus, as `pycocoevalcap` computes it."""

from collections.abc import Sequence

import numpy as np

from captioner.evaluation.ngrams import Photo, count

_BETA = 1.2  # how much more recall weighs than precision; the value of the COCO evaluation server


def rouge_l(candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> float:
    """Mean over photos of ROUGE-L, in 0..1: the longest common subsequence of words with a reference.

    Lin, "ROUGE: A Package for Automatic Evaluation of Summaries" (2004), equations 2 to 4. As in `pycocoevalcap`,
    the best precision and the best recall of a photo may come from different references.

    Arguments and errors are those of `bleu`.
    """
    return rouge_l_of(count(candidates, references))


def rouge_l_of(photos: Sequence[Photo]) -> float:
    """`rouge_l` of what is counted already."""
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
