"""All scores of a split, and their titles.

Published image captioning scores come from the COCO evaluation code (`pycocoevalcap`). BLEU, ROUGE-L and CIDEr equal
its numbers, without Java and without torch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from captioner.evaluation.bleu import bleu
from captioner.evaluation.cider import cider_scores
from captioner.evaluation.meteor import Meteor
from captioner.evaluation.ngrams import count
from captioner.evaluation.nist import nist
from captioner.evaluation.rouge import rouge_l
from captioner.text.metric_words import Words, tokenize

TEACHER_FORCED_TITLES = {"dev_loss": "Loss", "accuracy": "Accuracy", "top_5": "Top-5"}
"""Titles of the teacher-forced scores, by key."""

TITLES = {
    "bleu_1": "BLEU-1",
    "bleu_2": "BLEU-2",
    "bleu_3": "BLEU-3",
    "bleu_4": "BLEU-4",
    "nist_2": "NIST-2",
    "nist_4": "NIST-4",
    "rouge_l": "ROUGE-L",
    "meteor": "METEOR",
    "cider": "CIDEr",
}
"""Titles of the scores of free-running captions, by key."""

_DIGITS = {"dev_loss": 3, "nist_2": 2, "nist_4": 2}  # of scores that are printed as they are; others are times 100


def score(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    meteor: Meteor | None = None,
    words_of: Words = tokenize,
) -> dict[str, float]:
    """Tokenizes captions and references and computes every metric.

    Args:
        captions: one caption per photo, at least one photo; a caption may be empty.
        references: for each photo, in the same order, its reference captions, at least one.
        meteor: computes METEOR; without it, METEOR is left out.
        words_of: splits a caption into words.

    Returns:
        Scores by the keys of `TITLES`: mean CIDEr in 0..10 (papers often print it times 100), NIST 0 or more, the
        others in 0..1.
    """
    words = [words_of(caption) for caption in captions]
    reference_words = [[words_of(reference) for reference in of_photo] for of_photo in references]
    photos = count(words, reference_words)
    _, nist_2, _, nist_4 = nist(photos)
    scores = {f"bleu_{order}": value for order, value in enumerate(bleu(photos), 1)}
    scores |= {"nist_2": nist_2, "nist_4": nist_4, "rouge_l": rouge_l(photos)}
    if meteor and (found := meteor(words, reference_words)) is not None:
        scores["meteor"] = found
    return scores | {"cider": float(cider_scores(photos).mean())}


def scores_by_dataset(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    dataset_of: Sequence[str],
    words_of: Words = tokenize,
) -> dict[str, float]:
    """Scores the photos of each dataset separately.

    Args:
        captions, references, words_of: see `score`.
        dataset_of: the name of each photo's dataset.

    Returns:
        Scores by keys such as `cider@NAME`, with `photos@NAME` and `references@NAME`; empty if there is one dataset.
        METEOR is left out.
    """
    names = list(dict.fromkeys(dataset_of))
    found: dict[str, float] = {}
    if len(names) < 2:
        return found
    for name in names:
        chosen = [i for i, dataset in enumerate(dataset_of) if dataset == name]
        scores = score([captions[i] for i in chosen], [references[i] for i in chosen], words_of=words_of)
        counts = {"photos": len(chosen), "references": sum(len(references[i]) for i in chosen)}
        found |= {f"{key}@{name}": value for key, value in (counts | scores).items()}
    return found


def keys_by_dataset(metrics: Mapping[str, object]) -> list[str]:
    """Returns the keys of each dataset's CIDEr and BLEU-4 in the result of `scores_by_dataset`."""
    return [key for key in metrics if key.startswith(("cider@", "bleu_4@"))]


def score_line(metrics: Mapping[str, Any], names: Sequence[str] = ("dev_loss", "bleu_4", "cider")) -> str:
    """Returns a line with the named scores, followed by the CIDEr and BLEU-4 of each dataset."""
    return "  ".join(f"{name} {metrics[name]:.3f}" for name in (*names, *keys_by_dataset(metrics)))


def shown(name: str, value: float) -> str:
    """Formats a score, given its key in `TITLES` or `TEACHER_FORCED_TITLES`: times 100, except loss and NIST."""
    return f"{value:.{_DIGITS[name]}f}" if name in _DIGITS else f"{100 * value:.1f}"


def named(metrics: Mapping[str, object], titles: Mapping[str, str]) -> dict[str, float]:
    """Returns the scores that have a title, in the order of `titles`; files of older versions have fewer scores."""
    return {name: value for name in titles if isinstance(value := metrics.get(name), (int, float))}
