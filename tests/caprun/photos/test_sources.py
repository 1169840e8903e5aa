"""Photos are read upright from paths, bytes, open files and PIL images."""

import io
import os
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from caprun.errors import ImageError, TooLargeError
from caprun.photos.file import Photo
from caprun.photos.preprocessing import load, prepare
from caprun.photos.reading import open_photo
from tests.caprun.photos.support.encoding import UInt8, encode, pixels, spec


class TestSources:
    def test_path_string_bytes_file_and_pil_image_give_the_same_array(
        self, picture: Image.Image, tmp_path: Path
    ) -> None:
        path = tmp_path / "photo.png"
        picture.save(path)
        expected = prepare(picture, spec())
        with path.open("rb") as file, Image.open(path) as lazy:
            photos: list[Photo] = [path, str(path), path.read_bytes(), file, io.BytesIO(path.read_bytes()), lazy]
            for photo in photos:
                np.testing.assert_array_equal(load(photo, spec()), expected, err_msg=repr(photo))

    def test_a_file_object_is_read_from_its_start(self, picture: Image.Image) -> None:
        file = io.BytesIO()
        picture.save(file, "PNG")
        np.testing.assert_array_equal(pixels(file), np.asarray(picture))

    def test_a_pipe_is_read_although_it_cannot_seek(self, picture: Image.Image) -> None:
        ends = os.pipe()
        with os.fdopen(ends[1], "wb") as writer:
            writer.write(encode(picture, "PNG"))
        with os.fdopen(ends[0], "rb") as reader:
            np.testing.assert_array_equal(pixels(reader), np.asarray(picture))

    def test_the_format_is_detected_from_the_content_not_the_name(self, picture: Image.Image, tmp_path: Path) -> None:
        path = tmp_path / "photo.jpg"
        picture.save(path, "PNG")
        np.testing.assert_array_equal(pixels(path), np.asarray(picture))

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
    def test_five_formats_are_read(self, picture: Image.Image, kind: str) -> None:
        assert np.abs(pixels(encode(picture, kind)).astype(int) - np.asarray(picture)).mean() < 8

    @pytest.mark.parametrize("kind", ["TIFF", "PPM", "ICO", "EPS", "PDF", "TGA"])
    def test_other_formats_are_refused(self, picture: Image.Image, kind: str) -> None:
        with pytest.raises(ImageError, match="is not a JPEG, PNG, WebP, GIF, BMP, HEIC or AVIF image"):
            open_photo(encode(picture, kind))

    def test_a_multi_picture_jpeg_gives_its_first_picture(self, picture: Image.Image, tmp_path: Path) -> None:
        data = encode(picture, "MPO", save_all=True, append_images=[picture.rotate(180)])
        path = tmp_path / "phone.jpg"
        path.write_bytes(data)
        with Image.open(io.BytesIO(data)) as pillow:
            assert pillow.format == "MPO"
            np.testing.assert_array_equal(pixels(path), np.asarray(pillow))
        assert np.abs(pixels(path).astype(int) - np.asarray(picture)).mean() < 8

    def test_a_damaged_multi_picture_index_causes_no_error_or_warning(self, picture: Image.Image) -> None:
        data = encode(picture, "MPO", save_all=True, append_images=[picture])
        tag_of_the_count = struct.pack("<H", 0xB001)
        damaged = data.replace(tag_of_the_count, bytes(2), 1)
        with pytest.warns(UserWarning, match="malformed MPO"):
            Image.open(io.BytesIO(damaged))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_array_equal(pixels(damaged), pixels(data))

    @pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
    def test_an_animation_gives_its_first_frame(self, kind: str) -> None:
        frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        assert (pixels(data) == (255, 0, 0)).all()

    def test_an_upright_rgb_pil_image_is_not_copied(self, picture: Image.Image) -> None:
        picture.info["comment"] = "mine"
        assert open_photo(picture) is picture
        assert picture.info == {"comment": "mine"}

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
    def test_a_pixel_limit_that_other_code_set_in_pillow_is_ignored(
        self, picture: Image.Image, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
        assert open_photo(encode(picture, kind)).size == picture.size

    def test_pillows_own_limit_for_webp_is_named(self, picture: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
        with pytest.raises(TooLargeError, match=r"MAX_IMAGE_PIXELS` allows; scale it down first\.$"):
            open_photo(encode(picture, "WEBP"))

    def test_a_pil_image_is_not_altered(self, picture: Image.Image) -> None:
        image = picture.convert("RGBA")
        image.putalpha(100)
        exif = image.getexif()
        exif[ExifTags.Base.Orientation] = 6
        image.info["comment"] = "mine"
        before = image.tobytes()
        assert open_photo(image).size == (30, 40)
        assert (image.mode, image.size, image.info, image.tobytes()) == ("RGBA", (40, 30), {"comment": "mine"}, before)


class TestOrientation:
    AS_STORED: ClassVar[dict[int, Callable[[UInt8], UInt8]]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
    def test_every_orientation_gives_the_same_upright_picture(
        self, picture: Image.Image, orientation: int, kind: str
    ) -> None:
        stored = Image.fromarray(np.ascontiguousarray(self.AS_STORED[orientation](np.asarray(picture))))
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        data = encode(stored, kind, exif=exif, quality=95)
        upright = pixels(data)
        assert upright.shape == (30, 40, 3)
        assert np.abs(upright.astype(int) - np.asarray(picture)).mean() < 4

    def test_an_orientation_in_the_xmp_of_a_png_is_applied(self, picture: Image.Image) -> None:
        notes = PngInfo()
        notes.add_itxt("XML:com.adobe.xmp", '<rdf:Description tiff:Orientation="6"/>')
        data = encode(picture, "PNG", pnginfo=notes)
        assert open_photo(data).size == (picture.height, picture.width)
        np.testing.assert_array_equal(pixels(data), pixels(Image.open(io.BytesIO(data))))

    def test_an_opened_photo_is_not_turned_again(self, picture: Image.Image) -> None:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        once = open_photo(encode(picture, "PNG", exif=exif))
        np.testing.assert_array_equal(pixels(once), np.asarray(once))

    @pytest.mark.parametrize(
        "exif",
        [b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x03\0\0\0\x01", b"Exif\0\0II", b"Exif\0\0no exif at all", b"x"],
        ids=["cut", "short", "noise", "no header"],
    )
    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
    def test_damaged_exif_causes_no_error_or_warning(self, picture: Image.Image, kind: str, exif: bytes) -> None:
        expected = pixels(encode(picture, kind, quality=90))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            np.testing.assert_array_equal(pixels(encode(picture, kind, exif=exif, quality=90)), expected)
        assert not caught

    @pytest.mark.parametrize("orientation", [0, 9, 65535])
    def test_an_invalid_orientation_is_ignored(self, picture: Image.Image, orientation: int) -> None:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        np.testing.assert_array_equal(pixels(encode(picture, "PNG", exif=exif)), np.asarray(picture))
