"""How likely a caption is to be good: a probability from what the model thought of it and of the photo."""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from caprun.search.hypothesis import Hypothesis

_LIMIT = 30.0
"""No logit is further from 0: a probability says no more beyond, and its exponential stays finite."""


@dataclass(frozen=True)
class Linear:
    """The logit of a probability, linear in features of a caption and of its photo."""

    bias: float
    caption: Mapping[str, float] = field(default_factory=dict)
    """Weights of `CAPTION_FEATURES`, by their names."""
    photo: tuple[float, ...] = ()
    """Weights of the photo's vector, one a number of it; empty where it does not matter."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.caption) - set(CAPTION_FEATURES))
        if unknown:
            raise ValueError(
                f"confidence has a weight for {unknown[0]!r}, which this caprun does not know; upgrade captioner"
            )

    @functools.cached_property
    def _of_photo(self) -> npt.NDArray[np.float64]:
        return np.array(self.photo)

    def logit(self, photo: npt.NDArray[np.float32], hypothesis: Hypothesis) -> float:
        """For one caption of one photo; see `Confidence.probability`."""
        logit = self.bias
        for name, weight in self.caption.items():
            logit += weight * CAPTION_FEATURES[name](hypothesis)
        if self.photo:
            if photo.shape != (len(self.photo),):
                raise ValueError(f"the photo has {photo.size} numbers and {len(self.photo)} weights")
            logit += float(np.dot(self._of_photo, photo.astype(np.float64)))
        return min(max(logit, -_LIMIT), _LIMIT) if not math.isnan(logit) else -_LIMIT  # of nonsense, nothing is likely


@dataclass(frozen=True)
class Confidence:
    """A probability that a caption is good, fitted at export.

    P(good | caption, photo) = P(good | caption, photo is like the training photos) P(photo is like them).
    """

    event: str
    """What it is the probability of, as a sentence."""
    good: Linear
    """Of the event, for photos like those the model was trained on."""
    familiar: Linear
    """Of the photo being like those, and not blank, noise, a text, an icon."""
    measured: Mapping[str, Any] = field(default_factory=dict)
    """How well it was found to hold, on photos it was not fitted on."""

    def probability(self, photo: npt.NDArray[np.float32], hypothesis: Hypothesis) -> float:
        """How likely a caption is to be good.

        Args:
            photo: float32 (features,): the decoder's first hidden state, then its first cell state, all layers.
            hypothesis: the caption, of whatever search.

        Returns:
            0..1; it depends on nothing but the arguments. Of an empty caption, or one that was cut, 0.
        """
        if not is_whole(hypothesis):
            return 0.0
        return _sigmoid(self.good.logit(photo, hypothesis)) * _sigmoid(self.familiar.logit(photo, hypothesis))


def is_whole(hypothesis: Hypothesis) -> bool:
    """Whether it says something of the photo, and all that it began to; else none of it is likely to be good."""
    return bool(hypothesis.ids) and hypothesis.finished


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def _mean(hypothesis: Hypothesis) -> float:
    return float(hypothesis.log_probs.mean()) if hypothesis.log_probs.size else 0.0


def _lowest(hypothesis: Hypothesis) -> float:
    return float(hypothesis.log_probs.min()) if hypothesis.log_probs.size else 0.0


def _spread(hypothesis: Hypothesis) -> float:
    return float(hypothesis.log_probs.std()) if hypothesis.log_probs.size else 0.0


CAPTION_FEATURES: Mapping[str, Callable[[Hypothesis], float]] = {
    "log_prob": lambda hypothesis: hypothesis.log_prob,
    "mean_log_prob": _mean,
    "lowest_log_prob": _lowest,
    "spread": _spread,
    "pieces": lambda hypothesis: float(hypothesis.log_probs.size - hypothesis.finished),  # as searched
    "finished": lambda hypothesis: float(hypothesis.finished),
}
"""What is looked at in a caption; bundles name them, so none ever changes its meaning. Logarithms are natural."""
