"""What counts as a photo, what it becomes, and what is said of everything else."""

import io
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pytest
from PIL import ExifTags, Image, ImageCms, ImageFile, JpegImagePlugin

from caprun.errors import ImageError
from caprun.image import ImageSpec, Photo, load, open_photo, prepare, seen_box

UInt8 = npt.NDArray[np.uint8]


def spec(height: int = 32, width: int = 48, fit: str = "squash", resample: str = "bilinear") -> ImageSpec:
    return ImageSpec(height, width, fit, resample, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))  # type: ignore[arg-type]


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(photo: Photo) -> UInt8:
    return np.asarray(open_photo(photo))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *between: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(between) + data


def gif(canvas: tuple[int, int], frame: tuple[int, int]) -> bytes:
    palette = b"\x00\x00\x00\xff\xff\xff"
    header = b"GIF89a" + struct.pack("<HHBBB", *canvas, 0x80, 0, 0) + palette
    return header + b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x4c\x01\x00;"


def webp(width: int, height: int) -> bytes:
    """An animation, because the frame of a still picture must fill the canvas."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = bytearray(encode(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    assert data[12:16] == b"VP8X"
    data[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(data)


def bmp(width: int, height: int) -> bytes:
    data = bytearray(encode(Image.new("RGB", (2, 2)), "BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


@pytest.fixture
def picture() -> Image.Image:
    """40 wide, 30 high, no symmetry; smooth, so that JPEG keeps it."""
    y, x = np.mgrid[0:30, 0:40]
    return Image.fromarray(np.stack([x * 6, y * 8, (x + y) * 3], axis=-1).astype(np.uint8))


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

    def test_a_pipe_is_read_although_it_cannot_go_back(self, picture: Image.Image) -> None:
        ends = os.pipe()
        with os.fdopen(ends[1], "wb") as writer:
            writer.write(encode(picture, "PNG"))
        with os.fdopen(ends[0], "rb") as reader:
            np.testing.assert_array_equal(pixels(reader), np.asarray(picture))

    def test_the_content_decides_and_not_the_name(self, picture: Image.Image, tmp_path: Path) -> None:
        path = tmp_path / "photo.jpg"
        picture.save(path, "PNG")
        np.testing.assert_array_equal(pixels(path), np.asarray(picture))

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
    def test_five_formats_are_read(self, picture: Image.Image, kind: str) -> None:
        assert np.abs(pixels(encode(picture, kind)).astype(int) - np.asarray(picture)).mean() < 8

    @pytest.mark.parametrize("kind", ["TIFF", "PPM", "ICO", "EPS", "PDF", "TGA"])
    def test_other_formats_are_refused(self, picture: Image.Image, kind: str) -> None:
        with pytest.raises(ImageError, match="is not a JPEG, PNG, WebP, GIF or BMP image"):
            open_photo(encode(picture, kind))

    def test_a_multi_picture_jpeg_gives_its_first_picture(self, picture: Image.Image, tmp_path: Path) -> None:
        data = encode(picture, "MPO", save_all=True, append_images=[picture.rotate(180)])
        path = tmp_path / "phone.jpg"
        path.write_bytes(data)
        with Image.open(io.BytesIO(data)) as pillow:
            assert pillow.format == "MPO"
            np.testing.assert_array_equal(pixels(path), np.asarray(pillow))
        assert np.abs(pixels(path).astype(int) - np.asarray(picture)).mean() < 8

    def test_a_damaged_multi_picture_index_neither_fails_a_jpeg_nor_warns(self, picture: Image.Image) -> None:
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
    def test_a_limit_that_others_gave_pillow_is_not_ours(
        self, picture: Image.Image, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
        assert open_photo(encode(picture, kind)).size == picture.size

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

    def test_it_is_applied_once_however_often_the_photo_is_opened(self, picture: Image.Image) -> None:
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
    def test_damaged_exif_neither_fails_a_photo_nor_warns(self, picture: Image.Image, kind: str, exif: bytes) -> None:
        expected = pixels(encode(picture, kind, quality=90))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            np.testing.assert_array_equal(pixels(encode(picture, kind, exif=exif, quality=90)), expected)
        assert not caught

    @pytest.mark.parametrize("orientation", [0, 9, 65535])
    def test_an_orientation_that_does_not_exist_is_ignored(self, picture: Image.Image, orientation: int) -> None:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        np.testing.assert_array_equal(pixels(encode(picture, "PNG", exif=exif)), np.asarray(picture))


class TestTransparency:
    def half_clear(self, mode: str) -> Image.Image:
        """Black; opaque on the left, half transparent in the middle, clear on the right."""
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
    def test_one_clear_palette_entry_becomes_white(self, kind: str) -> None:
        data = encode(self.palette_image(), kind, transparency=1)
        assert pixels(data)[0].tolist() == [[200, 0, 0], [255, 255, 255], [0, 0, 50]]

    def test_half_clear_palette_entries_are_composited(self) -> None:
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

    def test_it_is_composited_once_however_often_the_photo_is_opened(self) -> None:
        """White is a photo's own colour after compositing, even where it was the colour meant to be clear."""
        once = open_photo(encode(Image.new("RGB", (2, 2), (7, 8, 9)), "PNG", transparency=(255, 255, 255)))
        assert not once.has_transparency_data
        assert open_photo(once) is once


