"""Preprocessing returns the array that the model sees, and `seen_box` the part of the photo that it shows."""

import io
import struct
from dataclasses import replace

import numpy as np
import pytest
from PIL import ExifTags, Image

from caprun.errors import ImageError, TooLargeError
from caprun.photos.preprocessing import ImageSpec, load, prepare, seen_box
from caprun.photos.reading import AtLeast, open_photo
from tests.caprun.photos.support.encoding import encode, spec


class TestPrepare:
    @pytest.mark.parametrize("fit", ["squash", "crop"])
    @pytest.mark.parametrize("size", [(1, 1), (1, 50_000), (50_000, 1), (48, 32), (47, 33), (7, 300)])
    @pytest.mark.parametrize("resample", ["bilinear", "bicubic", "lanczos"])
    def test_the_array_is_uint8_contiguous_writable_and_of_the_specs_size(
        self, size: tuple[int, int], fit: str, resample: str
    ) -> None:
        array = prepare(Image.new("RGB", size, (1, 2, 3)), spec(32, 48, fit, resample))
        assert array.shape == (32, 48, 3)
        assert array.dtype == np.uint8
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert (array == (1, 2, 3)).all()

    def stripes(self, width: int, height: int) -> Image.Image:
        """Draws green with a red fifth on the left or top and a blue fifth on the right or bottom."""
        array = np.zeros((height, width, 3), np.uint8)
        array[..., 1] = 255
        along = array if height > width else array.transpose(1, 0, 2)
        fifth = max(width, height) // 5
        along[:fifth] = (255, 0, 0)
        along[-fifth:] = (0, 0, 255)
        return Image.fromarray(array)

    @pytest.mark.parametrize("size", [(100, 20), (20, 100)])
    def test_squash_shows_the_whole_photo(self, size: tuple[int, int]) -> None:
        array = prepare(self.stripes(*size), spec(20, 20))
        assert array[0, 0].tolist() == [255, 0, 0]
        assert array[-1, -1].tolist() == [0, 0, 255]

    @pytest.mark.parametrize("size", [(100, 60), (60, 100)])
    def test_crop_shows_the_centre_and_keeps_its_aspect_ratio(self, size: tuple[int, int]) -> None:
        array = prepare(self.stripes(*size), spec(30, 30, "crop"))
        assert (array[2:-2, 2:-2] == (0, 255, 0)).all(), "the middle three fifths"
        assert array[..., 1].min() > 200, "and of what is beyond them, only what the filter touches"

    @pytest.mark.parametrize("resample", ["bilinear", "bicubic", "lanczos"])
    def test_crop_equals_scaling_the_short_side_and_cutting_out_the_centre(self, resample: str) -> None:
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8))
        scaled = prepare(noise, spec(30, 40, "squash", resample))
        np.testing.assert_array_equal(prepare(noise, spec(30, 30, "crop", resample)), scaled[:, 5:35])

    def test_crop_keeps_all_of_a_photo_with_the_models_aspect_ratio(self, picture: Image.Image) -> None:
        np.testing.assert_array_equal(prepare(picture, spec(15, 20, "crop")), prepare(picture, spec(15, 20, "squash")))

    @pytest.mark.parametrize(
        ("resample", "filter_"),
        [
            ("bilinear", Image.Resampling.BILINEAR),
            ("bicubic", Image.Resampling.BICUBIC),
            ("lanczos", Image.Resampling.LANCZOS),
        ],
    )
    def test_the_resampling_filter_is_the_one_that_the_spec_names(
        self, resample: str, filter_: Image.Resampling
    ) -> None:
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8))
        np.testing.assert_array_equal(
            prepare(noise, spec(resample=resample)), np.asarray(noise.resize((48, 32), filter_))
        )

    def test_an_image_of_the_right_size_is_not_resampled(self, monkeypatch: pytest.MonkeyPatch) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
        monkeypatch.setattr(Image.Image, "resize", lambda *_, **__: pytest.fail("resampled"))
        for fit in ("squash", "crop"):
            np.testing.assert_array_equal(prepare(Image.fromarray(noise), spec(fit=fit)), noise)

    def test_a_large_jpeg_is_decoded_in_full_by_default(self) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (320, 480, 3), np.uint8)
        data = encode(Image.fromarray(noise), "JPEG")
        with Image.open(io.BytesIO(data)) as whole:
            expected = np.asarray(whole.resize((48, 32), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(load(data, spec()), expected)

    def test_prepare_refuses_an_image_that_is_not_rgb(self) -> None:
        with pytest.raises(ImageError, match="RGBA"):
            prepare(Image.new("RGBA", (48, 32)), spec())

    def test_load_uses_the_given_name_in_messages(self) -> None:
        with pytest.raises(ImageError, match=r"^upload 3 is empty"):
            load(b"", spec(), name="upload 3")


class TestScaledJpegs:
    def photo(self, width: int, height: int, kind: str = "JPEG", orientation: int = 1) -> bytes:
        """Draws waves, which look the same at every scale."""
        y, x = np.mgrid[0:height, 0:width]
        waves = [np.sin(2 * np.pi * (a * x / width + b * y / height)) for a, b in ((1, 2), (3, 1), (0, 1))]
        image = Image.fromarray((np.stack(waves, axis=-1) * 90 + 128).astype(np.uint8))
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        return encode(image, kind, quality=95, exif=exif)

    def scaled(self, fit: str = "squash") -> ImageSpec:
        return replace(spec(32, 48, fit), jpeg_decoding="scaled")

    @pytest.mark.parametrize(
        ("size", "expected"),
        [
            ((1600, 1600), (200, 200)),
            ((576, 384), (72, 48)),
            ((575, 384), (144, 96)),
            ((480, 320), (120, 80)),
            ((144, 96), (72, 48)),
            ((143, 400), (143, 400)),
            ((3000, 94), (3000, 94)),
        ],
        ids=["1/8", "just 1/8", "not quite 1/8", "1/4", "just 1/2", "narrow", "flat"],
    )
    def test_both_sides_keep_at_least_1_5_times_the_models_input(
        self, size: tuple[int, int], expected: tuple[int, int]
    ) -> None:
        assert open_photo(self.photo(*size), at_least=self.scaled().at_least).size == expected

    @pytest.mark.parametrize("orientation", [3, 6])
    def test_the_minimum_size_applies_to_the_upright_photo(self, orientation: int) -> None:
        upright = open_photo(self.photo(512, 768, orientation=orientation), at_least=AtLeast(96, 64))
        assert upright.size == ((96, 64) if orientation == 6 else (128, 192))

    @pytest.mark.parametrize("fit", ["squash", "crop"])
    @pytest.mark.parametrize(("size", "close"), [((1600, 800), 1), ((801, 1603), 3)], ids=["whole", "with a rest"])
    def test_scaled_and_full_decoding_give_almost_the_same_array(
        self, size: tuple[int, int], close: float, fit: str
    ) -> None:
        data, scaled = self.photo(*size), self.scaled(fit)
        full = load(data, replace(scaled, jpeg_decoding="full")).astype(int)
        assert np.abs(load(data, scaled) - full).mean() < close
        assert seen_box(open_photo(data, at_least=scaled.at_least).size, scaled) == pytest.approx(
            seen_box(size, scaled), abs=0.005
        )

    def test_only_jpegs_are_scaled(self) -> None:
        for kind in ("PNG", "WEBP"):
            assert open_photo(self.photo(480, 320, kind), at_least=AtLeast(96, 64)).size == (480, 320)

    def test_a_small_photo_gives_the_same_array_with_either_decoding(self) -> None:
        data = self.photo(142, 94)
        np.testing.assert_array_equal(load(data, self.scaled()), load(data, spec()))

    def test_the_pixel_limit_applies_to_the_unscaled_photo(self) -> None:
        data = self.photo(64, 64).replace(struct.pack(">HH", 64, 64), struct.pack(">HH", 8_000, 8_000))
        with pytest.raises(TooLargeError, match="8000 x 8000 pixels, more than 50 megapixels"):
            load(data, self.scaled())


class TestSeenBox:
    def test_squash_sees_the_whole_photo(self) -> None:
        assert seen_box((400, 30), spec()) == (0, 0, 1, 1)

    @pytest.mark.parametrize(
        ("size", "expected"),
        [
            ((100, 60), (0.2, 0, 0.8, 1)),
            ((60, 100), (0, 0.2, 1, 0.8)),
            ((70, 70), (0, 0, 1, 1)),
            ((1, 1), (0, 0, 1, 1)),
        ],
    )
    def test_crop_sees_the_centre(self, size: tuple[int, int], expected: tuple[float, ...]) -> None:
        assert seen_box(size, spec(30, 30, "crop")) == pytest.approx(expected)

    @pytest.mark.parametrize("size", [(1, 50_000), (50_000, 1), (3, 7), (1009, 1013), (333, 77)])
    def test_the_box_stays_within_the_photo(self, size: tuple[int, int]) -> None:
        for height, width in [(224, 224), (260, 260), (31, 17), (1, 999)]:
            left, top, right, bottom = seen_box(size, spec(height, width, "crop"))
            assert 0 <= left < right <= 1
            assert 0 <= top < bottom <= 1
