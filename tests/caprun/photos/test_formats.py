"""Decoders get only the pixel data of a photo, and large metadata takes no time."""

import io
import itertools
import struct
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from caprun.errors import FormatError, ImageError, TooLargeError
from caprun.photos import decoding, preprocessing
from caprun.photos.formats import take_apart
from caprun.photos.picture import Picture
from caprun.photos.reading import MAX_MEMORY, AtLeast, open_photo
from tests.caprun.photos.support.encoding import chunk, encode, pixels
from tests.caprun.photos.support.hostile import broken_exif, by_mode, modes_and_orientations, picture
from tests.caprun.photos.support.hostile_bombs import (
    bmp_of,
    empty_blocks,
    flat_jpeg,
    flat_png,
    gif_frame,
    gif_head,
    greedy_exif,
    jpeg_head,
    many_scans_jpeg,
    png_of,
    riff,
    riff_chunk,
    scan,
    segment,
    table,
    turned_exif,
)

KINDS = {"jpg": "Jpeg", "png": "Png", "webp": "WebP", "gif": "Gif", "bmp": "Bmp"}


def apart(name: str, data: bytes) -> Picture:
    return take_apart(KINDS[name.rpartition(".")[2]], data)


class TestPixels:
    def test_a_file_without_its_metadata_decodes_to_the_same_pixels(self) -> None:
        """Both are decoded with Pillow only, which turns neither of them."""
        for name, data in modes_and_orientations():
            whole, left = (Image.open(io.BytesIO(part)) for part in (data, apart(name, data).data))
            assert whole.size == left.size == apart(name, data).size, name
            assert (whole.mode, whole.tobytes()) == (left.mode, left.tobytes()), name
            assert whole.info.get("transparency") == left.info.get("transparency"), name

    @pytest.mark.parametrize(("kind", "name"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")])
    def test_all_metadata_is_removed(self, kind: str, name: str) -> None:
        mark = b"a mark that is nowhere else"
        data = encode(picture(), kind, exif=b"Exif\0\0" + mark, icc_profile=mark, comment=mark, xmp=mark)
        assert data.count(mark) >= 2 or kind == "PNG"
        assert mark not in apart(name, data).data

    def test_only_the_first_frame_is_kept(self) -> None:
        frames = [picture().rotate(angle) for angle in (90, 180)]
        for kind, name, mark in [("WEBP", "webp", b"ANMF"), ("PNG", "png", b"fdAT")]:
            data = encode(picture(), kind, save_all=True, append_images=frames)
            assert data.count(mark) >= 2
            assert apart(name, data).data.count(mark) <= 1

    @pytest.mark.parametrize("moving", [False, True])
    def test_a_webp_ends_where_its_header_declares(self, moving: bool) -> None:
        """A truncated photo is damaged even if only metadata is missing; trailing bytes are ignored."""
        frames = {"save_all": True, "append_images": [picture().rotate(90)]} if moving else {}
        data = encode(picture(), "WEBP", exif=b"Exif\0\0" + turned_exif(1), xmp=b"<x/>", **frames)
        for cut in (1, 5):
            with pytest.raises(ImageError, match="damaged or incomplete"):
                open_photo(data[:-cut])
        plain = encode(picture(), "WEBP", icc_profile=b"a profile", **frames)
        trailer = riff_chunk(b"EXIF", turned_exif(6)) + b"XMP \xff\xff\xff"
        np.testing.assert_array_equal(pixels(plain + trailer), pixels(plain))

    def test_a_file_with_nothing_to_remove_is_not_copied(self) -> None:
        for kind, name in [("JPEG", "jpg"), ("PNG", "png"), ("BMP", "bmp")]:
            data = encode(picture(), kind)
            assert apart(name, data).data is data


class TestOrientation:
    @pytest.mark.filterwarnings("ignore::UserWarning:PIL")
    def test_the_orientation_is_the_one_that_pillow_reads(self) -> None:
        for name, data in (*modes_and_orientations(), *broken_exif()):
            if name.endswith((".gif", ".bmp")) or "fraction" in name:
                continue
            with Image.open(io.BytesIO(data)) as whole:
                whole.load()
                try:
                    expected = whole.getexif().get(0x112, 1)
                except Exception:  # noqa: BLE001  (broken EXIF can raise anything)
                    expected = 1
            found = apart(name, data).orientation
            assert found == expected or (found not in range(2, 9) and expected not in range(2, 9)), name

    @pytest.mark.parametrize("spelling", [b'="8"/>', b"='8'/>", b' = "8"/>', b">8</", b"> 8 </"])
    def test_xmp_gives_the_orientation_if_exif_does_not(self, spelling: bytes) -> None:
        xmp = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<a tiff:Orientation" + spelling)
        data = encode(picture(), "JPEG")
        assert apart("a.jpg", data[:2] + xmp + data[2:]).orientation == 8
        exif = segment(0xE1, b"Exif\0\0" + turned_exif(3))
        assert apart("a.jpg", data[:2] + xmp + exif + data[2:]).orientation == 3

    def test_exif_entries_that_claim_the_whole_file_do_not_change_the_pixels(self) -> None:
        data = encode(picture(), "JPEG")
        greedy = segment(0xE1, b"Exif\0\0" + greedy_exif(65_000, 5_400))
        np.testing.assert_array_equal(pixels(data[:2] + greedy + data[2:]), pixels(data))


class TestTooMuch:
    @pytest.mark.parametrize(
        ("kind", "data"),
        [
            ("jpg", b"\xff\xd8" + segment(0xFE, b"") * 10_001),
            ("jpg", b"\xff\xd8" + segment(0xDB, (b"\0" + b"\1" * 64) * 1_000) * 20),
            ("jpg", many_scans_jpeg(1_000, 1_000, 5_000)),
            ("jpg", many_scans_jpeg(8, 8, 10_001)),
            ("png", png_of(8, 8, 8, 2, b"", chunk(b"abCd", b"") * 100_001)),
            ("webp", riff(riff_chunk(b"VP8X", bytes(10)), riff_chunk(b"abcd", b"") * 10_001)),
            ("gif", gif_head((1, 1), b"!\1\0\0" * 100_001, gif_frame((1, 1), b"\x4c\1"))),
            ("bmp", bmp_of(2_501, 2_000, 8, 1, b"")),
        ],
        ids=["segments", "tables", "scans", "scans of a small one", "chunks", "riff", "extensions", "runs"],
    )
    def test_a_file_that_would_take_too_long_to_decode_is_refused(self, kind: str, data: bytes) -> None:
        with pytest.raises(ImageError):
            apart(f"a.{kind}", data)
        signed = data if kind != "jpg" else data + encode(picture(), "JPEG")[2:]
        with pytest.raises(ImageError, match=r"^upload 3 (has|is) .*; save it"):
            open_photo(signed, name="upload 3")

    def test_a_progressive_jpeg_with_60_scans_is_accepted(self) -> None:
        assert open_photo(many_scans_jpeg(800, 600, 60)).size == (800, 600)

    def test_bytes_after_a_progressive_jpeg_are_not_counted_as_scans(self) -> None:
        """Trailing bytes, such as the video of a motion photo, can contain the bytes of any marker."""
        trailer = np.random.default_rng(0).bytes(1_000) + b"\xff\xda" * 20_000
        assert open_photo(many_scans_jpeg(800, 600, 60) + trailer).size == (800, 600)

    def test_an_end_marker_inside_a_segment_does_not_hide_later_scans(self) -> None:
        data = many_scans_jpeg(1_000, 1_000, 5_001)
        first = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
        with pytest.raises(ImageError, match="scans"):
            apart("a.jpg", data[:first] + segment(0xFE, b"\xff\xd9") + data[first:])

    def test_a_decoder_that_takes_too_long_is_stopped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(decoding, "_MUCH", 1_000)
        monkeypatch.setattr(decoding, "_MOST_SECONDS", 0.05)
        with pytest.raises(ImageError, match=r"takes more than 0\.05 seconds to decode; "):
            open_photo(png_of(1_000, 1_000, 16, 6, empty_blocks(400_000)))


class TestJpegWithoutItsEnd:
    OPTIONS: ClassVar[dict[str, dict[str, object]]] = {
        "plain": {},
        "progressive": {"progressive": True},
        "restarts": {"restart_marker_blocks": 2},
        "rows of restarts": {"restart_marker_rows": 1},
    }

    def photo(self, options: str, mode: str = "RGB") -> bytes:
        return encode(picture().resize((200, 120)).convert(mode), "JPEG", quality=90, **self.OPTIONS[options])

    @pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
    @pytest.mark.parametrize("options", OPTIONS)
    def test_a_jpeg_that_lacks_only_its_end_marker_is_read_in_full(self, options: str, mode: str) -> None:
        data = self.photo(options, mode)
        for cut in (1, 2):
            np.testing.assert_array_equal(pixels(data[:-cut]), pixels(data))
        small = {"at_least": AtLeast(50, 30)}
        np.testing.assert_array_equal(open_photo(data[:-2], **small), open_photo(data, **small))  # type: ignore[arg-type]

    @pytest.mark.parametrize("options", OPTIONS)
    def test_a_jpeg_that_also_lacks_pixel_data_is_refused(self, options: str) -> None:
        data = self.photo(options)
        marks = [at for at in range(len(data) - 2) if data[at] == 0xFF and 0xD0 <= data[at + 1] <= 0xD7]
        for kept in (len(data) // 2, len(data) - 40, len(data) - 12, *marks[-3:]):
            with pytest.raises(ImageError, match="damaged or incomplete"):
                open_photo(data[:kept])

    def test_a_jpeg_that_takes_long_is_not_decoded_a_second_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = itertools.count(step=2)
        monkeypatch.setattr(decoding.time, "thread_time", lambda: next(clock))
        with pytest.raises(ImageError, match="damaged or incomplete"):
            open_photo(self.photo("plain")[:-2])


class TestUnsupported:
    """The message names the rare variant of a format, and does not call the file damaged."""

    def lossless(self, components: int = 3) -> bytes:
        """Encodes a grey lossless JPEG, in which every sample equals the previous sample."""
        head = jpeg_head(0xC3, 40, 30, components)
        return head + table(0, 0, 1) + scan(components, 1, 0, 0, bytes(500)) + b"\xff\xd9"

    @pytest.mark.parametrize("bits", [12, 16])
    def test_jpegs_of_more_than_8_bits_are_refused(self, bits: int) -> None:
        data = encode(picture(), "JPEG")
        at = data.index(b"\xff\xc0") + 4
        with pytest.raises(FormatError, match=rf"^a is a JPEG of {bits} bits per channel, .*; save it with 8 bits\.$"):
            open_photo(data[:at] + bytes([bits]) + data[at + 1 :], name="a")

    @pytest.mark.parametrize(("frame", "name"), [(0xC5, "hierarchical"), (0xC7, "hierarchical"), (0xF7, "JPEG-LS")])
    def test_hierarchical_jpegs_and_jpeg_ls_are_refused(self, frame: int, name: str) -> None:
        with pytest.raises(FormatError, match=rf"is a {name} JPEG, .*; save it as a plain JPEG or a PNG\.$"):
            open_photo(flat_jpeg(8, 8, frame))

    @pytest.mark.parametrize("components", [1, 3])
    def test_a_lossless_jpeg_is_refused_only_if_pillow_cannot_decode_it(
        self, components: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        small = AtLeast(10, 10)  # would scale any other JPEG
        try:
            Image.open(io.BytesIO(self.lossless(components))).load()
        except OSError:
            pass  # libjpeg-turbo 2 cannot decode it
        else:
            assert np.asarray(open_photo(self.lossless(components), at_least=small)).tolist() == [[[128] * 3] * 40] * 30

        def fail(_: object) -> None:
            raise OSError("broken data stream when reading image file")

        monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", fail)
        with pytest.raises(FormatError, match="is a lossless JPEG, which this Pillow cannot decode; save it"):
            open_photo(self.lossless(components), at_least=small)

    @pytest.mark.parametrize(("bits", "compression", "masks"), [(16, 3, (0xF00, 0xF0, 0xF)), (24, 4, ())])
    def test_bmps_of_12_bits_or_with_an_embedded_jpeg_are_refused(
        self, bits: int, compression: int, masks: tuple[int, ...]
    ) -> None:
        data = bmp_of(8, 8, bits, compression, struct.pack(f"<{len(masks)}I", *masks) + bytes(500))
        with pytest.raises(FormatError, match=r"^a is a BMP variant that Pillow cannot decode; save it as a PNG\.$"):
            open_photo(data, name="a")

    def test_pngs_in_apples_format_are_refused(self) -> None:
        data = encode(picture(), "PNG")
        with pytest.raises(FormatError, match=r"is a PNG in Apple's format for apps \(CgBI\), .*; save it"):
            open_photo(data[:8] + chunk(b"CgBI", b"P\0 \2") + data[8:])


class TestMemory:
    @pytest.mark.parametrize(
        ("name", "data"),
        [
            ("a.jpg", flat_jpeg(10_000, 5_000, 0xC2, 4)),
            (
                "a.webp",
                riff(riff_chunk(b"VP8X", bytes(4) + (9_999).to_bytes(3, "little") + (4_999).to_bytes(3, "little"))),
            ),
        ],
    )
    def test_a_photo_that_needs_too_much_memory_is_refused_before_decoding(self, name: str, data: bytes) -> None:
        assert apart(name, data).decoding > MAX_MEMORY
        with pytest.raises(TooLargeError, match=r"would take \d+ MB of memory to decode, more than 560; scale it down"):
            open_photo(data)

    def test_the_coefficients_of_a_progressive_jpeg_count_as_memory(self) -> None:
        whole = apart("a.jpg", flat_jpeg(1_000, 1_000))
        progressive = apart("a.jpg", many_scans_jpeg(1_000, 1_000, 1))
        assert progressive.decoding - whole.decoding == 125 * 125 * 3 * 128

    def test_a_photo_of_more_than_500000_pixels_on_a_side_is_refused(self) -> None:
        header = flat_png(8, 1, 1, 0).replace(struct.pack(">II", 8, 1), struct.pack(">II", 1, 40_000_000))
        with pytest.raises(TooLargeError, match="1 x 40000000 pixels, more than 500,000 on a side"):
            open_photo(header)

    def test_a_tall_photo_that_is_reduced_before_resizing_looks_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        long = picture().resize((20, 6_000))
        small = preprocessing.ImageSpec(32, 48, "squash", "bilinear", mean=(0.5,) * 3, std=(0.25,) * 3)  # type: ignore[arg-type]
        expected = preprocessing.prepare(long, small).astype(int)
        monkeypatch.setattr(preprocessing, "_MOST_RESIZED", 48 * 6_000 - 1)
        assert np.abs(preprocessing.prepare(long, small) - expected).max() <= 3


class TestStrips:
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_converting_in_strips_gives_the_same_pixels(
        self, orientation: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        deep = np.random.default_rng(0).normal(0, 300, (30, 40)).astype(np.float32)
        images = by_mode() | {"F": Image.fromarray(deep), "I": Image.fromarray(deep.astype(np.int32))}
        images |= {"PA": images["P"].convert("PA"), "La": images["LA"].convert("La")}
        clear = images["P"].copy()
        clear.info["transparency"] = bytes(range(64))
        images |= {"clear palette": clear}
        expected = {}
        for strip in (4_000_000, 100, 1):
            monkeypatch.setattr("caprun.photos.orientation.STRIP", strip)
            for mode, pil in images.items():
                turned = pil.copy()
                turned.getexif()[0x112] = orientation
                found = open_photo(turned)
                np.testing.assert_array_equal(np.asarray(found), expected.setdefault(mode, np.asarray(found)), mode)


def test_strips_of_a_gradient_are_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caprun.photos.orientation.STRIP", 64)
    rows = pixels(Image.fromarray(np.arange(0, 64_000, 1_000, dtype=np.uint16)[:, None].repeat(8, 1)))[:, 0, 0]
    assert all(a < b for a, b in itertools.pairwise(rows.tolist()))
