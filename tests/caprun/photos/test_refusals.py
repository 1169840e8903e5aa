"""Input that is not a readable photo is refused with an error that names the problem."""

import io
import os
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, JpegImagePlugin

from caprun.errors import ImageError
from caprun.photos.file import Photo
from caprun.photos.reading import open_photo
from tests.caprun.photos.support.encoding import encode, png
from tests.caprun.photos.support.hostile_bombs import bmp_of, gif_frame, gif_head, webp_frames


class TestRefusals:
    """Each message has one line and names the photo, the problem, and what to do."""

    def refusal(self, photo: Photo, name: str | None = None) -> str:
        with pytest.raises(ImageError) as caught:
            open_photo(photo, name=name)
        message = str(caught.value)
        assert "\n" not in message
        assert "; " in message, "it says what to do"
        return message

    def test_a_missing_file_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "absent.jpg"
        assert self.refusal(path) == f"{path} does not exist; check the path."

    def test_a_folder_is_refused(self, tmp_path: Path) -> None:
        assert self.refusal(tmp_path).startswith(f"{tmp_path} is a folder")

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
    def test_a_fifo_is_refused_without_waiting_for_a_writer(self, tmp_path: Path) -> None:
        path = tmp_path / "fifo.jpg"
        os.mkfifo(path)
        messages: list[str] = []
        thread = threading.Thread(target=lambda: messages.append(self.refusal(path)), daemon=True)
        thread.start()
        thread.join(timeout=60)
        assert messages, "it blocked"
        assert messages[0].startswith(f"{path} is not a regular file")

    def test_an_empty_file_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "empty.png"
        path.touch()
        assert self.refusal(path).startswith(f"{path} is empty")

    def test_text_named_jpg_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "letter.jpg"
        path.write_text("Dear Sir or Madam")
        assert self.refusal(path).startswith(f"{path} is not a JPEG, PNG, WebP, GIF, BMP, HEIC or AVIF image")

    def test_a_sound_file_that_starts_like_a_webp_is_refused(self) -> None:
        assert "is not a JPEG" in self.refusal(b"RIFF\x24\0\0\0WAVEfmt " + bytes(24))

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
    def test_a_truncated_file_is_refused_as_damaged(self, kind: str, tmp_path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        data = encode(Image.fromarray(noise), kind)
        path = tmp_path / "cut.jpg"
        for kept in (0.02, 0.1, 0.5, 0.9):
            path.write_bytes(data[: int(len(data) * kept)])
            assert self.refusal(path).startswith(f"{path} is damaged or incomplete")

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (PermissionError(13, "Permission denied"), "is not readable by this user"),
            (OSError(5, "Input/output error"), "cannot be read (Input/output error)"),
        ],
        ids=["permission denied", "a disk that fails"],
    )
    def test_a_file_that_cannot_be_opened_is_refused_with_the_reason(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, said: str
    ) -> None:
        path = tmp_path / "photo.jpg"
        path.write_bytes(b"x")

        def fail(*_: object) -> None:
            raise error

        monkeypatch.setattr(os, "open", fail)
        assert self.refusal(path).startswith(f"{path} {said}")

    def test_a_path_that_no_file_can_have_is_refused(self) -> None:
        assert "cannot be read" in self.refusal("a\0b.jpg")

    def test_a_file_opened_in_text_mode_is_refused(self) -> None:
        assert "binary mode" in self.refusal(io.StringIO("GIF89a"))  # type: ignore[arg-type]

    def test_a_closed_file_is_refused(self) -> None:
        file = io.BytesIO(b"x")
        file.close()
        assert "cannot be read" in self.refusal(file)

    def test_an_object_of_another_type_is_refused(self) -> None:
        assert "is of type list; pass a path" in self.refusal([1, 2])  # type: ignore[arg-type]

    def test_an_image_without_pixels_is_refused(self) -> None:
        assert "no pixels (0 x 5)" in self.refusal(Image.new("RGB", (0, 5)))

    @pytest.mark.parametrize(
        "data",
        [
            png(100_000, 100_000, 8, 2, b""),
            png(10_000, 9_000, 8, 2, b""),
            png(7_072, 7_072, 8, 2, b""),
            gif_head((60_000, 60_000), gif_frame((1, 1), b"\x4c\x01")),
            gif_head((10, 10), gif_frame((10_000, 10_000), b"\x4c\x01")),
            gif_head((10, 10), gif_frame((65_000, 65_000), b"\x4c\x01")),
            webp_frames((9_000, 9_000), 2),
            webp_frames((16_384, 16_384), 2),
            bmp_of(10_000, 9_000, 24, 0, b""),
            bmp_of(100_000, 100_000, 24, 0, b""),
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
    def test_too_many_pixels_are_refused_before_any_is_decoded(
        self, data: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("pixels were decoded"))
        limit = Image.MAX_IMAGE_PIXELS
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert "more than 50 megapixels" in self.refusal(data)
        assert limit == Image.MAX_IMAGE_PIXELS

    def test_fifty_megapixels_are_accepted(self) -> None:
        """The pixels are black, with one bit each, so the file is small."""
        data = png(10_000, 5_000, 1, 0, bytes(5_000 * (1 + 1_250)))
        assert open_photo(data).size == (10_000, 5_000)

    def test_a_pil_image_with_too_many_pixels_is_refused(self) -> None:
        assert "50001 x 1000 pixels" in self.refusal(Image.new("1", (50_001, 1_000)))

    def test_a_file_with_too_many_bytes_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("caprun.photos.file.MAX_BYTES", 2**20)
        path = tmp_path / "film.jpg"
        with path.open("wb") as file:
            file.write(b"\xff\xd8\xff")
            file.truncate(2**20 + 1)
        assert self.refusal(path).startswith(f"{path} is larger than 1 MiB")

    def test_a_photo_that_does_not_fit_in_the_free_memory_is_refused(
        self, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def exhaust(_: object) -> None:
            raise MemoryError

        monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", exhaust)
        assert "does not fit in the free memory" in self.refusal(encode(picture, "JPEG"))

    def test_a_photo_without_a_path_is_called_the_photo(self) -> None:
        assert self.refusal(b"").startswith("the photo is empty")

    def test_a_file_object_is_called_by_its_name(self, tmp_path: Path) -> None:
        path = tmp_path / "letter.txt"
        path.write_text("Dear Sir or Madam")
        with path.open("rb") as file:
            assert self.refusal(file).startswith(f"{path} is not")

    def test_a_given_name_replaces_the_path_in_the_message(self, tmp_path: Path) -> None:
        assert self.refusal(tmp_path / "tmp123", name="upload 3").startswith("upload 3 does not exist")

    def test_a_name_with_a_line_break_is_quoted_on_one_line(self) -> None:
        assert self.refusal("two\nlines.jpg").startswith(r"'two\nlines.jpg' does not exist")
