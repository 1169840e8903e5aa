"""How well do captions match their references: all scores of a split, and what they are called.

Published image captioning scores come from the COCO evaluation code (`pycocoevalcap`); BLEU, ROUGE-L and CIDEr are its
numbers, from lists of words, without Java and without torch. `score` starts from raw captions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from captioner.evaluation.bleu import bleu, bleu_of
from captioner.evaluation.cider import cider, cider_scores, cider_scores_of
from captioner.evaluation.meteor import Meteor
from captioner.evaluation.ngrams import count
from captioner.evaluation.nist import nist, nist_of
from captioner.evaluation.rouge import rouge_l, rouge_l_of
from captioner.text.metric_words import tokenize

__all__ = [
    "TEACHER_FORCED_TITLES",
    "TITLES",
    "Scores",
    "bleu",
    "cider",
    "cider_scores",
    "keys_by_dataset",
    "named",
    "nist",
    "rouge_l",
    "score",
    "scores_by_dataset",
    "shown",
    "tokenize",
]

TEACHER_FORCED_TITLES = {"dev_loss": "Loss", "accuracy": "Accuracy", "top_5": "Top-5"}
"""What the numbers of `captioner.evaluation.teacher_forced` are called where people read them."""

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
"""What the scores of free-running captions are called where people read them."""

_AS_THEY_ARE = {"dev_loss": 3, "nist_2": 2, "nist_4": 2}  # digits; all others are printed times 100


@dataclass(frozen=True)
class Scores:
    """The scores of one split."""

    bleu_1: float
    """Corpus BLEU with n-grams of up to 1 word, in 0..1; `bleu_2` to `bleu_4` likewise."""
    bleu_2: float
    bleu_3: float
    bleu_4: float
    nist_2: float
    """Corpus NIST with n-grams of up to 2 words, from 0 up; `nist_4` likewise."""
    nist_4: float
    rouge_l: float
    """Mean ROUGE-L, in 0..1."""
    cider: float
    """Mean CIDEr, in 0..10; papers often print it times 100."""
    meteor: float | None = None
    """Corpus METEOR, in 0..1; None where it was not computed."""

    def as_dict(self) -> dict[str, float]:
        """Every score that was computed, by its field's name, in the order of `TITLES`."""
        scores: dict[str, float | None] = asdict(self)
        return {name: value for name in TITLES if (value := scores[name]) is not None}


def score(captions: Sequence[str], references: Sequence[Sequence[str]], meteor: Meteor | None = None) -> Scores:
    """Tokenize raw captions and references, and compute every metric.

    Args:
        captions: one caption a photo; it may be empty.
        references: for each photo, in the same order, its reference captions.
        meteor: computes METEOR, which is left out without it.

    Raises:
        ValueError: there is no photo, the lengths differ, or a photo has no reference.
        TypeError: the references of a photo are one string instead of a list of them.
    """
    for i, of_photo in enumerate(references):
        if isinstance(of_photo, str):
            raise TypeError(f"the references of the photo at index {i} are one string: put it in a list")
    words = [tokenize(caption) for caption in captions]
    reference_words = [[tokenize(reference) for reference in of_photo] for of_photo in references]
    photos = count(words, reference_words)
    _, nist_2, _, nist_4 = nist_of(photos)
    return Scores(
        *bleu_of(photos),
        nist_2=nist_2,
        nist_4=nist_4,
        rouge_l=rouge_l_of(photos),
        cider=float(cider_scores_of(photos).mean()),
        meteor=meteor.score(words, reference_words) if meteor else None,
    )


def scores_by_dataset(
    captions: Sequence[str], references: Sequence[Sequence[str]], dataset_of: Sequence[str]
) -> dict[str, float]:
    """Scores the photos of each dataset by themselves.

    Args:
        captions, references: see `score`.
        dataset_of: name of each photo's dataset.

    Returns:
        Scores by keys such as `cider@NAME`, and `photos@NAME` and `references@NAME`; empty where there is one dataset.
        METEOR is left out.
    """
    names = list(dict.fromkeys(dataset_of))
    found: dict[str, float] = {}
    if len(names) < 2:
        return found
    for name in names:
        chosen = [i for i, dataset in enumerate(dataset_of) if dataset == name]
        scores = score([captions[i] for i in chosen], [references[i] for i in chosen]).as_dict()
        counts = {"photos": len(chosen), "references": sum(len(references[i]) for i in chosen)}
        found |= {f"{key}@{name}": value for key, value in (counts | scores).items()}
    return found


def keys_by_dataset(metrics: Mapping[str, object]) -> list[str]:
    """Returns the keys of each dataset's CIDEr and BLEU-4 in the result of `scores_by_dataset`."""
    return [key for key in metrics if key.startswith(("cider@", "bleu_4@"))]


def shown(name: str, value: float) -> str:
    """A number by its key in `TITLES` or `TEACHER_FORCED_TITLES`, for people: times 100, but for loss and NIST."""
    return f"{value:.{_AS_THEY_ARE[name]}f}" if name in _AS_THEY_ARE else f"{100 * value:.1f}"


def named(metrics: Mapping[str, object], titles: Mapping[str, str]) -> dict[str, float]:
    """Those of `metrics` that have a title, in the order of `titles`; older files know fewer."""
    return {name: value for name in titles if isinstance(value := metrics.get(name), (int, float))}
