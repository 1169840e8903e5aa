"""Compares two checkpoints."""

from __future__ import annotations

from typing import Any

import torch


def differing(a: Any, b: Any, at: str = "") -> list[str]:
    """Returns the paths where two trees of tensors and plain data differ in any bit, except times."""
    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [at]
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        return [where for key in a if key not in ("seconds",) for where in differing(a[key], b[key], f"{at}/{key}")]
    if isinstance(a, list | tuple):
        assert len(a) == len(b)
        return [where for i, (x, y) in enumerate(zip(a, b, strict=True)) for where in differing(x, y, f"{at}/{i}")]
    return [] if a == b else [at]
