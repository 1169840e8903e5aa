"""Photos are read again in every epoch, in views sampled by seed, epoch and index."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from caprun.photos.preprocessing import ImageSpec, load
from captioner.models.encoder import Encoder
from captioner.training.inputs import sources
from captioner.training.inputs.features import FeatureCache
from captioner.training.inputs.sources import CachedFeatures, PhotoFiles, unreadable_photos

HALF = (0.5, 0.5, 0.5)
SPEC = ImageSpec(32, 32, "squash", "bilinear", HALF, HALF)
GROUPS = [np.array([2, 0]), np.array([1])]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Returns three photos that are red on the left and blue on the right."""
    folder = tmp_path_factory.mktemp("photos")
    paths = []
    for number in range(3):
        pixels = np.zeros((40, 60, 3), np.uint8)
        pixels[:, :30, 0], pixels[:, 30:, 2] = 200 + number, 200 + number
        paths.append(folder / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def varied(photos: list[Path], seed: int = 0, epoch: int = 0, *, mirror: bool = True) -> torch.Tensor:
    source = PhotoFiles(photos, SPEC, [mirror] * 3, augmented=True)
    return torch.cat(list(source.varied(GROUPS, seed, epoch)))


def test_photos_are_prepared_as_in_the_runtime_in_the_requested_order(photos):
    source = PhotoFiles(photos, SPEC, [True] * 3, augmented=True)
    first, second = source.plain(GROUPS)
    for found, photo in zip([*first, *second], (2, 0, 1), strict=True):
        np.testing.assert_array_equal(found.numpy(), load(photos[photo], SPEC))
    assert first.dtype == torch.uint8


def test_large_jpegs_are_decoded_as_the_runtime_decodes_them(tmp_path):
    photo, scaled = tmp_path / "large.jpg", replace(SPEC, jpeg_decoding="scaled")
    Image.fromarray(np.random.default_rng(0).integers(256, size=(400, 400, 3), dtype=np.uint8)).save(photo)
    expected = load(photo, scaled)
    assert not np.array_equal(expected, load(photo, SPEC))
    source = PhotoFiles([photo], scaled, [True], augmented=False)
    np.testing.assert_array_equal(next(source.plain([np.array([0])]))[0].numpy(), expected)
    np.testing.assert_array_equal(next(source.varied([np.array([0])], 0, 0))[0].numpy(), expected)


@pytest.mark.parametrize("augmented", [True, False])
def test_a_photo_that_does_not_vary_is_shown_unchanged(photos, augmented):
    source = PhotoFiles(photos, SPEC, [True] * 3, augmented=augmented, views=100, varies=[True, False, True])
    for epoch in range(3):
        (seen,) = source.varied([np.array([0, 1])], 0, epoch)
        np.testing.assert_array_equal(seen[1].numpy(), load(photos[1], SPEC))
        assert not np.array_equal(seen[0].numpy(), load(photos[0], SPEC))


def test_augmentation_depends_only_on_seed_epoch_and_photo(photos):
    assert torch.equal(varied(photos), varied(photos))
    alone = PhotoFiles(photos, SPEC, [True] * 3, augmented=True).varied([np.array([0])], 0, 0)
    assert torch.equal(next(alone)[0], varied(photos)[1])
    different = [varied(photos, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(not torch.equal(a, b) for i, a in enumerate(different) for b in different[:i])


def test_without_augmentation_every_epoch_has_the_unchanged_photos(photos):
    source = PhotoFiles(photos, SPEC, [True] * 3, augmented=False)
    assert all(torch.equal(a, b) for a, b in zip(source.varied(GROUPS, 0, 3), source.plain(GROUPS), strict=True))


def test_photos_are_mirrored_about_half_the_time_unless_that_is_ruled_out(photos):
    def mirrored(epoch: int, *, mirror: bool) -> list[bool]:
        shown = varied(photos, epoch=epoch, mirror=mirror).float()
        return (shown[:, :, :4, 2].mean((1, 2)) > shown[:, :, :4, 0].mean((1, 2))).tolist()

    share = np.mean([mirrored(epoch, mirror=True) for epoch in range(30)])
    assert 0.3 < share < 0.7
    assert not any(any(mirrored(epoch, mirror=False)) for epoch in range(30))


def test_without_augmentation_files_have_the_views_of_cached_features(photos, tmp_path):
    torch.manual_seed(0)
    encoder = Encoder("tiny", torch.nn.Conv2d(3, 4, 16, 16), (32, 32), HALF, HALF)
    views = [FeatureCache(tmp_path, encoder, SPEC, n).compute(photos, torch.device("cpu"), print) for n in range(4)]
    allowed = np.array([True, False, True])
    others = [replace(v, rows=np.where(allowed, v.rows, -1)) if n % 2 else v for n, v in enumerate(views[1:], 1)]
    files, cached = PhotoFiles(photos, SPEC, allowed, augmented=False, views=4), CachedFeatures(views[0], others)
    seen = set()
    for epoch in range(6):
        for shown, kept in zip(files.varied(GROUPS, 3, epoch), cached.varied(GROUPS, 3, epoch), strict=True):
            torch.testing.assert_close(encoder(shown), kept, rtol=1e-3, atol=1e-3)
            seen |= {image.numpy().tobytes() for image in shown}
    assert len(seen) > 5


def test_crops_and_colours_differ_between_epochs(photos):
    shown = [varied(photos, epoch=epoch, mirror=False)[1].float() for epoch in range(8)]
    edges = {int((image[16, :, 0] > image[16, :, 2]).sum()) for image in shown}
    assert len(edges) > 3  # the number of red columns depends on the crop
    brightest = {int(image.max()) for image in shown}
    assert len(brightest) > 3


def test_unreadable_photos_are_named_with_a_reason(photos, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_text("no photo")
    assert unreadable_photos(photos) == {}
    problems = unreadable_photos([photos[0], bad, tmp_path / "none.jpg"])
    assert list(problems) == [bad, tmp_path / "none.jpg"]
    assert "bad.jpg is not a JPEG" in problems[bad]


def test_reading_stops_when_the_iterator_is_closed(photos):
    groups = PhotoFiles(photos, SPEC, [True] * 3, augmented=False).plain([np.array([0])] * 1000)
    next(groups)
    groups.close()  # returns at once, not after a thousand photos


def test_files_are_hashed_once_for_all_epochs(photos, monkeypatch):
    hashed = []
    key = sources.content_key
    monkeypatch.setattr(sources, "content_key", lambda photo: hashed.append(photo) or key(photo))
    source = PhotoFiles(photos, SPEC, [True] * 3, augmented=False, views=4)
    for epoch in range(5):
        list(source.varied(GROUPS, 0, epoch))
    assert sorted(hashed) == photos
