"""The processes that train one model together: those started by torchrun, or a single one."""

from __future__ import annotations

import datetime as dt
import gc
import inspect
import os
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from captioner.backends.pytorch import torch_device
from captioner.errors import CaptionerError

T = TypeVar("T")

_CPU = torch.device("cpu")
# the other processes wait while the first one computes features or scores
_PATIENCE = dt.timedelta(days=1)


@dataclass(frozen=True)
class Processes:
    """The group of processes that train one model."""

    rank: int = 0
    """Index of this process; the first (0) writes files and prints."""
    count: int = 1
    device: torch.device = _CPU
    """The device of this process."""

    @property
    def first(self) -> bool:
        """True in the process that writes files and prints."""
        return self.rank == 0

    def sums(self, values: Sequence[float]) -> list[float]:
        """Sums each value over all processes, in double precision."""
        if self.count == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(total)
        summed: list[float] = total.tolist()
        return summed

    def gather(self, value: T) -> list[T]:
        """Returns the values of all processes, in the order of their ranks."""
        if self.count == 1:
            return [value]
        values: list[T | None] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values  # type: ignore[return-value] # all are filled in now

    def from_first(self, value: T) -> T:
        """Waits for the first process and returns its value."""
        if self.count == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values)
        return values[0]

    def wrap(self, model: nn.Module) -> nn.Module:
        """Wraps a model so that gradients are averaged over the processes."""
        if self.count == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")  # correct but slower
        # buffers do not change in training; PyTorch 2.15 renames the option
        parameters = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"
        options: dict[str, Any] = {"device_ids": devices, name: False}
        return DistributedDataParallel(model, **options)

    def gathering(self, model: nn.Module, gather: bool) -> AbstractContextManager[None]:
        """Returns a context that adds gradients to earlier ones and, if `gather` is true, averages over processes."""
        if isinstance(model, DistributedDataParallel) and not gather:
            return model.no_sync()
        return nullcontext()


def join_processes(device: str) -> Processes:
    """Joins the processes that torchrun started; without torchrun, returns a single process.

    Args:
        device: `auto`, `cpu` or `cuda`.

    Raises:
        CaptionerError: CUDA was requested and is not available, or there are more processes than devices.
    """
    chosen = torch_device(device)
    if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ:
        return Processes(device=chosen)
    if chosen.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise CaptionerError(
                f"Process {local} has no GPU, because this machine has only {torch.cuda.device_count()}; start one "
                "process per GPU with torchrun --nproc-per-node."
            )
        chosen = torch.device("cuda", local)
        torch.cuda.set_device(chosen)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo", timeout=_PATIENCE)
    return Processes(distributed.get_rank(), distributed.get_world_size(), chosen)


def leave_processes() -> None:
    """Leaves the group of processes, which prevents a warning at exit."""
    if distributed.is_available() and distributed.is_initialized():
        # a wrapped model keeps the group alive, and its threads crash the process if they outlive Python
        gc.collect()
        distributed.destroy_process_group()
