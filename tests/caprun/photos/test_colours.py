"""Photos of every colour mode become RGB, and transparent pixels are composited on white."""

import io
import struct
import warnings

import numpy as np
import pytest
from PIL import Image, ImageCms

from caprun.photos.file import Photo
from caprun.photos.reading import open_photo
from tests.caprun.photos.support.encoding import chunk, encode, pixels, png


class TestTransparency:
    def half_clear(self, mode: str) -> Image.Image:
        """Draws black pixels: opaque on the left, half transparent in the middle, transparent on the right."""
        opacity = np.repeat(np.array([[255, 128, 0]], np.uint8), 2, axis=0)
        rgba = Image.merge("RGBA", [*[Image.new("L", (3, 2))] * 3, Image.fromarray(opacity)])
        return rgba.convert("LA").convert("La") if mode == "La" else rgba.convert(mode)

    @pytest.mark.parametrize("mode", ["RGBA", "RGBa", "LA", "La"])
    def test_alpha_is_composited_on_white(self, mode: str) -> None:
        assert pixels(self.half_clear(mode))[0].tolist() == [[0] * 3, [127] * 3, [255] * 3]

    @pytest.mark.parametrize("kind", ["PNG", "WEBP"])
    def test_alpha_of_files_is_composited_on_white(self, kind: str) -> None:
        data = encode(self.half_clear("RGBA"), kind, lossless=True)
        assert pixels(data)[0].tolist() == [[0] * 3, [127] * 3, [255] * 3]

    def test_a_palette_with_alpha_is_composited_on_white(self) -> None:
        image = Image.new("PA", (2, 1))
        image.putpalette([200, 0, 0, 0, 0, 0] + [0] * 762)
        image.putdata([(0, 255), (0, 0)])
        assert pixels(image)[0].tolist() == [[200, 0, 0], [255, 255, 255]]

    def palette_image(self) -> Image.Image:
        image = Image.new("P", (3, 1))
        image.putpalette([200, 0, 0, 0, 100, 0, 0, 0, 50])
        image.putdata([0, 1, 2])
        return image

    @pytest.mark.parametrize("kind", ["PNG", "GIF"])
    def test_a_transparent_palette_entry_becomes_white(self, kind: str) -> None:
        data = encode(self.palette_image(), kind, transparency=1)
        assert pixels(data)[0].tolist() == [[200, 0, 0], [255, 255, 255], [0, 0, 50]]

    def test_half_transparent_palette_entries_are_composited_on_white(self) -> None:
        data = encode(self.palette_image(), "PNG", transparency=bytes([255, 0, 128]))
        assert pixels(data)[0].tolist() == [[200, 0, 0], [255, 255, 255], [127, 127, 152]]

    @pytest.mark.parametrize(("mode", "key"), [("1", 0), ("L", 7), ("RGB", (7, 8, 9))])
    def test_the_transparent_colour_of_a_png_becomes_white(self, mode: str, key: int | tuple[int, int, int]) -> None:
        data = encode(Image.new(mode, (2, 2), key), "PNG", transparency=key)
        assert (pixels(data) == 255).all()
        assert (pixels(encode(Image.new(mode, (2, 2), key), "PNG")) < 10).all()

    def test_the_transparent_grey_of_a_16_bit_png_becomes_white(self) -> None:
        data = png(2, 1, 16, 0, b"\0" + struct.pack(">2H", 700, 701), chunk(b"tRNS", struct.pack(">H", 700)))
        assert pixels(data)[0].tolist() == [[255] * 3, [2] * 3]

    def test_the_transparent_colour_of_a_16_bit_rgb_png_becomes_white(self) -> None:
        rows = b"\0" + struct.pack(">6H", 1000, 2000, 3000, 40000, 5, 60000)
        data = png(2, 1, 16, 2, rows, chunk(b"tRNS", struct.pack(">3H", 1000, 2000, 3000)))
        with Image.open(io.BytesIO(data)) as image:
            assert pixels(image)[0].tolist() == pixels(data)[0].tolist() == [[255, 255, 255], [156, 0, 234]]
            assert image.info["transparency"] == (1000, 2000, 3000), "a PIL image is not altered"

    def test_an_opened_photo_is_not_composited_again(self) -> None:
        """After compositing, white is opaque, even in a photo that declared white as its transparent colour."""
        once = open_photo(encode(Image.new("RGB", (2, 2), (7, 8, 9)), "PNG", transparency=(255, 255, 255)))
        assert not once.has_transparency_data
        assert open_photo(once) is once