class TestModes:
    @pytest.mark.parametrize("depth", ["file", "I;16", "I;16B", "I;16L", "I"])
    def test_a_16_bit_gradient_stays_a_gradient(self, depth: str) -> None:
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

    def test_a_16_bit_grey_and_a_16_bit_colour_png_of_the_same_picture_agree(self) -> None:
        values = np.linspace(0, 65535, 256).astype(">u2")
        grey = png(256, 1, 16, 0, b"\0" + values.tobytes())
        colour = png(256, 1, 16, 2, b"\0" + np.repeat(values, 3).tobytes())
        np.testing.assert_array_equal(pixels(grey), pixels(colour))

    def test_integers_outside_16_bits_are_black_or_white(self) -> None:
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
    def test_floats_are_rescaled_by_the_smallest_range_that_holds_them(
        self, values: list[float], expected: list[int]
    ) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = pixels(Image.fromarray(np.array([values], np.float32)))
        np.testing.assert_array_equal(found[0], np.repeat(np.array(expected)[:, None], 3, axis=1))

    @pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "RGBX", "LAB"])
    def test_other_modes_become_the_same_colours(self, mode: str) -> None:
        red = Image.new("RGB", (4, 4), (255, 255, 255) if mode in ("1", "L") else (200, 30, 40))
        if mode == "LAB":
            srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
            image = ImageCms.profileToProfile(red, srgb, lab, outputMode="LAB")
            assert image is not None
        else:
            image = red.quantize(2) if mode == "P" else red.convert(mode)
        assert image.mode == mode
        assert np.abs(pixels(image).astype(int) - np.asarray(red)).max() <= 6

    def test_an_adobe_cmyk_jpeg_is_not_a_negative(self) -> None:
        red = Image.new("RGB", (16, 16), (200, 30, 40))
        data = encode(red.convert("CMYK"), "JPEG", quality=95)
        assert b"Adobe" in data
        assert np.abs(pixels(data).astype(int) - np.asarray(red)).max() < 8


