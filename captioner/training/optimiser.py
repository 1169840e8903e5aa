"""The optimiser: scales, clips and applies gradients, and keeps a moving average of the weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from captioner.config import TrainConfig
from captioner.errors import CaptionerError
from captioner.models.caption_model import CaptionModel
from captioner.training.schedule import Rate

_BETAS = (0.9, 0.999)
_KEPT = 1 / 3  # the initial model's largest share in the average at the end of self-critical training


class Optimiser:
    """Runs Adam or AdamW over the trained parameters of a model; the encoder has its own rate.

    Args:
        model: the model, on the device of the training.
        train: rates, clipping, precision and averaging.
        total_steps: number of steps of the whole training.

    Attributes:
        total_steps: as given.
        averaged: the model with the moving average of its trained weights, in eval mode.
        precision: fp32, bf16 or fp16; fp32 if bf16 is configured but the CPU would only emulate it.

    Raises:
        CaptionerError: the precision is fp16 on a CPU.
    """

    def __init__(self, model: CaptionModel, train: TrainConfig, total_steps: int) -> None:
        self._train, self.total_steps = train, total_steps
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._learning = list(self.parameters.values())
        encoder = {id(p) for p in model.encoder.parameters()}
        groups = [
            {"params": [p for p in self._learning if id(p) not in encoder], "lr": train.lr},
            {"params": [p for p in self._learning if id(p) in encoder], "lr": train.encoder_lr},
        ]
        kind = torch.optim.AdamW if train.optimizer == "adamw" else torch.optim.Adam
        self._adam = kind([g for g in groups if g["params"]], weight_decay=train.weight_decay, betas=_BETAS, fused=True)
        self._highest = [group["lr"] for group in self._adam.param_groups]
        self._device = model.unsaid.device
        if train.precision == "fp16" and self._device.type != "cuda":
            raise CaptionerError("train.precision=fp16 needs a GPU; on a CPU choose bf16 or fp32.")
        emulated = train.precision == "bf16" and self._device.type == "cpu" and not _cpu_has_bf16()
        self.precision = "fp32" if emulated else train.precision
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=train.precision == "fp16")
        # weights that are not trained are shared, and so are buffers, which training does not change
        shared = {id(t): t for t in (*model.buffers(), *model.parameters()) if not t.requires_grad}
        self.averaged: CaptionModel = copy.deepcopy(model, shared).eval()
        averages = dict(self.averaged.named_parameters())
        self._averages = {name: averages[name] for name in self.parameters}
        self.steps = 0

    def autocast(self) -> torch.autocast:
        """Returns the context of a forward pass."""
        half = torch.float16 if self.precision == "fp16" else torch.bfloat16
        return torch.autocast(self._device.type, half, enabled=self.precision != "fp32")

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a loss to the pending gradients."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self, rate: Rate) -> bool:
        """Applies and clears the pending gradients.

        Returns:
            False if the gradients are NaN or infinite; nothing changes then. With fp16 such a step is skipped and the
            result is True.
        """
        for group, highest in zip(self._adam.param_groups, self._highest, strict=True):
            group["lr"] = highest * rate.factor
            if rate.momentum is not None:
                group["betas"] = (rate.momentum, _BETAS[1])
        self._scaler.unscale_(self._adam)
        if self._train.clip_value:
            nn.utils.clip_grad_value_(self._learning, self._train.clip_value)
        norm = nn.utils.clip_grad_norm_(self._learning, self._train.clip_norm or math.inf)
        if not self._scaler.is_enabled() and not torch.isfinite(norm):
            return False
        self._scaler.step(self._adam)
        self._scaler.update()
        self._adam.zero_grad()
        self.steps += 1
        with torch.no_grad():
            averages = list[Tensor](self._averages.values())
            torch._foreach_lerp_(averages, list[Tensor](self._learning), 1 - self._decay())
        return True

    def _decay(self) -> float:
        """Returns the decay of the moving average in the current step.

        Self-critical training starts from a trained model, and an average that includes it overfits less (Wortsman et
        al., "Robust fine-tuning of zero-shot models", 2022). In other stages, it soon forgets the initial weights.
        """
        if self._train.stage == "self-critical":
            return min(self._train.average, math.pow(_KEPT, 1 / self.total_steps))
        return min(self._train.average, (1 + self.steps) / (10 + self.steps))

    def state(self) -> dict[str, Any]:
        """Returns the state for a checkpoint."""
        return {
            "parameters": {name: p.detach() for name, p in self.parameters.items()},
            "averaged": {name: p.detach() for name, p in self._averages.items()},
            "adam": self._adam.state_dict(),
            "scaler": self._scaler.state_dict(),
            "steps": self.steps,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores a state, including the weights of the model."""
        self._adam.load_state_dict(state["adam"])
        self._scaler.load_state_dict(state["scaler"])
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state["parameters"][name])
                self._averages[name].copy_(state["averaged"][name])
        self.steps = state["steps"]


def _cpu_has_bf16() -> bool:
    """Returns whether the CPU multiplies in bf16; other CPUs emulate it and are about 50 times slower."""
    if not hasattr(torch.cpu, "get_capabilities"):  # an older torch
        return True
    found = torch.cpu.get_capabilities()
    return any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
