"""The encoder computes, pools and freezes as configured, with the named weights."""

from __future__ import annotations

import warnings

import numpy as np
import onnxruntime
import pytest
import timm
import torch
import torchvision
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from captioner.config import Config, DataConfig, ModelConfig
from captioner.errors import CaptionerError
from captioner.models.caption_model import CaptionModel, build_caption_model
from captioner.models.encoder import Encoder, build_encoder
from captioner.models.parts import children_of
from captioner.text.tokenizer import SPECIAL

HALF = (0.5, 0.5, 0.5)


def photos(count: int, height: int, width: int) -> Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(256, size=(count, height, width, 3), dtype=np.uint8))


class Permuted(nn.Module):
    """A network that returns its axes in another order, as transformers do."""

    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :, ::16, ::16].repeat(1, 32, 1, 1).permute(self.axes)


# --- Features


@pytest.mark.parametrize("size", [(224, 224), (197, 197), (130, 197)], ids=str)
def test_constant_padding_equals_timms_computed_padding_exactly(size):
    encoder = build_encoder("efficientnet_lite2", size, "default")
    reference = timm.create_model("tf_efficientnet_lite2", pretrained=False, num_classes=0, global_pool="").eval()
    reference.load_state_dict(encoder.features.state_dict())
    assert any(isinstance(module, Conv2dSame) for module in reference.modules())
    assert not any(isinstance(module, Conv2dSame) for module in encoder.modules())
    images = photos(1, *size)
    with torch.inference_mode():
        expected = reference(images.permute(0, 3, 1, 2) * encoder.scale + encoder.shift)
        difference = (encoder(images) - expected.flatten(2).transpose(1, 2)).abs().max()
    assert expected.abs().max() > 1
    assert difference == 0.0


@pytest.mark.parametrize(
    ("name", "channels"),
    [("efficientnet_lite2", 1280), ("resnet18", 512), ("mobilenet_v3_small", 576), ("timm/test_resnet", 96)],
)
def test_photos_become_one_feature_vector_per_region(name, channels):
    encoder = build_encoder(name, (64, 96))
    features = encoder(photos(2, 64, 96))
    assert encoder.grid == (2, 3)
    assert (encoder.regions, encoder.channels, encoder.name) == (6, channels, name)
    assert features.shape == (2, 6, channels)
    assert features.dtype == torch.float32
    assert features.isfinite().all()


def test_a_name_unknown_to_torchvision_falls_back_to_timm():
    assert build_encoder("test_resnet", (64, 64)).channels == 96


def test_pixels_are_normalised_by_mean_and_std():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    images = photos(2, 5, 7)
    features = Encoder("identity", nn.Identity(), (5, 7), mean, std)(images)
    expected = (images / 255 - torch.tensor(mean)) / torch.tensor(std)
    torch.testing.assert_close(features, expected.flatten(1, 2), rtol=0, atol=1e-6)  # regions in row-major order


@pytest.mark.parametrize("name", ["resnet18", "timm/test_resnet"])
def test_an_encoder_has_the_mean_and_std_of_its_pretrained_weights(name):
    encoder = build_encoder(name, (64, 64))
    timms = timm.create_model("test_resnet").pretrained_cfg
    expected = (timms["mean"], timms["std"]) if "timm" in name else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (encoder.mean, encoder.std) == expected
    assert build_encoder("efficientnet_lite2", (64, 64)).mean == HALF


@pytest.mark.parametrize("name", ["resnet19", "timm/none_such", "", "timm/", "../resnet18"])
def test_an_unknown_encoder_is_refused_by_name(name):
    with pytest.raises(CaptionerError, match=rf"^There is no encoder named {name!r}; use efficientnet_lite2, "):
        build_encoder(name, (64, 64))


@pytest.mark.parametrize("axes", [(0, 2, 3, 1), (0, 1, 2)], ids=["channels last", "a row of tokens"])
def test_a_network_without_a_grid_of_regions_is_refused(axes):
    features = Permuted(*axes) if len(axes) == 4 else nn.Flatten(2)
    with pytest.raises(CaptionerError, match=r"^Encoder 'some' has no grid of regions; choose another, such as"):
        Encoder("some", features, (64, 64), HALF, HALF)


def test_a_torchvision_transformer_is_refused_and_a_timm_one_suggested():
    with pytest.raises(CaptionerError, match=r"^Encoder 'vit_b_16' has no convolutional features; .* such as timm/vit"):
        build_encoder("vit_b_16", (224, 224))


