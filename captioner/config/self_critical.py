"""The `self_critical` section: sampling and reward of self-critical training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from caprun.errors import UsageError
from captioner.config.ranges import Range, Weight, check_ranges

BAD_ENDINGS = (
    *("a", "an", "the"),
    *("and", "or", "but", "nor", "while", "as", "because", "that", "than", "if", "when", "where"),
    *("of", "in", "on", "at", "with", "to", "from", "by", "for", "into", "onto", "through", "over", "under", "near"),
    *("between", "against", "across", "along", "beside", "beneath", "toward", "towards", "during", "among", "amongst"),
    *("about", "upon", "underneath", "atop", "like", "without", "within", "next"),
)
"""English articles, conjunctions and prepositions, except those that can end a sentence, such as `outside`."""


@dataclass(frozen=True)
class SelfCriticalConfig:
    """Sampling and reward of self-critical training."""

    samples: Annotated[int, Range(1, 1000)] = 5
    """Captions sampled per photo and step."""
    temperature: Annotated[float, Range(0.01, 100)] = 1.0
    """Sampling temperature; the gradient is that of the distribution at this temperature."""
    baseline: Literal["mean", "greedy"] = "mean"
    """Baseline of a caption's reward: the mean reward of the photo's other samples (Luo, 2020), or the reward of the
    greedy caption (Rennie et al., 2017)."""
    cider: Weight = 1.0
    """Weight of CIDEr-D (0 to 10) in the reward."""
    bleu_4: Weight = 1.0
    """Weight of the caption's BLEU-4 (0 to 1) in the reward."""
    length: Weight = 2.0
    """Weight of the length penalty: the squared relative difference from the mean length of the photo's references.
    CIDEr-D alone penalises short captions too little."""
    dropout: Literal["off", "learning", "on"] = "learning"
    """When dropout is active: never, in the gradient step only, or while sampling too. With dropout, the gradient is
    not exactly that of the reward, but the model generalises better to new photos."""
    bad_endings: tuple[str, ...] = BAD_ENDINGS
    """Words that a caption should not end with; training reports the share of captions that do."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.cider and not self.bleu_4:
            raise UsageError("self_critical.cider and self_critical.bleu_4 are both 0; give at least one a weight.")
        if self.samples == 1 and self.baseline == "mean":
            raise UsageError(
                "self_critical.samples is 1, so there is no other sample for the mean baseline; raise it, or set "
                "self_critical.baseline=greedy."
            )
