"""Synthetic captions whose probability of being good is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from capexport.confidence.captioned import Captioned
from capexport.confidence.predictors import Key, Labelled
from caprun.search.hypothesis import Hypothesis
from captioner.datasets import Example

KEY = Key("fp32", 3)


def synthetic(rng: np.random.Generator, count: int, sign: float = 1.0) -> Labelled:
    """Draws captions that are good with a probability given by their log-probability and the first of twelve features.

    `sign` -1 exchanges the probabilities of good and bad.
    """
    photos = rng.normal(0, 1, (count, 12)).astype(np.float32)
    mean = rng.uniform(-3, 0, count)
    chance = 1 / (1 + np.exp(-sign * (2 * mean + 3 + photos[:, 0])))
    hypotheses = [Hypothesis((1, 2, 3), np.full(4, value), True, None) for value in mean]
    return Labelled(Captioned(photos, hypotheses, ["a b c"] * count), rng.random(count) < chance)


def examples(references: Sequence[Sequence[str]], datasets: Sequence[str] | None = None) -> list[Example]:
    """Returns examples with these references and datasets, without photos."""
    names = datasets or [""] * len(references)
    return [Example(Path(), tuple(one), "train", name) for one, name in zip(references, names, strict=True)]
