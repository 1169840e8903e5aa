"""Preprocessing makes the array that the model sees, of a known part of the photo."""

import io

import numpy as np
import pytest
from PIL import Image

from caprun.errors import ImageError
from caprun.photos.preprocessing import load, prepare, seen_box
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
        """Red left fifth and blue right fifth (or top and bottom) around green."""
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
    def test_crop_shows_the_centre_in_its_own_aspect(self, size: tuple[int, int]) -> None:
        array = prepare(self.stripes(*size), spec(30, 30, "crop"))
        assert (array[2:-2, 2:-2] == (0, 255, 0)).all(), "the middle three fifths"
        assert array[..., 1].min() > 200, "and of what is beyond them, only what the filter touches"

    @pytest.mark.parametrize("resample", ["bilinear", "bicubic", "lanczos"])
    def test_crop_equals_scaling_the_short_side_and_cutting_out_the_centre(self, resample: str) -> None:
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8))
        scaled = prepare(noise, spec(30, 40, "squash", resample))
        np.testing.assert_array_equal(prepare(noise, spec(30, 30, "crop", resample)), scaled[:, 5:35])

    def test_crop_keeps_all_of_a_photo_that_has_the_aspect(self, picture: Image.Image) -> None:
        np.testing.assert_array_equal(prepare(picture, spec(15, 20, "crop")), prepare(picture, spec(15, 20, "squash")))

    @pytest.mark.parametrize(
        ("resample", "filter_"),
        [
            ("bilinear", Image.Resampling.BILINEAR),
            ("bicubic", Image.Resampling.BICUBIC),
            ("lanczos", Image.Resampling.LANCZOS),
        ],
    )
    def test_the_resampler_is_the_one_named(self, resample: str, filter_: Image.Resampling) -> None:
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8))
        np.testing.assert_array_equal(
            prepare(noise, spec(resample=resample)), np.asarray(noise.resize((48, 32), filter_))
        )

    def test_an_image_of_the_right_size_is_not_resampled(self, monkeypatch: pytest.MonkeyPatch) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
        monkeypatch.setattr(Image.Image, "resize", lambda *_, **__: pytest.fail("resampled"))
        for fit in ("squash", "crop"):
            np.testing.assert_array_equal(prepare(Image.fromarray(noise), spec(fit=fit)), noise)

    def test_a_large_jpeg_is_decoded_whole_and_not_in_draft(self) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (320, 480, 3), np.uint8)
        data = encode(Image.fromarray(noise), "JPEG")
        with Image.open(io.BytesIO(data)) as whole:
            expected = np.asarray(whole.resize((48, 32), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(load(data, spec()), expected)

    def test_an_image_that_was_not_opened_as_a_photo_is_refused(self) -> None:
        with pytest.raises(ImageError, match="RGBA"):
            prepare(Image.new("RGBA", (48, 32)), spec())

    def test_load_passes_the_name_on(self) -> None:
        with pytest.raises(ImageError, match=r"^upload 3 is empty"):
            load(b"", spec(), name="upload 3")


class TestSeenBox:
    def test_squash_sees_everything(self) -> None:
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
    def test_it_never_leaves_the_photo(self, size: tuple[int, int]) -> None:
        for height, width in [(224, 224), (260, 260), (31, 17), (1, 999)]:
            left, top, right, bottom = seen_box(size, spec(height, width, "crop"))
            assert 0 <= left < right <= 1
            assert 0 <= top < bottom <= 1
