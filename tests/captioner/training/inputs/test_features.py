"""Features are computed once, found by the photo's content, and valid after an interruption."""

from __future__ import annotations

import json
import math
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from caprun.photos.preprocessing import ImageSpec, load
from captioner.errors import CaptionerError
from captioner.models.encoder import Encoder, Stem
from captioner.training.inputs import features as module
from captioner.training.inputs.features import FeatureCache, Features, cache_key

CPU = torch.device("cpu")
Batches = list[int]


def write_photos(directory: Path, count: int) -> list[Path]:
    """Writes photos of noise in different sizes, and returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(count)
    photos = [directory / f"{i}.png" for i in range(count)]
    for photo in photos:
        Image.fromarray(rng.integers(256, size=(*rng.integers(20, 60, 2), 3), dtype=np.uint8)).save(photo)
    return photos


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Batches:
    """Records the batch sizes of the encoder, which PyTorch runs here without an export."""
    batches: Batches = []

    def runner(stem: nn.Module, _: tuple[int, int], __: torch.device) -> Callable[[np.ndarray], np.ndarray]:
        @torch.no_grad()
        def encode(images: np.ndarray) -> np.ndarray:
            batches.append(len(images))
            return stem(torch.from_numpy(images)).numpy()

        return encode

    monkeypatch.setattr(module, "_runner", runner)
    return batches


def quiet(_: str) -> None:
    return


def assert_right(features: Features, photos: list[Path], encoder: Encoder, spec: ImageSpec) -> None:
    expected = encoder(torch.from_numpy(np.stack([load(photo, spec) for photo in photos])))
    assert features.unreadable == {}
    torch.testing.assert_close(features.of(range(len(photos))), expected, rtol=1e-3, atol=1e-3)


# --- Computed once


@pytest.mark.usefixtures("encoder_in_onnx_runtime")
def test_features_equal_the_encoders_output_in_half_precision(tmp_path, encoder, spec):
    photos = write_photos(tmp_path, 21)
    features = FeatureCache(tmp_path / "cache", encoder, spec).compute(photos, CPU, quiet)
    assert_right(features, photos, encoder, spec)
    assert features.table.dtype == np.float16
    assert features.table.shape == (21, encoder.regions, encoder.channels)
    assert features.of([3, 1]).dtype == torch.float32
    assert torch.equal(features.of([3, 1]), features.of(range(21))[[3, 1]])


def test_features_are_computed_once(tmp_path, encoder, spec, encoded):
    photos = write_photos(tmp_path, 40)
    cache = FeatureCache(tmp_path / "cache", encoder, spec)
    first = cache.compute(photos, CPU, quiet)
    assert encoded == [16, 16, 8]
    said: list[str] = []
    again = FeatureCache(tmp_path / "cache", encoder, spec).compute(photos[::-1], CPU, said.append)
    assert encoded == [16, 16, 8]
    assert said == []
    assert torch.equal(again.of(range(40)).flip(0), first.of(range(40)))
    assert_right(first, photos, encoder, spec)


def test_new_photos_are_added_to_the_cached_ones(tmp_path, encoder, spec, encoded):
    photos = write_photos(tmp_path, 20)
    cache = FeatureCache(tmp_path / "cache", encoder, spec)
    cache.compute(photos[5:12], CPU, quiet)
    assert_right(cache.compute(photos, CPU, quiet), photos, encoder, spec)
    assert encoded == [7, 13]


def test_a_photo_is_found_by_its_content_not_by_its_name(tmp_path, encoder, spec, encoded):
    photos = write_photos(tmp_path / "a", 3)
    cache = FeatureCache(tmp_path / "cache", encoder, spec)
    cache.compute(photos, CPU, quiet)
    renamed = [photo.rename(photo.with_name(f"renamed-{photo.name}")) for photo in photos]
    Image.new("RGB", (30, 30), "red").save(renamed[1])
    assert_right(cache.compute(renamed, CPU, quiet), renamed, encoder, spec)
    assert encoded == [3, 1]  # only the photo that changed


def test_a_photo_that_occurs_twice_is_computed_once(tmp_path, encoder, spec, encoded):
    (photo,) = write_photos(tmp_path, 1)
    copy = tmp_path / "copy.png"
    copy.write_bytes(photo.read_bytes())
    features = FeatureCache(tmp_path / "cache", encoder, spec).compute([photo, copy, photo], CPU, quiet)
    assert encoded == [1]
    assert_right(features, [photo, copy, photo], encoder, spec)


def test_the_cache_key_depends_on_weights_preprocessing_and_view(encoder, spec):
    def another(weights: float = 0.0, name: str = "tiny", half: float = 0.5) -> Stem:
        torch.manual_seed(0)
        features = nn.Sequential(nn.Conv2d(3, 8, 16, 16), nn.ReLU())
        features[0].weight.data[0, 0, 0, 0] += weights
        stem = Encoder(name, features, (48, 48), (half,) * 3, (0.5,) * 3).stem()
        assert stem is not None
        return stem

    mine = encoder.stem()
    assert cache_key(another(), spec) == cache_key(mine, spec)
    keys = {
        cache_key(mine, spec),
        cache_key(another(weights=1e-6), spec),
        cache_key(another(name="other"), spec),
        cache_key(mine, spec, view=1),
        *(cache_key(mine, replace(spec, **change)) for change in ({"fit": "crop"}, {"resample": "bilinear"})),
        *(cache_key(mine, replace(spec, **change)) for change in ({"mean": (0.4,) * 3}, {"height": 49})),
        cache_key(mine, replace(spec, jpeg_decoding="scaled")),
    }
    assert len(keys) == 9


def test_a_view_is_cached_separately_from_the_photo_itself(tmp_path, encoder, spec, encoded):
    photos = write_photos(tmp_path, 2)
    plain, mirrored = (FeatureCache(tmp_path / "cache", encoder, spec, v).compute(photos, CPU, quiet) for v in (0, 1))
    flipped = torch.from_numpy(np.stack([load(photo, spec)[:, ::-1] for photo in photos]))
    torch.testing.assert_close(mirrored.of([0, 1]), encoder(flipped), rtol=0.05, atol=0.05)
    assert_right(plain, photos, encoder, spec)
    assert encoded == [2, 2]


def test_large_jpegs_are_decoded_as_the_runtime_decodes_them(tmp_path, encoder, spec, encoded):
    photo = tmp_path / "large.jpg"
    noise = np.random.default_rng(0).integers(256, size=(12 * spec.height, 12 * spec.width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(photo)
    scaled = replace(spec, jpeg_decoding="scaled")
    assert not np.array_equal(load(photo, scaled), load(photo, spec))
    features = FeatureCache(tmp_path / "cache", encoder, scaled).compute([photo], CPU, quiet)
    assert_right(features, [photo], encoder, scaled)


# --- Interruptions and damaged files


class CrashError(Exception):
    """Stands for any error of an encoder."""


@pytest.mark.parametrize("error", [KeyboardInterrupt, CrashError])
def test_an_interrupted_run_keeps_the_features_that_it_computed(tmp_path, encoder, spec, encoded, monkeypatch, error):
    photos = write_photos(tmp_path, 40)
    counting = module._runner

    def failing(*stem: Any) -> Callable[[np.ndarray], np.ndarray]:
        encode = counting(*stem)

        def encode_twice(images: np.ndarray) -> np.ndarray:
            if len(encoded) == 2:
                raise error
            return encode(images)

        return encode_twice

    cache = FeatureCache(tmp_path / "cache", encoder, spec)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_runner", failing)
        with pytest.raises(error):
            cache.compute(photos, CPU, quiet)
    said: list[str] = []
    assert_right(cache.compute(photos, CPU, said.append), photos, encoder, spec)
    assert encoded == [16, 16, 8]
    assert said[0].startswith("features: 8 photos x 9 regions x 8 channels")


def test_rows_missing_from_the_index_are_overwritten(tmp_path, encoder, spec, encoded):
    photos = write_photos(tmp_path, 6)
    cache = FeatureCache(tmp_path / "cache", encoder, spec)
    cache.compute(photos[:4], CPU, quiet)
    with (cache.directory / "features.f16").open("ab") as table:
        table.write(b"torn")  # a row half written in a power cut
    assert_right(cache.compute(photos, CPU, quiet), photos, encoder, spec)
    assert encoded == [4, 2]


@pytest.mark.parametrize("size", [0, 7, 144 * 3, None], ids=["empty", "torn", "short", "gone"])
def test_features_with_a_damaged_table_are_computed_again(tmp_path, encoder, spec, encoded, size):
    photos = write_photos(tmp_path, 4)
    cache = FeatureCache(tmp_path / "cache", encoder, spec)
    cache.compute(photos, CPU, quiet)
    table = cache.directory / "features.f16"
    assert table.stat().st_size == 144 * 4
    if size is None:
        table.unlink()
    else:
        table.write_bytes(table.read_bytes()[:size])
    assert_right(cache.compute(photos, CPU, quiet), photos, encoder, spec)
    assert encoded == [4, 4]


@pytest.mark.parametrize(
    "index",
    ["", "{", "null", "3", "[0, 1]", '"text"', '{"a": 0, "b": 7}', '{"a": 0, "b": 0}', '{"a": "x"}', '{"a": -1}', None],
)
def test_features_with_a_damaged_index_are_computed_again(tmp_path, encoder, spec, encoded, index):
    photos = write_photos(tmp_path, 4)
    cache = FeatureCache(tmp_path / "cache", encoder, spec)
    cache.compute(photos, CPU, quiet)
    if index is None:
        (cache.directory / "index.json").unlink()
    else:
        (cache.directory / "index.json").write_text(index)
    assert_right(cache.compute(photos, CPU, quiet), photos, encoder, spec)
    assert encoded == [4, 4]


def test_a_wrong_index_is_emptied_before_new_rows_are_written(tmp_path, encoder, spec, monkeypatch):
    photos = write_photos(tmp_path, 4)
    cache = FeatureCache(tmp_path / "cache", encoder, spec)
    indices: list[dict[str, int]] = []

    def runner(*_: Any) -> Callable[[np.ndarray], np.ndarray]:
        def encode(images: np.ndarray) -> np.ndarray:
            indices.append(json.loads((cache.directory / "index.json").read_text()))
            return np.zeros((len(images), 9, 8), np.float32)

        return encode

    monkeypatch.setattr(module, "_runner", runner)
    cache.compute(photos, CPU, quiet)
    (cache.directory / "features.f16").write_bytes(b"")
    cache.compute(photos[::-1], CPU, quiet)  # after a kill now, the old index would name wrong rows
    assert indices == [{}, {}]


# --- Sizes and errors


def test_the_size_is_announced_before_anything_is_computed(tmp_path, encoder, spec, encoded):
    photos = write_photos(tmp_path, 3)
    heard: list[tuple[str, int]] = []
    cache = FeatureCache(tmp_path / "cache", encoder, spec)
    cache.compute(photos, CPU, lambda line: heard.append((line, len(encoded))))
    line = f"features: 3 photos x 9 regions x 8 channels in half precision, 0.0 MB in {cache.directory}"
    assert heard == [(line, 0)]


def test_features_too_large_for_the_disk_are_refused_before_computation(tmp_path, encoder, spec, encoded, monkeypatch):
    photos = write_photos(tmp_path, 3)
    free = math.ceil(3 * 144 / 0.95)
    usage = namedtuple("usage", "total used free")
    cache = FeatureCache(tmp_path / "cache", encoder, spec)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10**9, 0, free - 1))
    with pytest.raises(CaptionerError, match=r"^The features need 0\.0 MB in .*, but only 0\.0 MB is free\. .*--cache"):
        cache.compute(photos, CPU, quiet)
    assert encoded == []
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10**9, 0, free))
    assert_right(cache.compute(photos, CPU, quiet), photos, encoder, spec)


def test_unreadable_photos_are_reported_and_the_others_computed(tmp_path, encoder, spec, encoded):
    photos = write_photos(tmp_path, 4)
    photos[1].write_text("not a photo")
    photos[2] = tmp_path / "missing.png"
    features = FeatureCache(tmp_path / "cache", encoder, spec).compute(photos, CPU, quiet)
    assert (features.rows >= 0).tolist() == [True, False, False, True]
    assert list(features.unreadable) == photos[1:3]
    first, second = features.unreadable.values()
    assert first.startswith(f"{photos[1]} is not a JPEG, PNG")
    assert second == f"{photos[2]} cannot be read."
    good = Features(features.rows[[0, 3]], features.table, {})
    assert_right(good, [photos[0], photos[3]], encoder, spec)


def test_there_are_no_features_if_no_photo_can_be_read(tmp_path, encoder, spec, encoded):
    (tmp_path / "a.png").write_text("not a photo")
    features = FeatureCache(tmp_path / "cache", encoder, spec).compute([tmp_path / "a.png"], CPU, quiet)
    assert features.rows.tolist() == [-1]
    assert len(features.unreadable) == 1


@pytest.mark.parametrize("value", [1e5, math.nan])
def test_values_that_half_precision_cannot_hold_are_refused_and_not_kept(tmp_path, encoder, spec, monkeypatch, value):
    cache = FeatureCache(tmp_path / "cache", encoder, spec)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_runner", lambda *_: lambda images: np.full((len(images), 9, 8), value, np.float32))
        with pytest.raises(CaptionerError, match=r"half precision; .*augment=true to train without the cache\.$"):
            cache.compute(write_photos(tmp_path, 2), CPU, quiet)
    assert json.loads((cache.directory / "index.json").read_text()) == {}


def test_a_cache_that_cannot_be_written_is_refused_by_name(tmp_path, encoder, spec, encoded):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(CaptionerError, match=r"^The feature cache .*cache.* cannot be written: .*--cache\.$"):
        FeatureCache(tmp_path / "cache", encoder, spec).compute(write_photos(tmp_path, 1), CPU, quiet)


def test_the_frozen_part_of_a_fine_tuned_encoder_is_cached(spec, tmp_path, encoded):
    def tuned(first: int, weights: float = 0.0) -> FeatureCache:
        torch.manual_seed(0)
        parts = nn.Sequential(nn.Conv2d(3, 8, 16, 16), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1))
        parts[2].weight.data += weights
        encoder = Encoder("tiny", parts, (48, 48), (0.5,) * 3, (0.5,) * 3, fine_tune=first)
        return FeatureCache(tmp_path / "cache", encoder, spec)

    said: list[str] = []
    photos = write_photos(tmp_path, 3)
    features = tuned(2).compute(photos, CPU, said.append)
    assert features.of([0, 2]).shape == (2, 8, 3, 3)
    assert said[0].startswith("features: 3 photos x 8 channels x 3 rows x 3 columns in half precision, 0.0 MB in ")
    # the folder depends on the frozen stages, not on the trained ones
    assert tuned(2, weights=0.5).directory == tuned(2).directory
    assert tuned(1).directory != tuned(2).directory
    assert encoded == [3]


def test_an_encoder_fine_tuned_from_its_first_part_cannot_be_cached(encoder, spec, tmp_path):
    encoder.features.requires_grad_(True)
    with pytest.raises(CaptionerError, match=r"fine-tuned from its first part cannot be cached"):
        FeatureCache(tmp_path, encoder, spec)