class TestRefusals:
    """Each is one sentence that names the photo, what is wrong, and what to do."""

    def refusal(self, photo: Photo, name: str | None = None) -> str:
        with pytest.raises(ImageError) as caught:
            open_photo(photo, name=name)
        message = str(caught.value)
        assert "\n" not in message
        assert "; " in message, "it says what to do"
        return message

    def test_no_such_file(self, tmp_path: Path) -> None:
        path = tmp_path / "absent.jpg"
        assert self.refusal(path) == f"{path} does not exist; check the path"

    def test_a_folder(self, tmp_path: Path) -> None:
        assert self.refusal(tmp_path).startswith(f"{tmp_path} is a folder")

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
    def test_a_fifo_without_waiting_for_a_writer(self, tmp_path: Path) -> None:
        path = tmp_path / "fifo.jpg"
        os.mkfifo(path)
        messages: list[str] = []
        thread = threading.Thread(target=lambda: messages.append(self.refusal(path)), daemon=True)
        thread.start()
        thread.join(timeout=10)
        assert messages, "it blocked"
        assert messages[0].startswith(f"{path} is not a regular file")

    def test_an_empty_file(self, tmp_path: Path) -> None:
        path = tmp_path / "empty.png"
        path.touch()
        assert self.refusal(path).startswith(f"{path} is empty")

    def test_text_named_jpg(self, tmp_path: Path) -> None:
        path = tmp_path / "letter.jpg"
        path.write_text("Dear Sir or Madam")
        assert self.refusal(path).startswith(f"{path} is not a JPEG, PNG, WebP, GIF or BMP image")

    def test_a_sound_file_that_begins_like_a_webp(self) -> None:
        assert "is not a JPEG" in self.refusal(b"RIFF\x24\0\0\0WAVEfmt " + bytes(24))

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
    def test_a_file_cut_short(self, kind: str, tmp_path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        data = encode(Image.fromarray(noise), kind)
        path = tmp_path / "cut.jpg"
        for kept in (0.02, 0.1, 0.5, 0.9):
            path.write_bytes(data[: int(len(data) * kept)])
            assert self.refusal(path).startswith(f"{path} is damaged or incomplete")

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
    def test_whatever_hostile_bytes_lead_to_is_an_image_error(self, picture: Image.Image, kind: str) -> None:
        data = encode(picture, kind)
        random = np.random.default_rng(0)
        for _ in range(150):
            hostile = bytearray(data)
            for position in random.integers(2, len(data), 6):
                hostile[position] = random.integers(256)
            try:
                image = open_photo(bytes(hostile))
            except ImageError:
                continue
            assert image.mode == "RGB"

    def test_permission_denied(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "secret.jpg"
        path.write_bytes(b"x")

        def refuse(*_: object) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "open", refuse)
        assert self.refusal(path).startswith(f"{path} may not be read by this user")

    def test_a_disk_that_fails(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "photo.jpg"
        path.write_bytes(b"x")

        def fail(*_: object) -> None:
            raise OSError(5, "Input/output error", str(path))

        monkeypatch.setattr(Path, "open", fail)
        assert self.refusal(path).startswith(f"{path} cannot be read (Input/output error)")

    def test_a_path_that_no_file_can_have(self) -> None:
        assert "cannot be read" in self.refusal("a\0b.jpg")

    def test_a_file_opened_as_text(self) -> None:
        assert "binary mode" in self.refusal(io.StringIO("GIF89a"))  # type: ignore[arg-type]

    def test_a_closed_file(self) -> None:
        file = io.BytesIO(b"x")
        file.close()
        assert "cannot be read" in self.refusal(file)

    def test_something_that_is_no_photo_at_all(self) -> None:
        assert "is of type list; give a path" in self.refusal([1, 2])  # type: ignore[arg-type]

    def test_an_image_without_pixels(self) -> None:
        assert "no pixels (0 x 5)" in self.refusal(Image.new("RGB", (0, 5)))

    @pytest.mark.parametrize(
        "data",
        [
            png(100_000, 100_000, 8, 2, b""),
            png(10_000, 9_000, 8, 2, b""),
            png(7_072, 7_072, 8, 2, b""),
            gif((60_000, 60_000), (1, 1)),
            gif((10, 10), (10_000, 10_000)),
            gif((10, 10), (65_000, 65_000)),
            webp(9_000, 9_000),
            webp(16_384, 16_384),
            bmp(10_000, 9_000),
            bmp(100_000, 100_000),
        ],
        ids=[
            "png 10G",
            "png 90M",
            "png 50.01M",
            "gif",
            "gif frame",
            "gif big frame",
            "webp",
            "webp 268M",
            "bmp",
            "bmp 10G",
        ],
    )
    def test_too_many_pixels_before_any_is_decoded(self, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("pixels were decoded"))
        limit = Image.MAX_IMAGE_PIXELS
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert "more than 50 megapixels" in self.refusal(data)
        assert limit == Image.MAX_IMAGE_PIXELS

    def test_fifty_megapixels_are_not_too_many(self) -> None:
        """Black lines of one colour bit: the file is small, and the limit is not."""
        data = png(10_000, 5_000, 1, 0, bytes(5_000 * (1 + 1_250)))
        assert open_photo(data).size == (10_000, 5_000)

    def test_a_pil_image_of_too_many_pixels(self) -> None:
        assert "50001 x 1000 pixels" in self.refusal(Image.new("1", (50_001, 1_000)))

    def test_a_file_too_long_for_any_photo(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("caprun.image.MAX_BYTES", 2**20)
        path = tmp_path / "film.jpg"
        with path.open("wb") as file:
            file.write(b"\xff\xd8\xff")
            file.truncate(2**20 + 1)
        assert self.refusal(path).startswith(f"{path} is larger than 1 MiB")

    def test_not_enough_memory(self, picture: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
        def exhaust(_: object) -> None:
            raise MemoryError

        monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", exhaust)
        assert "does not fit in the memory" in self.refusal(encode(picture, "JPEG"))

    def test_without_a_path_it_is_called_the_photo(self) -> None:
        assert self.refusal(b"").startswith("the photo is empty")

    def test_a_file_object_is_called_by_its_name(self, tmp_path: Path) -> None:
        path = tmp_path / "letter.txt"
        path.write_text("Dear Sir or Madam")
        with path.open("rb") as file:
            assert self.refusal(file).startswith(f"{path} is not")

    def test_a_name_given_takes_the_place_of_the_path(self, tmp_path: Path) -> None:
        assert self.refusal(tmp_path / "tmp123", name="upload 3").startswith("upload 3 does not exist")

    def test_a_name_of_several_lines_is_shown_on_one(self) -> None:
        assert self.refusal("two\nlines.jpg").startswith(r"'two\nlines.jpg' does not exist")


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


def test_photos_can_be_opened_from_many_threads_without_a_warning_filter_left_behind(picture: Image.Image) -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x03\0\0\0\x01"
    data = encode(picture, "JPEG", exif=exif)
    filters = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [open_photo(data) for _ in range(20)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == filters
