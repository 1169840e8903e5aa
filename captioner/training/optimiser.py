"""One step of learning: gradients scaled, clipped and applied, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from captioner.config import TrainConfig
from captioner.errors import CaptionerError
from captioner.models.caption_model import CaptionModel
from captioner.training.schedule import Rate

_BETAS = (0.9, 0.999)


class Optimiser:
    """Adam or AdamW over what is trained of a model, the encoder's share at its own rate.

    Args:
        model: on the device where it trains.
        train: rates, clipping, precision and averaging.
    """

    def __init__(self, model: CaptionModel, train: TrainConfig) -> None:
        self._train = train
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
            raise CaptionerError("train.precision=fp16 is for GPUs; on a CPU choose bf16 or fp32.")
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=train.precision == "fp16")
        self.averaged = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.steps = 0

    def autocast(self) -> torch.autocast:
        """The context that a forward pass runs in."""
        precision = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self._train.precision]
        return torch.autocast(self._device.type, precision, enabled=self._train.precision != "fp32")

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradient to those that wait."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self, rate: Rate) -> bool:
        """Apply the gradients that wait, and forget them.

        Returns:
            False, and leaves everything as it is, where they are no numbers (with fp16, where that happens now and
            then, such a step is left out).
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
        # a young average forgets faster, or it would remember the initialisation
        decay = min(self._train.average, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.averaged.values()), list[Tensor](self._learning), 1 - decay)
        return True

    @contextmanager
    def average_in_place(self) -> Iterator[None]:
        """The model with its averaged weights, for as long as the context lasts."""
        raw = {name: p.detach().clone() for name, p in self.parameters.items()}
        self._put(self.averaged)
        try:
            yield
        finally:
            self._put(raw)

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])

    def state(self) -> dict[str, Any]:
        """Everything a resumed training needs of this, for a checkpoint."""
        return {
            "parameters": {name: p.detach() for name, p in self.parameters.items()},
            "averaged": self.averaged,
            "adam": self._adam.state_dict(),
            "scaler": self._scaler.state_dict(),
            "steps": self.steps,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; the model's weights become the state's."""
        self._put(state["parameters"])
        self._adam.load_state_dict(state["adam"])
        self._scaler.load_state_dict(state["scaler"])
        with torch.no_grad():
            for name, average in self.averaged.items():
                average.copy_(state["averaged"][name])
        self.steps = state["steps"]
