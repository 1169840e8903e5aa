"""The attention picture shows the attention weights of each word."""

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from caprun.drawing.pictures import attention_picture
from caprun.photos.preprocessing import ImageSpec, seen_box
from tests.caprun.drawing.support.pictures import GREEN, Array, Pixels, as_array, flat, ink, runs

Box = tuple[float, float, float, float]

WHOLE = (0.0, 0.0, 1.0, 1.0)


def cells(picture: Image.Image) -> list[tuple[int, int, int, int]]:
    """Returns (left, top, right, bottom) of each panel, in reading order, for a photo that is all GREEN.

    Panels are found by their green, which letters and heat colours do not have; heat must not cover a left edge.
    """
    pixels = as_array(picture)
    green = np.asarray((pixels[..., 1] > pixels[..., 0] + 15) & (pixels[..., 1] > pixels[..., 2] + 10))
    return [
        (left, top, right, bottom)
        for top, bottom in runs(np.any(green, axis=1))
        for left, right in runs(np.any(green[top:bottom], axis=0))
    ]


def peak(row: int, column: int, height: int = 8, width: int = 8) -> Array:
    alpha = np.full((height, width), 0.2 / (height * width), np.float32)
    alpha[row, column] += 0.8
    return alpha


def panel(alpha: Array, box: Box = WHOLE, size: tuple[int, int] = (300, 300)) -> Pixels:
    """Draws a picture of one word, and returns the panel of the word."""
    photo = Image.new("RGB", size, GREEN)
    place = cells(attention_picture(photo, [("word", flat())]))[1]
    return as_array(attention_picture(photo, [("word", alpha)], region_box=box).crop(place))


def heat(alpha: Array, box: Box = WHOLE) -> npt.NDArray[np.float64]:
    """Returns (height, width): how much the panel's pixels differ from a panel with evenly spread attention."""
    return np.asarray(np.abs(panel(alpha, box) - panel(flat(), box)).sum(axis=-1), np.float64)


