"""Converts tokens and channels-last maps, as transformers return them, to grids of regions."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

Parts = list[tuple[str, nn.Module]]
Arguments = dict[str, Any]


class TokenGrid(nn.Module):
    """Arranges a network's output as a grid, float32 (batch, channels, rows, columns).

    Attributes:
        network: a timm network without its head.
        grid: arranges its output.
        arguments: for each block, the arguments besides the tokens, which are the same for every photo, such as rotary
            position embeddings; empty if the network has no blocks of tokens.
    """

    def __init__(self, network: nn.Module, grid: Grid, arguments: list[Arguments]) -> None:
        super().__init__()
        self.network, self.grid, self.arguments = network, grid, arguments

    def forward(self, images: Tensor) -> Tensor:
        """Maps normalised photos, float32 (batch, 3, height, width), to the grid."""
        arranged: Tensor = self.grid(self.network(images))
        return arranged

    def blocks(self) -> Parts:
        """Returns the transformer's blocks; the first includes everything before it, and the last everything after it.

        Between blocks, tokens are a map of one column: float32 (batch, channels, tokens, 1).
        """
        blocks = list(self.network.get_submodule("blocks").children())
        parts: list[nn.Module] = [_Block(*pair) for pair in zip(blocks, self.arguments, strict=True)]
        parts[0] = nn.Sequential(_Embedding(self.network), parts[0])
        after = (getattr(self.network, name, nn.Identity()) for name in ("norm", "fc_norm"))
        parts[-1] = nn.Sequential(parts[-1], _Tokens(), *after, self.grid)
        return [(f"blocks.{number}", part) for number, part in enumerate(parts)]


def as_grid(network: nn.Module, size: tuple[int, int]) -> nn.Module:
    """Wraps a timm network that returns tokens or a channels-last map; returns any other network unchanged.

    Class and register tokens are left out.

    Args:
        network: float32 (batch, 3, height, width) -> (batch, channels, rows, columns), (batch, rows, columns, channels)
            or (batch, class and register tokens + rows x columns, channels).
        size: (height, width) of the photos.
    """
    arguments: list[Arguments] = []

    def note(_: nn.Module, __: tuple[Any, ...], named: Arguments) -> None:
        arguments.append(named)

    blocks = getattr(network, "blocks", nn.Sequential()).children()
    handles = [block.register_forward_pre_hook(note, with_kwargs=True) for block in blocks]
    with torch.no_grad():  # inference-mode tensors could not be used in training
        shape = network(torch.zeros(1, 3, *size)).shape
        if len(shape) == 2 and hasattr(network, "forward_features"):  # distilled DeiTs always pool
            network.forward = network.forward_features  # type: ignore[assignment]
            arguments.clear()
            shape = network(torch.zeros(1, 3, *size)).shape
    for handle in handles:
        handle.remove()
    if len(shape) == 4 and getattr(network, "output_fmt", None) == "NHWC":
        return TokenGrid(network, Grid(), [])
    if len(shape) != 3:
        return network
    special = getattr(network, "num_prefix_tokens", 0)
    cells = shape[1] - special
    rows = round(math.sqrt(cells * size[0] / size[1]))
    # some networks return a single token, the class token
    return TokenGrid(network, Grid(rows, special), arguments) if rows > 1 and cells % rows == 0 else network


class Grid(nn.Module):
    """Arranges tokens, or a map with channels last, as (batch, channels, rows, columns)."""

    def __init__(self, rows: int = 0, special: int = 0) -> None:
        super().__init__()
        self.rows, self.special = rows, special

    def forward(self, seen: Tensor) -> Tensor:
        """Takes (batch, special + rows x columns, channels) or (batch, rows, columns, channels)."""
        if seen.ndim == 4:
            return seen.permute(0, 3, 1, 2)
        tokens = seen[:, self.special :].transpose(1, 2)
        return tokens.reshape(*tokens.shape[:2], self.rows, -1)


class _Embedding(nn.Module):
    """Maps photos to the tokens that enter a transformer's first block; it shares the network's parameters."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.copy(network)
        self.network._modules = network._modules | {"blocks": nn.Sequential(), "norm": nn.Identity()}

    def forward(self, images: Tensor) -> Tensor:
        return _column(self.network.forward_features(images))  # type: ignore[operator]


class _Block(nn.Module):
    """A block together with its arguments that are the same for every photo."""

    def __init__(self, block: nn.Module, arguments: Arguments) -> None:
        super().__init__()
        self.block, self.arguments = block, arguments

    def forward(self, column: Tensor) -> Tensor:
        given = {
            name: value.to(column.device) if isinstance(value, Tensor) else value
            for name, value in self.arguments.items()
        }
        return _column(self.block(_tokens(column), **given))


class _Tokens(nn.Module):
    def forward(self, column: Tensor) -> Tensor:
        return _tokens(column)


def _column(tokens: Tensor) -> Tensor:
    """Views (batch, tokens, channels) as (batch, channels, tokens, 1)."""
    return tokens.transpose(1, 2).unsqueeze(3)


def _tokens(column: Tensor) -> Tensor:
    """Views (batch, channels, tokens, 1) as (batch, tokens, channels)."""
    return column.squeeze(3).transpose(1, 2)
