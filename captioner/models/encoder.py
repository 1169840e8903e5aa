"""What an encoder is: a CNN without its head, which takes uint8 photos and gives one feature vector a region.

Normalisation and pooling are part of it, so that they travel with the weights into every exported graph.
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

_HALF = 2  # bytes
_STAGED = ("blocks", "stages", "layers", "features", "trunk_output")


class Encoder(nn.Module):
    """uint8 photos to region features.

    Args:
        name: an encoder's name, see `build_encoder`.
        features: the CNN, float32 (batch, 3, height, width) -> (batch, channels, rows, columns).
        size: (height, width) in pixels of the photos it will be given; fixed, so that padding is constant.
        mean, std: per-channel statistics of pixels in 0..1 which the CNN was trained with.
        regions: rows and columns that its grid is pooled to; 0 leaves the grid as it is.
        fine_tune: the first of its `children_of` that is trained, and all after it; -1 for none.

    Attributes:
        grid: (rows, columns) of the regions.
        channels: length of a region's feature vector.
        key: its name and how it pools; with weights and preprocessing, all that decides its features.
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
        self.features = features
        self.requires_grad_(False)
        self.train(False)
        try:
            _make_padding_constant(self.features, size)
            with torch.inference_mode():
                shape = self.features(torch.zeros(1, 3, *size)).shape
        except (RuntimeError, AssertionError, ValueError) as error:
            raise CaptionerError(
                f"Encoder {name!r} does not take photos of {size[0]} x {size[1]} pixels ({first_line(error)}); "
                "set another data.image_size."
            ) from error
        # a transformer's (batch, rows, columns, channels) would pass for a grid as wide as it has channels
        if len(shape) != 4 or shape[3] > size[1]:
            raise CaptionerError(f"Encoder {name!r} gives no grid of regions; choose a CNN, resnet50 for one.")
        self.channels = int(shape[1])
        self.grid = (int(shape[2]), int(shape[3]))
        self.key = name
        pool = None
        if regions and self.grid != (regions, regions):
            pool = _pooling(self.grid, (regions, regions))
            self.grid, self.key = (regions, regions), f"{name}-{regions}x{regions}"
        self.register_buffer("pool", pool, persistent=False)
        # a tuple, for they are submodules already
        self._before: tuple[nn.Module, ...] = ()
        self._after: tuple[nn.Module, ...] = ()
        if fine_tune >= 0:
            self._tune(fine_tune)

    def _tune(self, first: int) -> None:
        children = children_of(self.features)
        parts = _in_sequence(self.features, self.size)
        self._before, self._after = parts[:first], parts[first:]
        for _, child in children[first:]:
            child.requires_grad_(True)
        _keep_depthwise_in_full_precision(child for _, child in children[first:])
        if not self.tuned:
            last = f"0 ({children[0][0]}) to {len(children) - 1} ({children[-1][0]})" if children else "none"
            raise CaptionerError(
                f"model.fine_tune is {first}, and the children of {self.name} that can be trained are {last}; "
                "choose one of these, or -1 to train none."
            )

    @property
    def regions(self) -> int:
        """How many regions a photo has."""
        return self.grid[0] * self.grid[1]

    @property
    def tuned(self) -> bool:
        """Whether any of it is trained: its features change at every step then."""
        return any(parameter.requires_grad for parameter in self.parameters())

    def train(self, mode: bool = True) -> Encoder:
        """Stay in eval mode whatever the model around does: batch statistics must not drift, fine-tuned or not.

        The few photos of a step would estimate them worse than ImageNet did; their affine weights are trained.
        """
        del mode
        super().train(False)
        return self

    def stem(self) -> Stem | None:
        """What of it is never trained; none if that is nothing, or gives more than the photo has.

        Its output can be kept and what is after it learn from that, `after_stem`: the first half of a CNN's parts is
        most of its work, for it sees the most pixels.
        """
        if not self.tuned:
            return Stem(self, (self.regions, self.channels), (self.key,))
        if not self._before:
            return None
        module = _Beginning(self, self._before)
        with torch.inference_mode():
            shape = tuple(module(torch.zeros(1, *self.size, 3, dtype=torch.uint8)).shape[1:])
        stem = Stem(module, shape, (self.key, len(self._before)))
        return stem if stem.bytes <= 3 * math.prod(self.size) else None

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (batch, height, width, 3) -> float32 (batch, regions, channels), regions row by row."""
        return self._regions(self.features(_normalised(images, self.scale, self.shift)))

    def after_stem(self, seen: Tensor) -> Tensor:
        """What the stem gives -> what `forward` gives, float32 (batch, regions, channels)."""
        if not self.tuned:
            return seen
        # a CPU computes gradients of convolutions 1.5 times as fast where the channels of a pixel lie together
        seen = seen.contiguous(memory_format=torch.channels_last)
        for part in self._after:
            seen = part(seen)
        return self._regions(seen)

    def _regions(self, grid: Tensor) -> Tensor:
        """(batch, channels, rows, columns) -> (batch, regions, channels)."""
        features = grid.flatten(2).transpose(1, 2)
        return features if self.pool is None else torch.matmul(self.pool, features)


class Stem(NamedTuple):
    """What of an encoder is never trained."""

    module: nn.Module  # uint8 (batch, height, width, 3) -> float32 (batch, *shape)
    shape: tuple[int, ...]  # (regions, channels) where it is the whole encoder, else (channels, rows, columns)
    key: tuple[str | int, ...]  # with weights and preprocessing, all that decides what it gives

    @property
    def bytes(self) -> int:
        """What it gives of a photo, in half precision."""
        return _HALF * math.prod(self.shape)


class _Beginning(nn.Module):
    """The first parts of an encoder's CNN."""

    scale: Tensor
    shift: Tensor

    def __init__(self, encoder: Encoder, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.register_buffer("scale", encoder.scale)
        self.register_buffer("shift", encoder.shift)
        self.parts = nn.Sequential(*parts)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (batch, height, width, 3) -> float32 (batch, channels, rows, columns)."""
        seen: Tensor = self.parts(_normalised(images, self.scale, self.shift))
        return seen


def _normalised(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """uint8 (batch, height, width, 3) -> what the CNN takes, float32 (batch, 3, height, width)."""
    return images.permute(0, 3, 1, 2).to(torch.float32) * scale + shift


def build_encoder(
    name: str, size: tuple[int, int], weights: str = "none", *, regions: int = 0, fine_tune: int = -1
) -> Encoder:
    """Build an encoder by name.

    Args:
        name: `efficientnet_lite2`, a torchvision classification model (`resnet50`), or a timm model
            (`timm/convnext_atto`; the prefix is needed only where torchvision has the name too).
        size: (height, width) of the photos, in pixels.
        weights: `default` for the ImageNet weights that belong to the name, `none` for random ones, else a file with
            a state dict of the whole classification network or of its features.
        regions: rows and columns that its grid is pooled to, each region the mean of the cells it touches, as
            `torch.nn.AdaptiveAvgPool2d` does; 0 leaves the grid as it is, 1 gives one vector a photo.
        fine_tune: the first child that is trained, see `children_of`; -1 for none.

    Raises:
        CaptionerError: an unknown name, weights that cannot be fetched, read or fitted, or no such child.
    """
    backbone = load_backbone(name, weights)
    return Encoder(name, backbone.features, size, backbone.mean, backbone.std, regions=regions, fine_tune=fine_tune)


def children_of(features: nn.Module) -> list[tuple[str, nn.Module]]:
    """A CNN's parts in the order they run in, by name; what `fine_tune` counts.

    They are the modules directly in it, where one that holds the stages (`blocks`, `stages`, `layers`, `features` or
    `trunk_output`) counts as what is in it, and what comes after the last parameter does not count. A ResNet's are
    conv1, bn1, relu, maxpool, layer1, layer2, layer3 and layer4: from 5 on its second stage and those above it.
    """
    children = _parts_of(features)
    while children and not any(True for _ in children[-1][1].parameters()):
        children.pop()
    return children


def _parts_of(features: nn.Module) -> list[tuple[str, nn.Module]]:
    children: list[tuple[str, nn.Module]] = []
    for name, child in features.named_children():
        inside = list(child.named_children()) if name in _STAGED else []
        children += [(f"{name}.{key}", part) for key, part in inside] or [(name, child)]
    return children


@torch.inference_mode()
def _in_sequence(features: nn.Module, size: tuple[int, int]) -> tuple[nn.Module, ...]:
    """A CNN's parts, if running one after the other is all that it does; else none."""
    parts = tuple(part for _, part in _parts_of(features))
    pixels = seen = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    try:
        for part in parts:
            seen = part(seen)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):  # a part was not made for the one before
        return ()
    return parts if torch.equal(seen, features(pixels)) else ()


