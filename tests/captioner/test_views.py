"""Views of photos, and batches that draw from them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from captioner.training.batches import Batches, View, pad_captions
from captioner.training.features import Features
from captioner.training.views import is_mirrored, may_be_mirrored, show

CONTENT, OTHER = "0123456789abcdef" * 4, "fedcba9876543210" * 4


@pytest.fixture
def photo() -> Image.Image:
    """Red grows to the right, green downwards."""
    y, x = np.mgrid[0:100, 0:200]
    return Image.fromarray(np.stack([x, 2 * y, np.zeros_like(x)], 2).astype(np.uint8))


def test_the_first_view_is_the_photo_and_the_second_its_mirror_image(photo):
    assert np.array_equal(show(photo, 0, CONTENT), photo)
    assert np.array_equal(show(photo, 1, CONTENT), np.asarray(photo)[:, ::-1])


@pytest.mark.parametrize("view", range(2, 12))
def test_further_views_are_crops_of_most_of_the_photo_each_second_mirrored(photo, view):
    seen = np.asarray(show(photo, view, CONTENT)).astype(int)
    height, width = seen.shape[:2]
    assert 0.58 <= height * width / (100 * 200) <= 1
    assert 0.8 <= (width / height) / 2 <= 1.25
    across = np.diff(seen[0, :, 0])
    assert (across == (-1 if is_mirrored(view) else 1)).all()
    assert (np.diff(seen[:, 0, 1]) == 2).all()  # never upside down


def test_a_view_depends_on_content_and_number_alone(photo):
    assert np.array_equal(show(photo, 2, CONTENT), show(photo.copy(), 2, CONTENT))
    sizes = {show(photo, view, content).size for view in (2, 4, 6) for content in (CONTENT, OTHER)}
    assert len(sizes) > 3


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (2, 3)])
def test_the_smallest_photos_have_views(size):
    assert all(min(show(Image.new("RGB", size), view, CONTENT).size) >= 1 for view in range(20))


def test_a_photo_is_not_mirrored_if_a_caption_speaks_of_a_side():
    sided = ("left", "right")
    assert may_be_mirrored(["A dog runs .", "It is bright ."], sided)
    assert not may_be_mirrored(["A dog runs .", "On the Left, a dog ."], sided)
    assert may_be_mirrored(["On the left, a dog ."], ())


# --- Batches


def features(count: int, first: float = 0) -> Features:
    """Photo i has the one feature `first` + i; its rows are in another order than its photos."""
    table = (first + np.arange(count)[::-1]).reshape(-1, 1, 1).astype(np.float16)
    return Features(np.arange(count)[::-1].copy(), table, ())


def batches(count: int, size: int, views: tuple[View, ...] = ()) -> Batches:
    return Batches(features(count), [[[1, 4 + i, 2], [1, 2]] for i in range(count)], size, 0, views)


def seen(batches_of: Batches, epoch: int, seed: int = 0) -> list[tuple[float, int]]:
    """Feature and first word of each photo, in order."""
    return [
        (float(feature), int(tokens[0, 1]) - 4)
        for batch in batches_of.shuffled(seed, epoch)
        for feature, tokens in zip(batch.features.flatten(), batch.tokens, strict=True)
    ]


@pytest.mark.parametrize(("count", "size", "sizes"), [(7, 3, [3, 3, 1]), (6, 3, [3, 3]), (2, 16, [2])])
def test_every_photo_is_in_an_epoch_once_with_its_own_captions(count, size, sizes):
    assert [batch.photos for batch in batches(count, size).in_order()] == sizes
    assert len(batches(count, size)) == len(sizes)
    pairs = seen(batches(count, size), epoch=0)
    assert all(feature == photo for feature, photo in pairs)
    assert sorted(photo for _, photo in pairs) == list(range(count))


def test_the_order_is_of_the_seed_and_the_epoch_alone():
    one = batches(20, 4)
    assert seen(one, 3) == seen(batches(20, 4), 3)
    assert len({tuple(seen(one, epoch, seed)) for epoch in (0, 1) for seed in (0, 1)}) == 4


def test_views_are_drawn_for_each_photo_and_only_where_allowed():
    allowed = np.arange(20) % 2 == 0
    views = (View(features(20, 100), allowed), View(features(20, 200), np.ones(20, bool)))
    drawn = [pair for epoch in range(10) for pair in seen(batches(20, 4, views), epoch)]
    assert all(feature % 100 == photo for feature, photo in drawn)
    counts = np.zeros((3, 2), int)
    for feature, photo in drawn:
        counts[int(feature) // 100, photo % 2] += 1
    assert counts[1, 1] == 0
    assert (counts.flatten()[[0, 1, 2, 4, 5]] > 15).all()
    assert [float(f) for b in batches(20, 4, views).in_order() for f in b.features.flatten()] == list(range(20))


def test_captions_are_padded_longest_first():
    (batch,) = Batches(features(2), [[[1, 2], [1, 4, 5, 2]], [[1, 4, 2]]], 2, 9).in_order()
    assert batch.tokens.tolist() == [[[1, 4, 5, 2], [1, 2, 9, 9]], [[1, 4, 2, 9], [9, 9, 9, 9]]]
    assert pad_captions([[[1, 2]]], 0).tolist() == [[[1, 2]]]