class TestAttentionPicture:
    @pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7, 12, 20])
    def test_every_word_has_a_panel_and_a_label_after_the_plain_photo(self, count: int) -> None:
        words = [(f"word{index}", peak(4, 4)) for index in range(count)]
        picture = attention_picture(Image.new("RGB", (64, 48), GREEN), words)
        pixels = as_array(picture)
        panels = cells(picture)
        assert len(panels) == count + 1
        assert len({(right - left, bottom - top) for left, top, right, bottom in panels}) == 1, "all of one size"
        for index, (left, top, right, bottom) in enumerate(panels):
            label = ink(pixels[bottom + 2 : bottom + 34, left:right])
            assert (label.max() > 0.8) == (index > 0)
            assert (pixels[top:bottom, left:right] == GREEN).all() == (index == 0)

    def test_twelve_panels_fill_their_grid(self) -> None:
        panels = cells(attention_picture(Image.new("RGB", (64, 48), GREEN), [("a", flat())] * 11))
        assert len({left for left, *_ in panels}) * len({top for _, top, *_ in panels}) == 12, "no place is empty"

    def test_labels_are_the_words_in_order(self) -> None:
        photo = Image.new("RGB", (64, 48), GREEN)
        one, two = (attention_picture(photo, [(a, flat()), (b, flat())]) for a, b in [("dog", "runs"), ("runs", "dog")])
        boxes = cells(one)[1:]

        def label(picture: Image.Image, box: tuple[int, int, int, int]) -> bytes:
            return picture.crop((box[0], box[3] + 2, box[2], box[3] + 34)).tobytes()

        assert label(one, boxes[0]) == label(two, boxes[1])
        assert label(one, boxes[1]) == label(two, boxes[0])
        assert label(one, boxes[0]) != label(one, boxes[1])

    @pytest.mark.parametrize("row", [1, 6])
    @pytest.mark.parametrize("column", [1, 6])
    def test_heat_is_drawn_where_the_weight_is(self, row: int, column: int) -> None:
        found = heat(peak(row, column))
        by_quadrant = found.reshape(2, 150, 2, 150).mean(axis=(1, 3))
        attended = by_quadrant[row // 4, column // 4]
        assert attended > 10
        assert by_quadrant.sum() - attended < 0.05 * attended
        top, left = np.unravel_index(found.argmax(), found.shape)
        assert abs(top - (row + 0.5) * 300 / 8) < 20
        assert abs(left - (column + 0.5) * 300 / 8) < 20

    def test_rows_and_columns_of_the_grid_are_not_confused(self) -> None:
        found = heat(peak(1, 10, height=2, width=12))
        assert found[150:, 250:].mean() > 10 * found[:130, :200].mean() + 1

    def test_heat_fades_smoothly(self) -> None:
        """Neighbouring pixels differ by a small part of the maximum, so the edges of the regions are not visible."""
        checkered = np.tile(np.array([[0, 1], [1, 0]], np.float32), (4, 4))
        for alpha, most in ((peak(3, 4), 0.08), (checkered, 0.045)):
            found = heat(alpha)
            assert max(np.abs(np.diff(found, axis=axis)).max() for axis in (0, 1)) < most * found.max()

    def test_the_largest_weight_has_the_brightest_colour(self) -> None:
        black = Image.new("RGB", (300, 300))
        picture = as_array(attention_picture(black, [("word", peak(4, 4))]))
        assert picture[20:320, 340:640, 0].max() > 0.8 * 255

    def test_the_heat_of_a_word_does_not_include_earlier_words(self) -> None:
        photo = Image.new("RGB", (300, 300), GREEN)
        before, alone = peak(1, 1), peak(6, 6)
        picture = attention_picture(photo, [("word", before), ("word", alone)])
        place = cells(attention_picture(photo, [("word", flat())] * 2))[2]
        np.testing.assert_array_equal(as_array(picture.crop(place)), panel(alone))

    def test_more_weight_is_always_lighter_on_a_dark_photo(self) -> None:
        alpha = np.repeat(np.linspace(0, 1, 12, dtype=np.float32)[None] ** 3, 4, axis=0)
        picture = attention_picture(Image.new("RGB", (300, 300)), [("word", alpha / alpha.sum())])
        box = cells(attention_picture(Image.new("RGB", (300, 300), GREEN), [("word", flat())]))[1]
        row = as_array(picture.crop(box))[150] @ np.array([0.2126, 0.7152, 0.0722])
        assert (np.diff(row) > -1).all()
        assert row[-1] > 150

    def test_evenly_spread_attention_draws_no_heat(self) -> None:
        muted = panel(flat())
        assert (muted == muted[0, 0]).all()
        almost = flat() * np.random.default_rng(0).uniform(0.95, 1.05, (8, 8)).astype(np.float32)
        assert heat(almost).max() < 0.15 * heat(peak(4, 4)).max()

    @pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -1.0])
    def test_equal_or_invalid_weights_draw_no_heat(self, value: float) -> None:
        assert heat(np.full((8, 8), value, np.float32)).max() == 0

    def test_a_nan_weight_draws_no_heat(self) -> None:
        alpha = peak(1, 1)
        alpha[6, 6] = np.nan
        found = heat(alpha)
        assert found[:150, :150].max() > 100
        assert found[150:, 150:].max() == 0

    def test_the_scale_of_the_weights_does_not_matter(self) -> None:
        np.testing.assert_array_equal(panel(peak(2, 2)), panel(peak(2, 2) * 64))

    def test_parts_that_the_encoder_did_not_see_are_dark_and_without_heat(self) -> None:
        box = (0.25, 0.0, 0.75, 1.0)
        found = panel(peak(0, 0), box)
        outside = np.concatenate([found[:, :75], found[:, 225:]], axis=1)
        assert (outside == outside[0, 0]).all()
        assert outside[0, 0].sum() < 0.5 * found[250, 200].sum()
        warm = heat(peak(0, 0), box)
        top, left = np.unravel_index(warm.argmax(), warm.shape)
        assert top < 40
        assert 75 <= left < 75 + 25, "the grid covers the box, not the photo"

    def test_the_bright_part_of_a_cropped_photo_is_its_seen_box(self) -> None:
        spec = ImageSpec(224, 224, "crop", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        found = panel(flat(), seen_box((300, 200), spec), size=(300, 200))
        bright = runs(found.sum(axis=(0, 2)) > 0.6 * found.sum(axis=(0, 2)).max())
        assert bright == [(50, 250)]

    @pytest.mark.parametrize("size", [(1, 1), (4000, 30), (30, 4000), (1, 50_000)])
    @pytest.mark.parametrize("box", [(0.0, 0.0, 1.0, 1.0), (0.499, 0.499, 0.501, 0.501), (0.99, 0.99, 1.0, 1.0)])
    def test_photos_of_any_size_have_readable_panels(self, size: tuple[int, int], box: Box) -> None:
        picture = attention_picture(Image.new("RGB", size, GREEN), [("word", peak(0, 7))] * 3, region_box=box)
        assert max(picture.size) < 2000
        beside = (as_array(picture) == (238, 238, 240)).all(axis=-1).sum()
        assert (beside > 4 * 90 * 290) == (size != (1, 1)), "a thin photo lies in the middle of a wider place"

    def test_a_region_box_within_one_pixel_covers_that_pixel(self) -> None:
        photo = Image.new("RGB", (1, 50_000), GREEN)
        picture = as_array(attention_picture(photo, [("a", flat())], region_box=(0.9, 0.0, 1.0, 1.0)))
        columns = np.flatnonzero(picture[100, :, 1] > picture[100, :, 0] + 15)
        assert len(columns) == 2, "the photo, and the word's panel"
        assert picture[100, columns[1], 1] > 100, "which is not dark"

    def test_a_grid_of_one_region_is_drawn_without_heat(self) -> None:
        assert heat(np.ones((1, 1), np.float32)).max() == 0

    @pytest.mark.parametrize("length", [20, 40, 200])
    def test_the_label_of_a_long_word_stays_within_its_place(self, length: int) -> None:
        photo = Image.new("RGB", (30, 300), GREEN)
        picture = attention_picture(photo, [("w" * length, flat())] * 3)
        labels = ink(as_array(picture)[-54:])
        assert len(runs(labels.max(axis=0) > 0)) >= 2
        assert labels[:, :19].max() == labels[:, -19:].max() == 0
        assert max(right - left for left, right in runs(labels.max(axis=0) == 0)) >= 18, "a gap between the two"
