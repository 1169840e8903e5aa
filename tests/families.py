"""Small variants of families of timm networks, under the names of pretrained networks."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import pytest
import timm

_CREATE = timm.create_model
_TRANSFORMER = {"embed_dim": 32, "depth": 3, "num_heads": 2}


class Family(NamedTuple):
    """A timm name, the side of its patches in pixels, and settings that make it small."""

    name: str
    patch: int = 16
    settings: dict[str, Any] = _TRANSFORMER


TOKENS = {
    "dinov2": Family("vit_small_patch14_reg4_dinov2.lvd142m", 14),  # a class token and four registers
    "dinov3": Family("vit_small_patch16_dinov3.lvd1689m"),  # rotary positions
    "clip": Family("vit_base_patch32_clip_224.openai", 32),
    "siglip": Family("vit_base_patch16_siglip_224.webli"),  # no class token, pooled by attention
    "deit": Family("deit_tiny_distilled_patch16_224.fb_in1k"),  # two tokens before the patches, and always pooled
    "beit": Family("beit_base_patch16_224.in22k_ft_in22k_in1k"),  # the mean is normalised
}
FAMILIES = TOKENS | {
    "swin": Family(
        "swin_tiny_patch4_window7_224.ms_in1k",
        settings={"embed_dim": 16, "depths": (1, 1, 2, 1), "num_heads": (1, 1, 2, 2)},
    ),
    "convnext": Family("convnext_atto.d2_in1k", settings={"dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1)}),
    "mobileclip": Family("fastvit_mci0.apple_mclip", settings={"layers": (1,) * 4, "embed_dims": (64,) * 4}),
}


def make_small(family: str, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> str:
    """Makes timm build the small variant, and returns the name for --encoder."""
    monkeypatch.setattr(timm, "create_model", partial(_CREATE, **FAMILIES[family].settings | settings))
    return f"timm/{FAMILIES[family].name}"
