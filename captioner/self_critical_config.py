"""What self-critical training draws, and what it rewards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from caprun.errors import UsageError
from captioner.ranges import check_ranges

BAD_ENDINGS = (
    *("a", "an", "the"),
    *("and", "or", "but", "nor", "while", "as", "because", "that", "than", "if", "when", "where"),
    *("of", "in", "on", "at", "with", "to", "from", "by", "for", "into", "onto", "through", "over", "under", "near"),
    *("between", "against", "across", "along", "beside", "beneath", "toward", "towards", "during", "among", "amongst"),
    *("about", "upon", "underneath", "atop", "like", "without", "within", "next"),
)
"""English articles, conjunctions and prepositions; not those that end sentences as adverbs, such as `outside`."""


@dataclass(frozen=True)
class SelfCriticalConfig:
    """What captions are drawn in self-critical training, and what they are worth."""

    samples: int = 5
    """Captions drawn of each photo in a step."""
    temperature: float = 1.0
    """At which they are drawn; what is learnt is what the model says at this temperature."""
    baseline: Literal["mean", "greedy"] = "mean"
    """What a caption is compared with: the mean of the photo's other samples (Luo, 2020), or greedy search's caption
    (Rennie et al., 2017)."""
    cider: float = 1.0
    """Weight of CIDEr-D (0 to 10) in the reward."""
    bleu_4: float = 1.0
    """Weight of a caption's BLEU-4 (0 to 1) in the reward."""
    length: float = 2.0
    """Weight of the length in the reward: of the squared difference from the mean of the photo's references, as a share
    of that. CIDEr-D alone is lenient, and captions get shorter than people's."""
    dropout: Literal["off", "learning", "on"] = "learning"
    """Where dropout is on: nowhere, while captions are learnt from, or while they are drawn too. What is learnt with it
    is not quite the gradient of the reward, and holds on photos that were not learnt from."""
    bad_endings: tuple[str, ...] = BAD_ENDINGS
    """Words that a caption should not end with; how many do is reported."""

    def __post_init__(self) -> None:
        check_ranges(
            self, samples=(1, 1000), temperature=(0.01, 100), **dict.fromkeys(("cider", "bleu_4", "length"), (0, 1000))
        )
        if not self.cider and not self.bleu_4:
            raise UsageError(
                "self_critical.cider and self_critical.bleu_4 are 0, and then no caption is worth anything."
            )
        if self.samples == 1 and self.baseline == "mean":
            raise UsageError(
                "self_critical.samples is 1, and then there are no others whose mean is the baseline; raise it, or "
                "take baseline=greedy."
            )
