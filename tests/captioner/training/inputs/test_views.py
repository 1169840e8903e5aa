"""The views of a photo are mirror images and crops that depend only on its content and their number."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from captioner.training.inputs.views import is_mirrored, may_be_mirrored, show

CONTENT, OTHER = "0123456789abcdef" * 4, "fedcba9876543210" * 4


@pytest.fixture
def photo() -> Image.Image:
    """Returns a photo with red increasing to the right and green downwards."""
    y, x = np.mgrid[0:100, 0:200]
    return Image.fromarray(np.stack([x, 2 * y, np.zeros_like(x)], 2).astype(np.uint8))


def test_the_first_view_is_the_photo_and_the_second_its_mirror_image(photo):
    assert np.array_equal(show(photo, 0, CONTENT), photo)
    assert np.array_equal(show(photo, 1, CONTENT), np.asarray(photo)[:, ::-1])


@pytest.mark.parametrize("view", range(2, 12))
def test_views_from_2_on_are_large_crops_and_odd_views_are_mirrored(photo, view):
    seen = np.asarray(show(photo, view, CONTENT)).astype(int)
    height, width = seen.shape[:2]
    assert 0.58 <= height * width / (100 * 200) <= 1
    assert 0.8 <= (width / height) / 2 <= 1.25
    across = np.diff(seen[0, :, 0])
    assert (across == (-1 if is_mirrored(view) else 1)).all()
    assert (np.diff(seen[:, 0, 1]) == 2).all()  # never upside down


def test_a_view_depends_only_on_content_and_number(photo):
    assert np.array_equal(show(photo, 2, CONTENT), show(photo.copy(), 2, CONTENT))
    sizes = {show(photo, view, content).size for view in (2, 4, 6) for content in (CONTENT, OTHER)}
    assert len(sizes) > 3


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (2, 3)])
def test_the_smallest_photos_have_views(size):
    assert all(min(show(Image.new("RGB", size), view, CONTENT).size) >= 1 for view in range(20))


def test_a_photo_is_not_mirrored_if_a_caption_contains_a_sided_word():
    sided = ("left", "right")
    assert may_be_mirrored(["A dog runs .", "It is bright ."], sided)
    assert not may_be_mirrored(["A dog runs .", "On the Left, a dog ."], sided)
    assert may_be_mirrored(["On the left, a dog ."], ())