class TestModes:
    @pytest.mark.parametrize("depth", ["file", "I;16", "I;16B", "I;16L", "I"])
    def test_a_16_bit_gradient_keeps_its_high_bytes(self, depth: str) -> None:
        values = np.linspace(0, 65535, 40 * 30).reshape(30, 40).astype("<u2")
        photo: Photo
        if depth == "file":
            photo = encode(Image.fromarray(values), "PNG")
        elif depth == "I":
            photo = Image.fromarray(values.astype(np.int32))
        else:
            order = values.astype(">u2") if depth == "I;16B" else values
            photo = Image.frombytes(depth, (40, 30), order.tobytes())
        np.testing.assert_array_equal(pixels(photo), np.repeat(values[..., None] >> 8, 3, axis=-1))

    def test_16_bit_grey_and_colour_pngs_of_one_picture_give_the_same_pixels(self) -> None:
        values = np.linspace(0, 65535, 256).astype(">u2")
        grey = png(256, 1, 16, 0, b"\0" + values.tobytes())
        colour = png(256, 1, 16, 2, b"\0" + np.repeat(values, 3).tobytes())
        np.testing.assert_array_equal(pixels(grey), pixels(colour))

    def test_integers_outside_16_bits_are_clipped(self) -> None:
        image = Image.fromarray(np.array([[-5, 0, 65535, 2**31 - 1]], np.int32))
        assert pixels(image)[0, :, 0].tolist() == [0, 0, 255, 255]

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ([0.0, 0.5, 1.0], [0, 128, 255]),
            ([0.2, 0.4], [51, 102]),
            ([0.0, 1.5, 255.0], [0, 2, 255]),
            ([0.0, 300.0, 65535.0], [0, 1, 255]),
            ([-1.0, 0.0, 1.0], [0, 128, 255]),
            ([0.0, 50000.0, 100000.0], [0, 128, 255]),
            ([-3.0, -3.0], [0, 0]),
            ([np.nan, 1.0, np.inf, -np.inf, 0.5], [0, 255, 255, 0, 128]),
            ([-2.0, 2.0, np.nan, np.inf, -np.inf], [0, 255, 0, 255, 0]),
            ([np.nan, np.inf, -np.inf], [0, 255, 0]),
            ([-3e38, 0.0, 3e38], [0, 128, 255]),
        ],
        ids=["unit", "dim unit", "byte", "16 bit", "signed", "wide", "flat", "nan", "nan wide", "none finite", "vast"],
    )
    def test_floats_are_scaled_from_the_smallest_range_that_contains_them(
        self, values: list[float], expected: list[int]
    ) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = pixels(Image.fromarray(np.array([values], np.float32)))
        np.testing.assert_array_equal(found[0], np.repeat(np.array(expected)[:, None], 3, axis=1))

    @pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "RGBX", "LAB"])
    def test_images_of_other_modes_keep_their_colours(self, mode: str) -> None:
        red = Image.new("RGB", (4, 4), (255, 255, 255) if mode in ("1", "L") else (200, 30, 40))
        if mode == "LAB":
            srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
            image = ImageCms.profileToProfile(red, srgb, lab, outputMode="LAB")
            assert image is not None
        else:
            image = red.quantize(2) if mode == "P" else red.convert(mode)
        assert image.mode == mode
        assert np.abs(pixels(image).astype(int) - np.asarray(red)).max() <= 6

    def test_the_colours_of_an_adobe_cmyk_jpeg_are_not_inverted(self) -> None:
        red = Image.new("RGB", (16, 16), (200, 30, 40))
        data = encode(red.convert("CMYK"), "JPEG", quality=95)
        assert b"Adobe" in data
        assert np.abs(pixels(data).astype(int) - np.asarray(red)).max() < 8


class TestBmp:
    def bmp(self, alpha: int) -> bytes:
        """Encodes a 32-bit BMP with a V4 header, which declares alpha."""
        rows = bytes((50, 100, 200, alpha)) * 6
        masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
        header = struct.pack("<IiiHHIIiiII", 108, 3, 2, 1, 32, 3, len(rows), 0, 0, 0, 0) + masks + bytes(52)
        return b"BM" + struct.pack("<IHHI", 14 + 108 + len(rows), 0, 0, 14 + 108) + header + rows

    @pytest.mark.parametrize("alpha", [0, 255])
    def test_a_bmp_is_opaque_if_its_alpha_is_0_or_255_everywhere(self, alpha: int) -> None:
        assert pixels(self.bmp(alpha))[0].tolist() == [[200, 100, 50]] * 3

    def test_the_alpha_of_other_bmps_is_composited_on_white(self) -> None:
        assert pixels(self.bmp(128))[0, 0].tolist() == [227, 177, 152]
