"""Lists the parts of an encoder's network in order, to fine-tune some and to split off the frozen stem."""

from __future__ import annotations

import torch
from torch import nn

from captioner.models.token_grid import Parts, TokenGrid

_STAGED = ("blocks", "stages", "layers", "features", "trunk_output")


def children_of(features: nn.Module) -> Parts:
    """Returns the parts of a network, by name and in order; `fine_tune` is an index into this list.

    The parts of a transformer are its blocks: the first includes the patch embedding, the last the final norm. The
    parts of other networks are the direct children. A child named `blocks`, `stages`, `layers`, `features` or
    `trunk_output` is replaced by its children, and trailing parts without parameters are left out. The parts of a
    ResNet are conv1, bn1, relu, maxpool, layer1, layer2, layer3 and layer4, so 5 is the second stage.
    """
    children = _parts_of(features)
    while children and not any(True for _ in children[-1][1].parameters()):
        children.pop()
    return children


@torch.inference_mode()
def in_sequence(features: nn.Module, size: tuple[int, int]) -> tuple[nn.Module, ...]:
    """Returns a network's parts if running them in sequence equals running the network; otherwise an empty tuple.

    Args:
        features: the network.
        size: (height, width) of its photos.
    """
    parts = tuple(part for _, part in _parts_of(features))
    pixels = seen = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    try:
        for part in parts:
            seen = part(seen)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):  # a part does not fit the previous one
        return ()
    return parts if torch.equal(seen, features(pixels)) else ()


def _parts_of(features: nn.Module) -> Parts:
    if isinstance(features, TokenGrid):
        if features.arguments:
            return features.blocks()
        return [*_parts_of(features.network), ("grid", features.grid)]
    children: Parts = []
    for name, child in features.named_children():
        inside = list(child.named_children()) if name in _STAGED else []
        children += [(f"{name}.{key}", part) for key, part in inside] or [(name, child)]
    return children
