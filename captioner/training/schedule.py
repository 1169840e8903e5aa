"""The learning rate as a function of the step number, so that a resumed training needs no other state."""

from __future__ import annotations

import math
from typing import NamedTuple

from captioner.config import TrainConfig

_START, _END = 1 / 25, 1e-4 / 25  # rates of one-cycle as shares of the highest; PyTorch's defaults
_MOMENTUM = (0.95, 0.85)


class Rate(NamedTuple):
    """The rate of one step."""

    factor: float
    """Share of the highest learning rate."""
    momentum: float | None
    """Adam's first beta; None for the default."""


def rate_at(step: int, train: TrainConfig, total: int, scale: float = 1.0) -> Rate:
    """Returns the rate of a step.

    Args:
        step: step number, from 0.
        train: the schedule and its warm-up.
        total: number of steps in the complete training.
        scale: the factor that `plateau` has reached.

    `one-cycle` (Smith and Topin, 2017) equals PyTorch's OneCycleLR: cosines up and down, with Adam's first beta in the
    opposite direction. The other schedules rise linearly; then `cosine` falls to `last_rate` along half a wave
    (Loshchilov and Hutter, 2017), `linear` falls linearly, `constant` stays, and `plateau` stays at `scale`.
    """
    if train.schedule == "one-cycle":
        top = max(train.warm_up * total, 2.0) - 1
        if step <= top:
            share = step / top
            return Rate(_cosine(_START, 1.0, share), _cosine(_MOMENTUM[0], _MOMENTUM[1], share))
        share = min(1.0, (step - top) / max(total - 1 - top, 1))
        return Rate(_cosine(1.0, _END, share), _cosine(_MOMENTUM[1], _MOMENTUM[0], share))
    warm_up = round(train.warm_up * total)
    if step < warm_up:
        return Rate(scale * (step + 1) / warm_up, None)
    share = (step - warm_up) / max(total - warm_up, 1)
    if train.schedule == "cosine":
        return Rate(_cosine(1.0, train.last_rate, share), None)
    if train.schedule == "linear":
        return Rate(1 + (train.last_rate - 1) * share, None)
    return Rate(scale, None)


def _cosine(begin: float, end: float, share: float) -> float:
    return end + (begin - end) * (1 + math.cos(math.pi * share)) / 2
