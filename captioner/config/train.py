"""The `train` section: objective, optimiser, schedule and checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from caprun.errors import UsageError
from captioner.config.ranges import Count, Limit, Range, Rate, Seed, Share, Weight, check_ranges

Stage = Literal["cross-entropy", "self-critical"]
"""The training objective.

- `cross-entropy`: predict the next word of the reference captions.
- `self-critical`: maximise the reward of sampled captions, scored against the references (Rennie et al., 2017).
"""


@dataclass(frozen=True)
class TrainConfig:
    """Objective, optimiser, schedule and checkpoints."""

    stage: Stage = "cross-entropy"
    """Training objective: see `Stage`."""
    epochs: Count = 8
    """Passes over the training photos."""
    batch_size: Count = 16
    """Photos per step, over all processes; each photo comes with all its captions."""
    accumulate: Count = 1
    """Number of parts in which a step is computed, one after another; saves memory, with the same gradient."""
    optimizer: Literal["adamw", "adam"] = "adamw"
    """AdamW (Loshchilov and Hutter, 2019), or Adam with weight decay added to the gradient."""
    lr: Rate = 1e-3
    """Highest learning rate."""
    encoder_lr: Rate = 1e-4
    """Highest learning rate of a fine-tuned encoder."""
    schedule: Literal["one-cycle", "cosine", "linear", "plateau", "constant"] = "one-cycle"
    """Learning rate after the warm-up: one-cycle (Smith and Topin, 2017) falls to zero, cosine and linear fall to
    `last_rate`, plateau falls whenever `plateau_on` stops improving."""
    last_rate: Share = 0.0
    """Final learning rate of cosine and linear, as a share of the highest."""
    warm_up: Share = 0.1
    """Share of the steps in which the learning rate rises."""
    plateau_on: Literal["dev_loss", "cider", "bleu_4"] = "cider"
    """Score that `plateau` watches."""
    plateau_patience: Annotated[int, Range(0, 10**9)] = 1
    """Epochs without improvement before `plateau` lowers the learning rate."""
    plateau_factor: Share = 0.5
    """Factor by which `plateau` multiplies the learning rate."""
    weight_decay: Weight = 1e-2
    """Weight decay of the optimiser."""
    clip_norm: Limit = 5.0
    """Maximum norm of the gradient; 0: no limit."""
    clip_value: Limit = 0.0
    """Maximum absolute value in the gradient; 0: no limit."""
    label_smoothing: Share = 0.1
    """Share of the target probability spread over the whole vocabulary (Szegedy et al., 2016)."""
    attention_penalty: Weight = 1.0
    """Weight of the doubly stochastic regularisation (Xu et al., 2015, equation 14)."""
    attention_entropy: Weight = 0.01
    """Weight of the entropy of hard attention (lambda_e in section 4.1)."""
    attention_reward: Weight = 1.0
    """Weight of hard attention's REINFORCE term (lambda_r in section 4.1)."""
    scheduled_sampling: Share = 0.0
    """Share of input words that the model predicts itself in the last epoch; rises from 0 (Bengio et al., 2015)."""
    rehearse: bool = False
    """Preserves what a trained model (--init) says about the photos in datasets with a weight below 1: a share of them
    equal to the weight, drawn once, is shown in every epoch with the model's captions from before training."""
    average: Share = 0.999
    """Decay of the moving average of the weights, which is validated and saved; 0: no average. In the self-critical
    stage it starts from the initial model, whose share falls to a third or less by the end; in cross-entropy, the first
    steps replace the initial weights."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Mixed precision: fp16 on GPUs, bf16 on GPUs and processors with AVX512-BF16 or AMX; others use fp32 instead."""
    select_by: str = "cider"
    """Dev score that selects the best epoch: the highest `cider` or `bleu_4`, or the lowest `dev_loss`; `epoch` selects
    the last epoch, for when dev photos are too few to tell epochs apart. With several datasets, scores are over all dev
    photos, or over those of one dataset: `cider@NAME`."""
    balance: Share = 0.5
    """Weights of captions in cross-entropy: 0 gives every caption the same weight, 1 every photo. One caption is a
    noisier target than the mean of five, so the default lies between."""
    early_stop: Annotated[int, Range(0, 10**9)] = 0
    """Epochs without a better score before training stops; 0: never."""
    keep_epochs: bool = False
    """Keeps a checkpoint of every epoch."""
    save_minutes: Limit = 10.0
    """Minutes between checkpoints within an epoch."""
    seed: Seed = 0
    """Seed for initialisation, dropout, augmentation and the order of photos."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.stage == "self-critical" and (idle := [name for name in OF_CROSS_ENTROPY if getattr(self, name)]):
            names = ", ".join(f"train.{name}" for name in idle)
            raise UsageError(f"The self-critical stage does not use {names}; leave out such settings, or disable them.")
        score, at, dataset = self.select_by.partition("@")
        if score not in ("cider", "bleu_4", "dev_loss", "epoch") or bool(at) != bool(dataset):
            raise UsageError(
                f"train.select_by is {self.select_by!r}; it must be cider, bleu_4, dev_loss or epoch, or the score of "
                "one dataset, such as cider@NAME."
            )
        if score in ("dev_loss", "epoch") and dataset:
            raise UsageError(
                f"train.select_by={score} is over all datasets; leave out @{dataset}, or choose cider or bleu_4."
            )
        if self.accumulate > self.batch_size:
            raise UsageError(f"accumulate is {self.accumulate}; it must not exceed batch_size ({self.batch_size}).")


_WEIGHTS = (
    "label_smoothing",
    "attention_penalty",
    "attention_entropy",
    "attention_reward",
    "scheduled_sampling",
)
OF_CROSS_ENTROPY = (*_WEIGHTS, "rehearse")
"""Settings that the self-critical stage does not use."""

SELF_CRITICAL = TrainConfig(
    stage="self-critical",
    epochs=8,
    lr=2e-4,
    encoder_lr=1e-5,
    schedule="cosine",
    last_rate=0.1,
    warm_up=0.05,
    weight_decay=0.0,
    clip_norm=1.0,
    **dict.fromkeys(_WEIGHTS, 0.0),  # type: ignore[arg-type]
)
"""Defaults of the self-critical stage."""
