"""The caption picture shows the photo and its caption."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from caprun.drawing.pictures import caption_picture, find_font
from tests.caprun.drawing.support.pictures import GREEN, as_array, ink, runs

LONG = "a woman in an orange space suit is standing next to a model of a rocket and to the flag of her country, smiling"


class TestCaptionPicture:
    def test_the_photo_is_drawn_unchanged_above_the_caption(self) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (400, 600, 3), np.uint8)
        pixels = as_array(caption_picture(Image.fromarray(noise), "a dog"))
        np.testing.assert_array_equal(pixels[:400, :600], noise)
        assert ink(pixels[400:]).max() > 0.8, "dark letters"
        assert np.median(ink(pixels[400:])) == 0, "on white paper"

    def test_a_long_caption_is_wrapped_and_not_cut_off(self) -> None:
        picture = caption_picture(Image.new("RGB", (600, 400)), LONG)
        band = ink(as_array(picture)[400:])
        lines = runs(band.max(axis=1) > 0.3)
        assert len(lines) >= 3
        assert band[:, :10].max() == band[:, -10:].max() == 0, "room on both sides"
        assert band[:5].max() == band[-5:].max() == 0, "and above and below"

        face = find_font(LONG, round(600 / 24))
        one_line = Image.new("RGB", (4000, 60), "white")
        ImageDraw.Draw(one_line).text((10, 5), LONG, fill=(28, 28, 32), font=face)
        assert band.sum() == pytest.approx(ink(as_array(one_line)).sum(), rel=0.02), "as much ink as on one long line"

    def test_a_word_too_long_for_a_line_is_broken(self) -> None:
        band = ink(as_array(caption_picture(Image.new("RGB", (600, 400)), "w" * 150))[400:])
        assert len(runs(band.max(axis=1) > 0.3)) > 2
        assert band[:, :10].max() == band[:, -10:].max() == 0

    def test_a_caption_without_words_gives_an_empty_band(self) -> None:
        pixels = as_array(caption_picture(Image.new("RGB", (600, 400)), " \n"))
        assert len(pixels) > 400
        assert ink(pixels[400:]).max() == 0

    def test_line_breaks_in_a_caption_become_spaces(self) -> None:
        photo = Image.new("RGB", (600, 400))
        assert caption_picture(photo, "a\ndog  runs") == caption_picture(photo, "a dog runs")

    @pytest.mark.parametrize(
        ("size", "shown"),
        [
            ((2048, 1536), (1024, 768)),
            ((700, 500), (700, 500)),
            ((12, 6), (480, 240)),
            ((1, 1), (480, 480)),
            ((4000, 30), (1024, 8)),
            ((30, 4000), (8, 1024)),
            ((1, 50_000), (1, 1024)),
        ],
    )
    def test_photos_of_any_size_are_drawn_at_a_readable_size(
        self, size: tuple[int, int], shown: tuple[int, int]
    ) -> None:
        pixels = as_array(caption_picture(Image.new("RGB", size, GREEN), LONG))
        height, width = pixels.shape[:2]
        assert width == max(shown[0], 480)
        photo = (pixels == GREEN).all(axis=-1)
        rows, columns = np.flatnonzero(photo.any(axis=1)), np.flatnonzero(photo.any(axis=0))
        assert (len(columns), len(rows)) == shown
        assert abs(columns[0] + columns[-1] + 1 - width) <= 1, "centred"
        assert height > shown[1]
        assert ink(pixels[shown[1] :])[:, :5].max() == 0
