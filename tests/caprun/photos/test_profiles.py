"""Pixels are converted from the colours of an embedded ICC profile to sRGB."""

import io
import itertools
import sys
import zlib

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms

from caprun.photos import profiles
from caprun.photos.preprocessing import load
from caprun.photos.profiles import MAX_BYTES, conversion_of
from caprun.photos.reading import AtLeast, open_photo
from tests.caprun.photos.support.encoding import chunk, encode, pixels, png, spec
from tests.caprun.photos.support.profiles import (
    P3,
    SRGB,
    cmyk_profile,
    gamma,
    grey_profile,
    profile,
    rgb_profile,
    text,
)

DISPLAY_P3 = rgb_profile(P3, "Display P3")
COLOURS = np.array([(200, 100, 50), (50, 200, 100), (30, 60, 180), (128, 128, 128), (255, 255, 255)], np.uint8)


def patches(colours: npt.NDArray[np.uint8] = COLOURS) -> Image.Image:
    """Draws a patch of 8 x 8 pixels in each colour, side by side."""
    return Image.fromarray(colours[None].repeat(8, 0).repeat(8, 1))


def centres(image: Image.Image | npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    return np.asarray(image)[4, 4::8].astype(int)


def p3_to_srgb(colours: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Converts Display P3 to sRGB by their definitions, without a library; both have the same curve."""
    unit = colours / 255
    linear = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
    linear = linear @ np.array(P3) @ np.linalg.inv(np.array(SRGB))
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


class TestRgb:
    @pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG", "PIL"])
    def test_display_p3_becomes_srgb_in_every_format(self, kind: str) -> None:
        image, options = patches(), {"lossless": True} if kind == "WEBP" else {}
        image.info["icc_profile"] = DISPLAY_P3
        if kind == "JPEG":
            options = {"quality": 100, "subsampling": 0}
        photo = image if kind == "PIL" else encode(image, kind, icc_profile=DISPLAY_P3, **options)
        found = open_photo(photo)
        assert np.abs(centres(found) - p3_to_srgb(COLOURS)).max() < (3 if kind == "JPEG" else 1.6)
        assert np.abs(p3_to_srgb(COLOURS) - COLOURS).max() > 15
        assert found.info == {}
        np.testing.assert_array_equal(centres(image), COLOURS, "a PIL image is not altered")

    def test_transparent_and_palette_images_are_converted(self) -> None:
        image = patches().convert("RGBA")
        image.putalpha(Image.fromarray(np.repeat(np.array([255, 255, 128, 0, 255], np.uint8), 8)[None].repeat(8, 0)))
        found = centres(pixels(encode(image, "PNG", icc_profile=DISPLAY_P3)))
        expected = p3_to_srgb(COLOURS)
        expected[2] = (128 * expected[2] + 127 * 255) / 255
        expected[3] = 255
        assert np.abs(found - expected).max() < 2
        palette = encode(patches().quantize(8), "PNG", icc_profile=DISPLAY_P3, transparency=255)
        assert np.abs(centres(pixels(palette)) - p3_to_srgb(COLOURS)).max() < 2

    def test_converting_in_strips_gives_the_same_pixels(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = encode(patches(), "PNG", icc_profile=DISPLAY_P3)
        expected = pixels(data)
        monkeypatch.setattr("caprun.photos.orientation.STRIP", 100)
        np.testing.assert_array_equal(pixels(data), expected)

    def test_a_profile_in_several_jpeg_segments_is_joined(self) -> None:
        large = DISPLAY_P3 + bytes(150_000)  # Pillow splits it into parts of 64 KB
        data = encode(patches(), "JPEG", quality=100, subsampling=0, icc_profile=large)
        assert data.count(b"ICC_PROFILE") == 3
        assert np.abs(centres(pixels(data)) - p3_to_srgb(COLOURS)).max() < 3

    def test_a_large_photo_is_reduced_before_it_is_converted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        converted = []
        apply = profiles.Conversion.apply
        monkeypatch.setattr(
            profiles.Conversion, "apply", lambda self, image: (converted.append(image.size), apply(self, image))[1]
        )
        data = encode(patches().resize((400, 320), Image.Resampling.NEAREST), "PNG", icc_profile=DISPLAY_P3)
        found = load(data, spec(32, 40))
        assert converted == [(67, 54)]
        assert np.abs(found[16, 4::8] - p3_to_srgb(COLOURS)).max() < 2
        jpeg = encode(patches().resize((400, 320)), "JPEG", icc_profile=DISPLAY_P3)
        assert open_photo(jpeg, at_least=AtLeast(80, 64, jpeg=False)).size == (80, 64)
        assert open_photo(jpeg).size == (400, 320)

    def test_a_transparent_colour_becomes_white_before_the_photo_is_reduced(self) -> None:
        image = Image.fromarray(np.tile(np.array([[(7, 8, 9), (200, 0, 0)]], np.uint8), (320, 160, 1)))
        data = encode(image, "PNG", icc_profile=DISPLAY_P3, transparency=(7, 8, 9))
        assert load(data, spec(32, 32)).mean() > 100


class TestOthers:
    def test_grey_pixels_are_converted_by_a_grey_profile(self) -> None:
        """In linear light, grey of 50% is bright: 188 in sRGB."""
        grey = Image.new("L", (4, 4), 128)
        for image in (grey, grey.convert("LA")):
            data = encode(image, "PNG", icc_profile=grey_profile(1.0))
            assert np.abs(pixels(data).astype(int) - 188).max() <= 1
        deep = png(1, 1, 16, 0, b"\0\x80\0", chunk(b"iCCP", b"x\0\0" + zlib.compress(grey_profile(1.0))))
        assert np.abs(pixels(deep).astype(int) - 188).max() <= 1

    def test_cmyk_pixels_are_converted_by_a_cmyk_profile(self) -> None:
        ink = Image.new("CMYK", (16, 16), (255, 255, 0, 128))  # this profile uses only black
        data = encode(ink, "JPEG", icc_profile=cmyk_profile(), quality=95)
        assert np.abs(pixels(data).astype(int) - 118).max() <= 3

    @pytest.mark.parametrize(
        ("mode", "other"), [("L", DISPLAY_P3), ("RGB", grey_profile(1.0)), ("RGB", cmyk_profile())]
    )
    def test_a_profile_for_another_mode_is_ignored(self, mode: str, other: bytes) -> None:
        image = patches().convert(mode)
        np.testing.assert_array_equal(pixels(encode(image, "PNG", icc_profile=other)), np.asarray(image.convert("RGB")))


class TestIgnored:
    @pytest.mark.parametrize(
        "name", ["sRGB", "sRGB IEC61966-2.1", "x\0s\0R\0G\0B\0"], ids=["short", "usual", "wide letters"]
    )
    def test_an_srgb_profile_is_recognised_by_its_name_without_imagecms(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "PIL.ImageCms", None)
        srgb = rgb_profile(P3, name)
        assert conversion_of(srgb) is None
        np.testing.assert_array_equal(centres(pixels(encode(patches(), "PNG", icc_profile=srgb))), COLOURS)

    @pytest.mark.filterwarnings("error")
    def test_a_broken_profile_is_ignored(self) -> None:
        rng = np.random.default_rng(0)
        spoilt = [DISPLAY_P3[:cut] for cut in (0, 1, 100, 128, 131, 200, 300)]
        spoilt += [rng.bytes(400), b"\0" * 400, DISPLAY_P3 + bytes(MAX_BYTES), DISPLAY_P3.replace(b"RGB ", b"Luv ")]
        for _ in range(50):
            broken = bytearray(DISPLAY_P3)
            for at in rng.integers(len(broken), size=4):
                broken[at] = rng.integers(256)
            spoilt.append(bytes(broken))
        for broken, kind in itertools.product(spoilt, ("PNG", "JPEG")):
            if broken:
                assert open_photo(encode(patches(), kind, icc_profile=bytes(broken))).size == (40, 8)
        for broken in spoilt[:11]:
            assert conversion_of(broken) is None

    def test_a_profile_chunk_that_cannot_be_decompressed_is_ignored(self) -> None:
        cut = b"x\0\0" + zlib.compress(DISPLAY_P3)[:-20]
        for body in (b"", b"name", b"name\0\0", b"name\0\0nothing deflated", cut):
            data = png(1, 1, 8, 2, b"\0abc", chunk(b"iCCP", body))
            assert pixels(data).tolist() == [[[97, 98, 99]]]

    @pytest.mark.parametrize("kind", [b"link", b"nmcl", b"abst"])
    def test_device_links_named_colours_and_abstract_profiles_are_ignored(self, kind: bytes) -> None:
        assert conversion_of(DISPLAY_P3.replace(b"mntr", kind)) is None

    def test_a_profile_with_a_chain_of_processing_elements_is_ignored(self) -> None:
        tags = {b"desc": text("chain"), b"D2B0": b"mpet", b"rTRC": gamma(2.0)}
        assert conversion_of(profile(b"RGB ", tags)) is None

    def test_a_profile_is_prepared_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        conversion_of.cache_clear()
        built = []
        build = ImageCms.buildTransform
        monkeypatch.setattr(ImageCms, "buildTransform", lambda *a: (built.append(a), build(*a))[1])
        data = encode(patches(), "PNG", icc_profile=DISPLAY_P3)
        for _ in range(3):
            open_photo(io.BytesIO(data))
        assert len(built) == 1

    def test_colour_management_is_not_loaded_for_a_photo_without_a_profile(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "PIL.ImageCms", None)
        monkeypatch.setattr("caprun.photos.reading.conversion_of", lambda _: pytest.fail("looked for a profile"))
        for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
            open_photo(encode(patches(), kind))