def _pooling(grid: tuple[int, int], pooled: tuple[int, int]) -> Tensor:
    """Adaptive average pooling as a matrix, float32 (regions of `pooled`, regions of `grid`).

    A product with a constant is in every export format; adaptive pooling to a grid that does not divide its input's
    is not in ONNX.
    """
    rows, columns = (_shares(*sizes) for sizes in zip(grid, pooled, strict=True))
    return torch.kron(rows, columns)


def _shares(cells: int, pooled: int) -> Tensor:
    """Which share each cell has in each pooled one: float32 (pooled, cells), rows sum to one."""
    shares = torch.zeros(pooled, cells)
    for i in range(pooled):
        first, end = i * cells // pooled, -(-(i + 1) * cells // pooled)
        shares[i, first:end] = 1 / (end - first)
    return shares


def _make_padding_constant(network: nn.Module, size: tuple[int, int]) -> None:
    """Replace timm's TensorFlow-style "same" padding, computed from the input's shape, by constants for `size`.

    Computed padding exports as a dozen integer operations a layer, which quantisers take for the network's own.
    """
    from timm.layers.conv2d_same import Conv2dSame

    input_sizes: dict[str, tuple[int, int]] = {}
    handles = [
        module.register_forward_pre_hook(
            lambda _module, inputs, name=name: input_sizes.update({name: tuple(inputs[0].shape[-2:])})
        )
        for name, module in network.named_modules()
        if isinstance(module, Conv2dSame)
    ]
    if not handles:
        return
    with torch.inference_mode():
        network(torch.zeros(1, 3, *size))
    for handle in handles:
        handle.remove()
    for name, (height, width) in input_sizes.items():
        parent = network.get_submodule(name.rpartition(".")[0])
        same = getattr(parent, name.rpartition(".")[2])
        top, bottom = _same_padding(height, same.kernel_size[0], same.stride[0], same.dilation[0])
        left, right = _same_padding(width, same.kernel_size[1], same.stride[1], same.dilation[1])
        # one class swapped for another around the same parameters: names in the state dict stay what they were
        convolution = _PaddedConv2d((left, right, top, bottom), same)
        setattr(parent, name.rpartition(".")[2], convolution)


def _keep_depthwise_in_full_precision(parts: Iterable[nn.Module]) -> None:
    """Computes grouped convolutions outside a CPU's autocast.

    In bf16 a CPU takes 40 times as long for the gradient of a depthwise convolution with a stride as in fp32, and the
    others gain nothing; pointwise convolutions are 2.5 times as fast (AVX512-BF16, AMX).
    """

    def forward(convolution: nn.Conv2d, seen: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            output: Tensor = type(convolution).forward(convolution, seen.float() if seen.device.type == "cpu" else seen)
        return output

    for part in parts:
        for module in part.modules():
            if isinstance(module, nn.Conv2d) and module.groups > 1:
                module.forward = functools.partial(forward, module)  # type: ignore[method-assign]


def _same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


class _PaddedConv2d(nn.Conv2d):
    """A convolution after a constant, possibly uneven, padding with zeros."""

    def __init__(self, pad: tuple[int, int, int, int], like: nn.Conv2d) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(like.__dict__)
        self.pad = pad

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the base class's name
        output: Tensor = self._conv_forward(nn.functional.pad(input, self.pad), self.weight, self.bias)
        return output
