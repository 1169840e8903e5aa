"""Networks that return tokens or have channels last become grids of regions, for every timm family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from captioner.errors import CaptionerError
from captioner.models.encoder import Encoder, build_encoder
from captioner.models.parts import children_of
from tests.captioner.models.test_encoder import photos
from tests.families import FAMILIES, TOKENS, make_small

ROWS = 4


@pytest.fixture
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, int]:
    return make_small(request.param, monkeypatch), FAMILIES[request.param].patch * ROWS


def every(families: Any = FAMILIES) -> Any:
    return pytest.mark.parametrize("small", list(families), indirect=True)


def built(small: tuple[str, int], **settings: Any) -> Encoder:
    name, side = small
    torch.manual_seed(0)
    return build_encoder(name, (side, side), **settings)


@every()
def test_regions_are_the_patch_tokens_in_the_order_of_timms_grid(small):
    encoder = built(small)
    images = photos(2, *encoder.size)
    network = getattr(encoder.features, "network", encoder.features)
    pixels = images.permute(0, 3, 1, 2) * encoder.scale + encoder.shift
    with torch.inference_mode():
        normed = {"norm": True} if hasattr(network, "num_prefix_tokens") else {}
        (expected,) = network.forward_intermediates(pixels, 1, intermediates_only=True, **normed)
        features = encoder(images)
        if hasattr(network, "fc_norm"):  # timm normalises the mean; the encoder normalises every region
            expected = network.fc_norm(expected.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        elif hasattr(network, "output_fmt"):
            expected = network.norm(expected.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        elif hasattr(network, "final_conv"):
            expected = network.final_conv(expected)
        else:
            expected = network.head.norm(expected)
    assert encoder.grid == tuple(expected.shape[2:])
    assert features.std() > 1e-3
    torch.testing.assert_close(features, expected.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-5)


@every(TOKENS)
def test_fine_tuning_counts_blocks(small):
    encoder = built(small, fine_tune=2)
    assert [name for name, _ in children_of(encoder.features)] == ["blocks.0", "blocks.1", "blocks.2"]
    trained = [name for name, value in encoder.named_parameters() if value.requires_grad]
    assert {name.split(".")[3] for name in trained if "blocks" in name} == {"2"}
    rest = [name for name in trained if "blocks" not in name]
    assert rest
    assert all("norm" in name for name in rest)
    assert all(value.requires_grad for value in built(small, fine_tune=0).parameters())
    with pytest.raises(CaptionerError, match=r"are 0 \(blocks\.0\) to 2 \(blocks\.2\)"):
        built(small, fine_tune=3)


@every()
def test_frozen_stem_and_rest_compute_and_learn_what_the_encoder_does(small):
    last = len(children_of(built(small).features)) - 1
    encoder = built(small, fine_tune=last)
    images = photos(2, *encoder.size)

    def learnt(features: Tensor) -> list[Tensor]:
        encoder.zero_grad()
        features.square().sum().backward()
        return [features.detach(), *(p.grad.clone() for p in encoder.parameters() if p.requires_grad)]

    stem = encoder.stem()
    assert stem is not None
    with torch.no_grad():
        seen = stem.module(images)
    assert seen.shape == (2, *stem.shape)
    assert len(stem.shape) == 3  # features have 2
    for whole, halved in zip(learnt(encoder(images)), learnt(encoder.after_stem(seen)), strict=True):
        torch.testing.assert_close(whole, halved, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("channels", "cached"), [(576, True), (960, False)])
def test_a_transformers_stem_can_be_up_to_four_times_as_large_as_the_photo(monkeypatch, channels, cached):
    name = make_small("dinov2", monkeypatch, embed_dim=channels, depth=2)
    stem = built((name, 56), fine_tune=1).stem()
    assert (stem is not None) == cached


# --- Weights


def test_position_embeddings_of_another_image_size_are_resampled(monkeypatch, tmp_path):
    name = make_small("dinov2", monkeypatch)
    trained = built((name, 112))
    save_file(trained.features.network.state_dict(), tmp_path / "weights.safetensors")
    encoder = build_encoder(name, (56, 56), str(tmp_path / "weights.safetensors"))
    own, theirs = encoder.features.network.state_dict(), trained.features.network.state_dict()
    assert own["pos_embed"].shape != theirs["pos_embed"].shape
    expected = resample_abs_pos_embed(theirs["pos_embed"], (ROWS, ROWS), num_prefix_tokens=0)
    torch.testing.assert_close(own["pos_embed"], expected)
    assert all(torch.equal(own[key], theirs[key]) for key in own if key != "pos_embed")


@pytest.mark.parametrize("wrap", ["torch", "safetensors"])
def test_openclip_weight_names_are_converted(monkeypatch, tmp_path, wrap):
    """OpenCLIP saves the timm image tower together with the text tower."""
    name = make_small("siglip", monkeypatch)
    trained = built((name, 64))
    state = {f"visual.trunk.{key}": value for key, value in trained.features.network.state_dict().items()}
    state["text.positional_embedding"] = torch.zeros(3, 3)
    file = tmp_path / f"weights.{wrap}"
    save_file(state, file) if wrap == "safetensors" else torch.save(state, file)
    encoder = build_encoder(name, (64, 64), str(file))
    assert torch.equal(encoder(photos(1, 64, 64)), trained(photos(1, 64, 64)))


def test_weights_that_do_not_fit_are_refused(monkeypatch, tmp_path):
    name = make_small("dinov2", monkeypatch)
    save_file(
        built((make_small("dinov3", monkeypatch), 64)).features.network.state_dict(), tmp_path / "other.safetensors"
    )
    make_small("dinov2", monkeypatch)
    with pytest.raises(
        CaptionerError, match=r"^The weights in .*other\.safetensors do not fit the encoder timm/vit_small"
    ):
        build_encoder(name, (56, 56), str(tmp_path / "other.safetensors"))


def test_a_damaged_safetensors_file_is_refused_by_name(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"\x08" + bytes(20))
    with pytest.raises(CaptionerError, match=r"weights\.safetensors is not a PyTorch weights file \("):
        build_encoder("timm/test_vit", (160, 160), str(tmp_path / "weights.safetensors"))


# --- Refusals


def test_image_sizes_that_are_not_a_multiple_of_the_patch_are_refused(monkeypatch):
    with pytest.raises(CaptionerError, match=r"patches of 14 x 14 pixels.*60 x 60.* data\.image_size to 56 or 70\.$"):
        built((make_small("dinov2", monkeypatch), 60))


def test_a_patch_size_can_be_one_number():
    assert build_encoder("timm/xcit_nano_12_p16_224", (64, 64)).grid == (4, 4)


def test_unknown_timm_weights_are_refused_and_the_known_ones_listed():
    with pytest.raises(CaptionerError, match=r"^timm has no weights 'timm/vit_small_patch14_dinov2\.x'; .* lvd142m"):
        build_encoder("timm/vit_small_patch14_dinov2.x", (56, 56))


def test_a_network_with_pooling_that_cannot_be_removed_is_refused():
    with pytest.raises(CaptionerError, match=r"^Encoder 'timm/inception_next_atto' .* no grid of regions \(Cannot"):
        build_encoder("timm/inception_next_atto", (64, 64))
