"""Confidence: the probability that a caption is good, from the caption's log-probabilities and the photo's state."""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from caprun.arrays import Float64Array
from caprun.search.hypothesis import Hypothesis

_LIMIT = 30.0
"""Logits are clipped to this distance from 0, so that their exponentials stay finite."""


@dataclass(frozen=True)
class Linear:
    """A logit that is linear in features of a caption and of its photo."""

    bias: float
    caption: Mapping[str, float] = field(default_factory=dict)
    """Weights of `CAPTION_FEATURES`, by name."""
    photo: tuple[float, ...] = ()
    """Weights of the photo's vector; empty if the photo is not used."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.caption) - set(CAPTION_FEATURES))
        if unknown:
            raise ValueError(
                f"its confidence has a weight for {unknown[0]!r}, which this caprun does not know; upgrade caprun"
            )

    @functools.cached_property
    def _of_photo(self) -> npt.NDArray[np.float64]:
        return np.array(self.photo)

    def logit(self, photo: npt.NDArray[np.float32], hypothesis: Hypothesis) -> float:
        """Computes the logit for a caption of a photo; see `Confidence.probability`."""
        logit = self.bias
        for name, weight in self.caption.items():
            logit += weight * CAPTION_FEATURES[name](hypothesis)
        if self.photo:
            if photo.shape != (len(self.photo),):
                raise ValueError(f"the photo has {photo.size} features and the confidence {len(self.photo)} weights")
            logit += float(np.dot(self._of_photo, photo.astype(np.float64)))
        return -_LIMIT if math.isnan(logit) else min(max(logit, -_LIMIT), _LIMIT)


@dataclass(frozen=True)
class Confidence:
    """A probability that a caption is good, fitted at export.

    P(good | caption, photo) = P(good | caption, photo is like the training photos) P(photo is like them).
    """

    event: str
    """The event that it predicts, as a sentence."""
    good: Linear
    """The event's logit for a photo like the training photos."""
    familiar: Linear
    """Logit of the photo being like the training photos, rather than blank, noise, text or an icon."""
    measured: Mapping[str, Any] = field(default_factory=dict)
    """Its quality, measured on photos that were not in the fit."""

    def probability(self, photo: npt.NDArray[np.float32], hypothesis: Hypothesis) -> float:
        """Computes the probability that a caption is good.

        Args:
            photo: The decoder's first hidden state, then its first cell state, all layers; float32 (features,).
            hypothesis: The caption, from any search.

        Returns:
            A probability in 0..1 that depends only on the arguments; 0 for a caption that is empty or was cut.
        """
        if not is_whole(hypothesis):
            return 0.0
        return _sigmoid(self.good.logit(photo, hypothesis)) * _sigmoid(self.familiar.logit(photo, hypothesis))


def is_whole(hypothesis: Hypothesis) -> bool:
    """Returns whether a caption has words and is finished."""
    return bool(hypothesis.ids) and hypothesis.finished


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def _of_pieces(statistic: Callable[[Float64Array], np.floating[Any]]) -> Callable[[Hypothesis], float]:
    return lambda hypothesis: float(statistic(hypothesis.log_probs)) if hypothesis.log_probs.size else 0.0


CAPTION_FEATURES: Mapping[str, Callable[[Hypothesis], float]] = {
    "log_prob": lambda hypothesis: hypothesis.log_prob,
    "mean_log_prob": _of_pieces(np.mean),
    "lowest_log_prob": _of_pieces(np.min),
    "spread": _of_pieces(np.std),
    "pieces": lambda hypothesis: float(hypothesis.log_probs.size - hypothesis.finished),  # before rephrasing
    "finished": lambda hypothesis: float(hypothesis.finished),
}
"""Features of a caption. Bundles refer to them by name, so their meanings never change. Logarithms are natural."""
