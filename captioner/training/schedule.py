"""What the learning rate is at a step: a function of its number, so that a resumed training needs no memory of it."""

from __future__ import annotations

import math
from typing import NamedTuple

from captioner.config import TrainConfig

_START, _END = 1 / 25, 1e-4 / 25  # of one-cycle, as shares of the highest rate; PyTorch's defaults
_MOMENTUM = (0.95, 0.85)


class Rate(NamedTuple):
    """How fast to learn at one step."""

    factor: float
    """Of the highest learning rate."""
    momentum: float | None
    """Adam's first beta; None: its default."""


def rate_at(step: int, train: TrainConfig, total: int, scale: float = 1.0) -> Rate:
    """The rate of a step.

    Args:
        step: counted from 0.
        train: the schedule and its warm-up.
        total: steps of the whole training.
        scale: what `plateau` has come down to.

    `one-cycle` is Smith and Topin's (2017) as PyTorch's OneCycleLR has it: cosines up and down, Adam's first beta going
    the other way. The others rise in a line; then `cosine` falls to `last_rate` along half a wave (Loshchilov and
    Hutter, 2017), `linear` in a line, `constant` stays, and `plateau` is `scale`.
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