def test_photos_too_small_for_the_network_are_refused():
    with pytest.raises(CaptionerError, match=r"does not accept photos of 48 x 48 pixels .* another data\.image_size"):
        Encoder("some", nn.Conv2d(3, 8, 64), (48, 48), HALF, HALF)


# --- Pooling


class Grid(nn.Module):
    """A network that returns the same random grid of features for every photo."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.randn(1, 5, rows, columns, generator=torch.Generator().manual_seed(0)))

    def forward(self, images: Tensor) -> Tensor:
        return self.values.expand(len(images), -1, -1, -1)


@pytest.mark.parametrize("grid", [(7, 7), (5, 9), (14, 14), (1, 1), (16, 12)], ids=str)
@pytest.mark.parametrize("regions", [1, 2, 5, 7, 14])
def test_pooling_equals_torchs_adaptive_average(grid, regions):
    encoder = Encoder("grid", Grid(*grid), (32, 32), HALF, HALF, regions=regions)
    expected = nn.functional.adaptive_avg_pool2d(encoder.features.values, regions)
    torch.testing.assert_close(encoder(photos(2, 32, 32))[:1], expected.flatten(2).transpose(1, 2))
    assert encoder.grid == (regions, regions)
    assert encoder.regions == regions**2


@pytest.mark.parametrize("form", ["onnx", "torchscript"])
@pytest.mark.parametrize("regions", [1, 5])
def test_exported_pooling_equals_pytorchs(tmp_path, form, regions):
    encoder = build_encoder("timm/test_efficientnet", (96, 96), regions=regions)
    images = photos(3, 96, 96)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # both exporters issue deprecation warnings
        if form == "torchscript":
            found = torch.jit.trace(encoder, (images[:2],), check_trace=False)(images)
        else:
            shapes = ({0: torch.export.Dim("photos")},)
            program = torch.onnx.export(encoder, (images[:2],), dynamo=True, verbose=False, dynamic_shapes=shapes)
            session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
            found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])
        torch.testing.assert_close(found, encoder(images), rtol=1e-4, atol=1e-6)


def test_encoders_that_pool_differently_differ_in_keys_but_not_in_weights():
    encoders = [build_encoder("timm/test_resnet", (64, 64), regions=regions) for regions in (0, 2, 1, 14)]
    assert [encoder.key for encoder in encoders] == [
        "timm/test_resnet",
        "timm/test_resnet",  # its own grid
        "timm/test_resnet-1x1",
        "timm/test_resnet-14x14",
    ]
    assert len({tuple(encoder.state_dict()) for encoder in encoders}) == 1


@pytest.mark.parametrize(("decoder", "regions"), [("rnetvi", 1), ("rnetvh", 1), ("rnetvhc", 1), ("soft-attention", 4)])
def test_decoders_without_attention_get_one_vector_per_photo(decoder, regions):
    model = ModelConfig(encoder="timm/test_resnet", decoder=decoder, projection=8, embedding=8)
    built = build_caption_model(Config(data=DataConfig(image_size=64), model=model), 9, SPECIAL)
    assert built.encoder.regions == regions


@pytest.mark.parametrize("decoder", ["rnetvi", "rnetvh", "rnetvhc"])
def test_regions_are_refused_for_a_decoder_without_attention(decoder):
    model = ModelConfig(encoder="timm/test_resnet", decoder=decoder, projection=8, embedding=8, regions=7)
    with pytest.raises(CaptionerError, match=rf"^model\.regions is 7, but the decoder {decoder} takes one vector"):
        build_caption_model(Config(model=model), 9, SPECIAL)


# --- Fine-tuning


def test_a_resnets_children_are_counted_as_the_reference_counts_them():
    features = build_encoder("resnet18", (64, 64)).features
    reference = list(torchvision.models.resnet18().children())[:-2]
    assert [type(child) for _, child in children_of(features)] == [type(child) for child in reference]
    assert [name for name, _ in children_of(timm.create_model("resnet18"))][5:8] == ["layer2", "layer3", "layer4"]


def test_children_are_the_stages_and_not_their_containers():
    lite = [name for name, _ in children_of(build_encoder("efficientnet_lite2", (64, 64)).features)]
    assert lite == ["conv_stem", "bn1", *(f"blocks.{i}" for i in range(7)), "conv_head", "bn2"]
    assert len(children_of(build_encoder("efficientnet_b2", (64, 64)).features)) == 9


@pytest.mark.parametrize("first", [0, 3, 4, 7])
def test_gradients_reach_only_the_children_from_fine_tune_on(first):
    encoder = build_encoder("timm/test_resnet", (64, 64), fine_tune=first)
    encoder(photos(2, 64, 64)).square().sum().backward()
    for number, (_, child) in enumerate(children_of(encoder.features)):
        for parameter in child.parameters():
            assert parameter.requires_grad == (parameter.grad is not None) == (number >= first)
    assert encoder.tuned


@pytest.mark.parametrize(
    ("name", "first"), [("timm/test_resnet", 6), ("timm/test_efficientnet", 4), ("resnet18", 7), ("mobilenet_v2", 12)]
)
def test_stem_and_rest_compute_and_learn_what_the_whole_encoder_does(name, first):
    encoder = build_encoder(name, (64, 64), fine_tune=first)
    encoder.features.to(torch.float64)
    encoder.scale, encoder.shift = encoder.scale.double(), encoder.shift.double()
    images = photos(2, 64, 64)

    def learnt(features: Tensor) -> list[Tensor]:
        encoder.zero_grad()
        features.square().sum().backward()
        return [features.detach(), *(p.grad.clone() for p in encoder.parameters() if p.requires_grad)]

    stem = encoder.stem()
    assert not any(parameter.requires_grad for parameter in stem.module.parameters())
    seen = stem.module(images)
    assert seen.shape == (2, *stem.shape)
    for whole, halved in zip(learnt(encoder(images)), learnt(encoder.after_stem(seen)), strict=True):
        torch.testing.assert_close(whole, halved, rtol=1e-4, atol=1e-5)


def test_the_stem_is_found_on_the_device_of_the_encoder():
    encoder = build_encoder("timm/test_resnet", (64, 64), fine_tune=6)
    expected = encoder.stem().shape
    assert encoder.to("meta").stem().shape == expected


def test_a_cnn_that_does_more_than_run_its_parts_in_order_has_no_stem():
    class Skipping(nn.Sequential):
        def forward(self, seen: Tensor) -> Tensor:
            return seen.mean() + super().forward(seen)

    def of(kind: type[nn.Sequential]) -> Encoder:
        parts = kind(nn.Conv2d(3, 4, 16, 16), nn.Conv2d(4, 4, 1))
        return Encoder("tiny", parts, (48, 48), (0.5,) * 3, (0.5,) * 3, fine_tune=1)

    assert of(nn.Sequential).stem() is not None
    assert of(Skipping).stem() is None


def test_a_stem_with_output_larger_than_the_photo_is_not_used():
    assert build_encoder("timm/test_resnet", (64, 64), fine_tune=1).stem() is None
    assert build_encoder("timm/test_resnet", (64, 64), fine_tune=7).stem() is not None


def test_a_fine_tune_beyond_the_last_child_is_refused():
    message = r"fine_tune is 8, .* parts of timm/test_resnet are 0 \(conv1\) to 7 \(layer4\)"
    with pytest.raises(CaptionerError, match=message):
        build_encoder("timm/test_resnet", (64, 64), fine_tune=8)


def test_a_tuned_encoder_trains_batch_norm_weights_but_keeps_the_statistics():
    torch.manual_seed(0)
    encoder = build_encoder("timm/test_efficientnet", (64, 64), fine_tune=0)
    model = CaptionModel(encoder, ModelConfig(projection=8, embedding=4, units=8, attention=4), 9, SPECIAL).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    optimizer = torch.optim.SGD(encoder.parameters(), lr=1.0)
    model(photos(4, 64, 64), torch.tensor([[[1, 4, 2]]] * 4)).logits[:, 2].sum().backward()
    optimizer.step()
    changed = {name for name, value in encoder.state_dict().items() if not torch.equal(before[name], value)}
    statistics = {name for name in before if "running" in name or "num_batches" in name}
    assert statistics
    assert not changed & statistics
    assert {name for name in before if name.endswith(("bn1.weight", "bn1.bias"))} <= changed
    assert not any(module.training for module in encoder.modules())


# --- Frozen encoders


def test_a_frozen_encoder_does_not_change_while_the_model_trains():
    encoder = build_encoder("timm/test_efficientnet", (64, 64))
    assert not encoder.tuned
    assert any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules())
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    model = CaptionModel(encoder, ModelConfig(projection=8, embedding=4, units=8, attention=4), 9, SPECIAL)
    model.train()
    for _ in range(3):
        model.encode(photos(4, 64, 64)).hidden.sum().backward()
    assert model.decoder.training
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in encoder.parameters())
    assert before.keys() == encoder.state_dict().keys()
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
