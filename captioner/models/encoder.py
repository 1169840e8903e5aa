"""The encoder: an image network without its head that maps uint8 photos to one feature vector per region.

Normalisation and pooling are part of the encoder, so every exported graph includes them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from captioner.errors import CaptionerError
from captioner.models.backbones import first_line, load_backbone
from captioner.models.parts import children_of, in_sequence
from captioner.models.token_grid import TokenGrid, as_grid

_HALF = 2  # bytes
_LARGEST_STEM = 4
"""Limit on a transformer's cached tokens, in photo sizes. Unlike feature maps, tokens do not shrink between blocks."""


class Encoder(nn.Module):
    """Maps uint8 photos to region features.

    Args:
        name: name of the encoder, see `build_encoder`.
        features: the network, float32 (batch, 3, height, width) -> (batch, channels, rows, columns), or a timm
            network that `as_grid` can wrap.
        size: (height, width) of the photos in pixels; fixed, so that padding is constant.
        mean, std: per-channel statistics of pixels in 0..1 that the network was trained with.
        regions: rows and columns that the grid is pooled to; 0 keeps the network's grid.
        fine_tune: index in `children_of` of the first trained part; later parts are trained too; -1 for none.

    Attributes:
        grid: (rows, columns) of the regions.
        channels: length of a region's feature vector.
        key: the name and the pooling; with weights and preprocessing, it determines the features.

    Raises:
        CaptionerError: the network does not accept photos of this size, or has no grid of regions or no such part.
    """

    scale: Tensor
    shift: Tensor
    pool: Tensor | None

    def __init__(
        self,
        name: str,
        features: nn.Module,
        size: tuple[int, int],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        *,
        regions: int = 0,
        fine_tune: int = -1,
    ) -> None:
        super().__init__()
        self.name = name
        self.size = size
        self.mean, self.std = mean, std
        # (pixel / 255 - mean) / std as one multiplication and one addition
        self.register_buffer("scale", 1.0 / (255.0 * torch.tensor(std)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", -(torch.tensor(mean) / torch.tensor(std)).view(1, 3, 1, 1), persistent=False)
        features.requires_grad_(False).train(False)
        try:
            _make_padding_constant(features)
            self.features = as_grid(features, size)  # with a pass of this size
            with torch.inference_mode():
                shape = self.features(torch.zeros(1, 3, *size)).shape
        except (RuntimeError, AssertionError, ValueError) as error:
            raise CaptionerError(
                f"Encoder {name!r} does not accept photos of {size[0]} x {size[1]} pixels ({first_line(error)}); "
                "choose another data.image_size."
            ) from error
        # (batch, rows, columns, channels) would look like a grid with as many columns as channels
        if len(shape) != 4 or shape[3] > size[1]:
            raise CaptionerError(
                f"Encoder {name!r} has no grid of regions; choose another, such as resnet50 or "
                "timm/vit_small_patch16_224."
            )
        self.channels = int(shape[1])
        self.grid = (int(shape[2]), int(shape[3]))
        self.key = name
        pool = None
        if regions and self.grid != (regions, regions):
            pool = _pooling(self.grid, (regions, regions))
            self.grid, self.key = (regions, regions), f"{name}-{regions}x{regions}"
        self.register_buffer("pool", pool, persistent=False)
        # tuples, because the parts are already registered as submodules of `features`
        self._before: tuple[nn.Module, ...] = ()
        self._after: tuple[nn.Module, ...] = ()
        if fine_tune >= 0:
            self._tune(fine_tune)

    def _tune(self, first: int) -> None:
        children = children_of(self.features)
        parts = in_sequence(self.features, self.size)
        self._before, self._after = parts[:first], parts[first:]
        for _, child in children[first:]:
            child.requires_grad_(True)
        _keep_depthwise_in_full_precision(child for _, child in children[first:])
        if not self.tuned:
            last = f"0 ({children[0][0]}) to {len(children) - 1} ({children[-1][0]})" if children else "none"
            raise CaptionerError(
                f"model.fine_tune is {first}, but the trainable parts of {self.name} are {last}; choose one of "
                "these, or -1 to train none."
            )

    @property
    def regions(self) -> int:
        """Number of regions per photo."""
        return self.grid[0] * self.grid[1]

    @property
    def tuned(self) -> bool:
        """True if any parameter is trained, so that features change at every step."""
        return any(parameter.requires_grad for parameter in self.parameters())

    def train(self, mode: bool = True) -> Encoder:
        """Keeps the encoder in eval mode, because batch statistics of few photos are worse than ImageNet's."""
        del mode
        super().train(False)
        return self

    def stem(self) -> Stem | None:
        """Returns the part of the encoder that is never trained, whose output can be cached for `after_stem`.

        Returns:
            None if every part is trained, or if the stem's output is larger than the photo (for a transformer, than
            four photos).
        """
        if not self.tuned:
            return Stem(self, (self.regions, self.channels), (self.key,))
        if not self._before:
            return None
        module = _Beginning(self, self._before)
        with torch.inference_mode():
            photo = torch.zeros(1, *self.size, 3, dtype=torch.uint8, device=self.scale.device)
            shape = tuple(module(photo).shape[1:])
        stem = Stem(module, shape, (self.key, len(self._before)))
        photos = _LARGEST_STEM if isinstance(self.features, TokenGrid) else 1
        return stem if stem.bytes <= photos * 3 * math.prod(self.size) else None

    def forward(self, images: Tensor) -> Tensor:
        """Maps photos, uint8 (batch, height, width, 3), to float32 (batch, regions, channels), regions row by row."""
        return self._regions(self.features(_normalised(images, self.scale, self.shift)))

    def after_stem(self, seen: Tensor) -> Tensor:
        """Maps the output of the stem to the output of `forward`, float32 (batch, regions, channels)."""
        if not self.tuned:
            return seen
        # a CPU computes gradients of convolutions 1.5 times as fast in channels-last layout
        seen = seen.contiguous(memory_format=torch.channels_last)
        for part in self._after:
            seen = part(seen)
        return self._regions(seen)

    def _regions(self, grid: Tensor) -> Tensor:
        """Flattens and pools (batch, channels, rows, columns) to (batch, regions, channels)."""
        features = grid.flatten(2).transpose(1, 2)
        return features if self.pool is None else torch.matmul(self.pool, features)


class Stem(NamedTuple):
    """The part of an encoder that is never trained."""

    module: nn.Module  # uint8 (batch, height, width, 3) -> float32 (batch, *shape)
    shape: tuple[int, ...]  # (regions, channels) for a frozen encoder, otherwise (channels, rows, columns)
    key: tuple[str | int, ...]  # with weights and preprocessing, it determines the output

    @property
    def bytes(self) -> int:
        """Size in bytes of the output for one photo in half precision."""
        return _HALF * math.prod(self.shape)


class _Beginning(nn.Module):
    """The first parts of an encoder's network, with its normalisation."""

    scale: Tensor
    shift: Tensor

    def __init__(self, encoder: Encoder, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.register_buffer("scale", encoder.scale)
        self.register_buffer("shift", encoder.shift)
        self.parts = nn.Sequential(*parts)

    def forward(self, images: Tensor) -> Tensor:
        seen: Tensor = self.parts(_normalised(images, self.scale, self.shift))
        return seen


def _normalised(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Normalises photos, uint8 (batch, height, width, 3), for the network: float32 (batch, 3, height, width)."""
    return images.permute(0, 3, 1, 2).to(torch.float32) * scale + shift


def build_encoder(
    name: str,
    size: tuple[int, int],
    weights: str = "none",
    *,
    regions: int = 0,
    fine_tune: int = -1,
    normalise: bool = True,
) -> Encoder:
    """Builds an encoder by name.

    Args:
        name: `efficientnet_lite2`, a torchvision classification model (`resnet50`), or a timm model
            (`timm/convnext_atto`, `timm/vit_small_patch14_dinov2.lvd142m`; the prefix is needed only if torchvision has
            the name too).
        size: (height, width) of the photos in pixels.
        weights: `default` for pretrained weights, `none` for random weights, or a file (safetensors or `torch.save`)
            with a state dict of the complete network or of its features. For a timm model, the file can have the names
            and image size of another project that timm converts, such as DINOv2 or OpenCLIP.
        regions: rows and columns that the grid is pooled to; each region is the mean of the cells it touches, as in
            `torch.nn.AdaptiveAvgPool2d`. 0 keeps the network's grid, 1 gives one vector per photo.
        fine_tune: index in `children_of` of the first part to train; -1 for none.
        normalise: whether to normalise pixels as in the encoder's pretraining; otherwise they are in 0..1.

    Raises:
        CaptionerError: the name is unknown, the weights cannot be fetched, read or fitted, the network does not accept
            photos of this size, or there is no such part.
    """
    backbone = load_backbone(name, weights, size)
    mean, std = (backbone.mean, backbone.std) if normalise else ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return Encoder(name, backbone.features, size, mean, std, regions=regions, fine_tune=fine_tune)


def _pooling(grid: tuple[int, int], pooled: tuple[int, int]) -> Tensor:
    """Returns adaptive average pooling as a matrix, float32 (regions of `pooled`, regions of `grid`).

    ONNX has no adaptive pooling to a grid that does not divide the input grid.
    """
    rows, columns = (
        nn.functional.adaptive_avg_pool1d(torch.eye(cells)[None], count)[0].T
        for cells, count in zip(grid, pooled, strict=True)
    )
    return torch.kron(rows, columns)


def _make_padding_constant(network: nn.Module) -> None:
    """Makes timm's TensorFlow-style "same" padding, which depends on the input's shape, keep that of the next pass.

    Computed padding exports as a dozen integer operations per layer, which quantisers mistake for the network's own.
    """
    from timm.layers.conv2d_same import Conv2dSame, Conv2dSameExport

    for module in network.modules():
        if isinstance(module, Conv2dSame):
            module.__class__ = Conv2dSameExport  # type: ignore[assignment] # keeps the parameters and their names
            module.pad = None  # type: ignore[assignment]


def _keep_depthwise_in_full_precision(parts: Iterable[nn.Module]) -> None:
    """Computes grouped convolutions outside CPU autocast.

    On a CPU in bf16, the gradient of a strided depthwise convolution takes 40 times as long as in fp32, and other
    depthwise convolutions gain nothing. Pointwise convolutions are 2.5 times as fast (AVX512-BF16, AMX).
    """

    def forward(convolution: nn.Conv2d, seen: Tensor) -> Tensor:
        output: Tensor
        if seen.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            output = type(convolution).forward(convolution, seen)
            return output
        with torch.autocast("cpu", enabled=False):
            output = type(convolution).forward(convolution, seen.float())
        return output

    for part in parts:
        for module in part.modules():
            if isinstance(module, nn.Conv2d) and module.groups > 1:
                module.forward = functools.partial(forward, module)  # type: ignore[method-assign]
