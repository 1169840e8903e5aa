"""The losses of training: cross-entropy, and the penalties and rewards of attention."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from captioner.config import TrainConfig
from captioner.models.decoder import Teacher


class Losses(NamedTuple):
    """Scalars; all except the first are sums over the batch without a gradient."""

    total: Tensor
    """The loss to minimise; the totals of a step's parts add up to the step's total."""
    nats: Tensor
    """Unsmoothed cross-entropy of the words in nats: the negated log-likelihood of the captions."""
    correct: Tensor
    """int64: number of words that the model found most likely."""


def caption_loss(
    teacher: Teacher,
    train: TrainConfig,
    words: float,
    captions: float,
    baseline: float = 0.0,
    weights: Tensor | None = None,
) -> Losses:
    """Computes the loss of a batch, or of a part of it.

    Args:
        teacher: the model's predictions, without padding.
        train: label_smoothing (Szegedy et al., 2016, section 7); attention_penalty (lambda of equation 14 in Xu et al.,
            2015: the attention to each region should sum to one over a caption); attention_reward and
            attention_entropy (lambda_r and lambda_e in its section 4.1).
        words, captions: weighted counts of the complete step, over all processes and parts, without padding; sums are
            divided by them.
        baseline: moving average of the log-likelihood of a caption, used by hard attention.
        weights: float (photos,), the weight of each caption of a photo; None gives all captions the same weight.

    The paper's gradient for hard attention sums the log-likelihood over words. Here it is divided by the number of
    words, like the cross-entropy, so that attention_reward = 1 is the unbiased gradient of the expected loss.
    """
    # a sum over the vocabulary needs full precision
    log_prob = functional.log_softmax(teacher.logits.float(), dim=1)
    right = log_prob.gather(1, teacher.targets[:, None]).squeeze(1)
    nats = -right.sum()
    uniform = log_prob.mean(1)
    smoothed = (1 - train.label_smoothing) * -right - train.label_smoothing * uniform
    if weights is None:
        of_photo, of_word = right.new_ones(teacher.lengths.shape[0]), right.new_ones(right.shape)
    else:
        of_photo, of_word = weights, weights[teacher.caption // teacher.lengths.shape[1]]
    total = (smoothed * of_word).sum() / words
    if teacher.attended is not None:
        spread = attention_spread(teacher.attended, teacher.lengths, of_photo)
        total = total + train.attention_penalty * spread / captions
    if teacher.glance_log_prob is not None and teacher.entropy is not None:
        likelihood = torch.zeros(teacher.lengths.numel(), device=right.device).index_add(
            0, teacher.caption, right.detach()
        )
        reward = likelihood.view(teacher.lengths.shape) - baseline
        hard = train.attention_reward * reward * teacher.glance_log_prob + train.attention_entropy * teacher.entropy
        total = total - (hard * of_photo[:, None]).sum() / words
    correct = (log_prob.argmax(1) == teacher.targets).sum()
    return Losses(total, nats.detach(), correct)


def attention_spread(attended: Tensor, lengths: Tensor, weights: Tensor) -> Tensor:
    """Computes (1 - total attention of a region)^2 of a caption, averaged over regions and summed over captions.

    This is the penalty of equation 14 in Xu et al., 2015.

    Args:
        attended: (photos, captions, regions), `Teacher.attended`.
        lengths: int64 (photos, captions); captions without words are padding and are left out.
        weights: (photos,), the weight of a photo's captions.
    """
    spread = ((1 - attended) ** 2).mean(2)  # (photos, captions)
    return (spread * weights[:, None])[lengths > 0].sum()
