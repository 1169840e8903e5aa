"""The processes that train one model together: started by torchrun, or just this one."""

from __future__ import annotations

import datetime as dt
import gc
import inspect
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from captioner.backends.pytorch import torch_device
from captioner.errors import CaptionerError

T = TypeVar("T")

_CPU = torch.device("cpu")
# the first process may compute features, or scores, for long while the others wait
_PATIENCE = dt.timedelta(days=1)


@dataclass(frozen=True)
class Processes:
    """Who else is training this model."""

    rank: int = 0
    """This process's number; the first (0) writes files and speaks."""
    count: int = 1
    device: torch.device = _CPU
    """Where this process computes."""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def sums(self, values: Sequence[float]) -> list[float]:
        """Each value's sum over all processes, in double precision."""
        if self.count == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(total)
        summed: list[float] = total.tolist()
        return summed

    def gather(self, value: T) -> list[T]:
        """Every process's value, in the order of their ranks."""
        if self.count == 1:
            return [value]
        values: list[T | None] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values  # type: ignore[return-value] # all are there now

    def from_first(self, value: T) -> T:
        """The first process's value; waits for it."""
        if self.count == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values)
        return values[0]

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with gradients averaged over the processes."""
        if self.count == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")  # it is right, and slower
        # nothing in a model's buffers changes in training; from PyTorch 2.15 on the option has another name
        parameters = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"
        options: dict[str, Any] = {"device_ids": devices, name: False}
        return DistributedDataParallel(model, **options)

    @contextmanager
    def gathering(self, model: nn.Module, gather: bool) -> Iterator[None]:
        """Gradients computed within are summed with those of earlier parts and, if `gather`, over the processes."""
        if gather or not isinstance(model, DistributedDataParallel):
            yield
        else:
            with model.no_sync():
                yield


def join_processes(device: str) -> Processes:
    """Join the processes that torchrun started, or be the only one.

    Args:
        device: auto, cpu or cuda.

    Raises:
        CaptionerError: CUDA is asked for and is not there, or there are more processes than devices.
    """
    chosen = torch_device(device)
    if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ:
        return Processes(device=chosen)
    if chosen.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise CaptionerError(
                f"Process {local} of this machine has no GPU: there are {torch.cuda.device_count()}; "
                "start as many processes (torchrun --nproc-per-node)."
            )
        chosen = torch.device("cuda", local)
        torch.cuda.set_device(chosen)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo", timeout=_PATIENCE)
    return Processes(distributed.get_rank(), distributed.get_world_size(), chosen)


def leave_processes() -> None:
    """Take leave of the others; without it, the last words of a process may be a warning."""
    if distributed.is_available() and distributed.is_initialized():
        # a model that is wrapped keeps the group, whose threads end the process badly if they live as long as Python
        gc.collect()
        distributed.destroy_process_group()
