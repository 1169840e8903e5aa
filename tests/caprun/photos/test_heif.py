"""The main picture of a HEIC or AVIF file is read, and everything else in the file is left out."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import ExifTags, Image

from caprun.errors import FormatError, ImageError, TooLargeError
from caprun.photos import decoding, extensions
from caprun.photos.bitstreams import av1, hevc
from caprun.photos.formats import kind_of, take_apart
from caprun.photos.heif import _MOST_BYTES
from caprun.photos.preprocessing import load
from caprun.photos.reading import open_photo
from tests.caprun.photos.support.encoding import encode, heic_colours, pixels, spec
from tests.caprun.photos.support.heif import (
    ALPHA,
    Item,
    av1_sequence,
    av1_unit,
    box,
    grid_of,
    heic,
    heif_of,
    hevc_unit,
    hvcc,
    ispe,
    item_of,
    sequence_set,
)
from tests.caprun.photos.support.profiles import P3, rgb_profile

needs_heif = pytest.mark.skipif(not extensions.is_installed("HEIF"), reason='pip install "captioner[heif]"')
needs_avif = pytest.mark.skipif(not extensions.is_installed("AVIF"), reason="this Pillow does not read AVIF")


def apart(data: bytes) -> bytes:
    kind = kind_of(data)
    assert kind is not None
    return take_apart(kind, data).data


def avif(image: Image.Image, **options: object) -> bytes:
    return encode(image, "AVIF", quality=95, subsampling="4:4:4", **options)


@needs_heif
class TestHeic:
    @pytest.mark.parametrize("name", ["photo", "deep"])
    def test_a_photo_of_8_or_10_bits_is_read(self, name: str) -> None:
        found = pixels(heic(name)).astype(int)
        assert np.abs(found - np.asarray(heic_colours())).mean() < 6

    @pytest.mark.parametrize("name", ["photo", "tile", "alpha", "deep"])
    def test_a_file_without_its_metadata_decodes_to_the_same_pixels(self, name: str) -> None:
        from pi_heif import HeifImageFile

        whole, left = (HeifImageFile(io.BytesIO(data)) for data in (heic(name), apart(heic(name))))
        assert (whole.mode, whole.size, whole.tobytes()) == (left.mode, left.size, left.tobytes())

    def test_alpha_is_composited_on_white(self) -> None:
        found = pixels(heic("alpha"))
        assert (found[:, 34:] >= 253).all()
        assert np.abs(found[:, :30].astype(int) - np.asarray(heic_colours())[:, :30]).mean() < 6

    def test_a_grid_of_tiles_is_joined_and_cropped(self) -> None:
        found = pixels(grid_of(item_of("tile"), 2, 3, 150, 100))
        assert found.shape == (100, 150, 3)
        assert np.abs(found.astype(int) - (200, 60, 30)).max() < 8

    @pytest.mark.parametrize("turns", range(4))
    @pytest.mark.parametrize("mirror", [None, 0, 1])
    def test_rotation_and_mirroring_are_applied(self, turns: int, mirror: int | None) -> None:
        item = item_of("photo")
        more = [(b"irot", bytes([turns]))] + ([] if mirror is None else [(b"imir", bytes([mirror]))])
        expected = np.rot90(pixels(heif_of({1: item})), turns)
        if mirror is not None:
            expected = expected[:, ::-1] if mirror else expected[::-1]
        turned = item._replace(properties=[*item.properties, *more])
        np.testing.assert_array_equal(pixels(heif_of({1: turned})), expected)

    @pytest.mark.parametrize("of_tiles", [False, True])
    def test_colours_are_converted_by_the_profile_of_the_picture_or_its_tiles(self, of_tiles: bool) -> None:
        tile = item_of("tile")
        plain = pixels(grid_of(tile, 1, 1, 64, 64)).astype(int)
        named = tile._replace(properties=[*tile.properties, (b"colr", b"prof" + rgb_profile(P3, "Display P3"))])
        found = pixels(grid_of(named, 1, 1, 64, 64) if of_tiles else heif_of({1: named})).astype(int)
        assert found[32, 32, 0] > plain[32, 32, 0] + 10

    def test_metadata_and_other_pictures_are_left_out(self) -> None:
        mark = b"a mark that is nowhere else"
        assert heic("photo").count(mark) == 2
        assert mark not in apart(heic("photo"))
        photo, other = item_of("photo"), item_of("tile")
        items = {1: photo, 2: other, 3: Item(b"mime", mark, []), 4: other._replace(properties=[(b"auxC", b"depth")])}
        data = heif_of(items, [(b"thmb", 2, [1]), (b"cdsc", 3, [1]), (b"auxl", 4, [1])], more=box(b"grpl", mark))
        assert apart(data) == apart(heif_of({1: photo}))

    def test_a_video_in_the_file_is_left_out(self) -> None:
        data = heif_of({1: item_of("photo")}, brand=b"hevc") + box(b"moov", bytes(1000)) + bytes(3)
        np.testing.assert_array_equal(pixels(data), pixels(heif_of({1: item_of("photo")})))

    def test_load_returns_the_array_of_the_opened_pixels(self) -> None:
        np.testing.assert_array_equal(load(heic("photo"), spec()), load(Image.fromarray(pixels(heic("photo"))), spec()))


@needs_avif
class TestAvif:
    def test_pixels_equal_those_that_pillow_decodes(self) -> None:
        for image in (heic_colours(), heic_colours().convert("L"), heic_colours().convert("RGBA")):
            data = avif(image)
            np.testing.assert_array_equal(pixels(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_rotation_and_mirroring_are_applied(self, orientation: int) -> None:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        upright = pixels(encode(heic_colours(), "PNG", exif=exif)).astype(int)
        found = pixels(avif(heic_colours(), exif=exif))
        assert found.shape == upright.shape
        assert np.abs(found - upright).mean() < 3

    def test_alpha_is_composited_on_white(self) -> None:
        image = heic_colours().convert("RGBA")
        image.putalpha(0)
        assert (pixels(avif(image)) >= 253).all()

    def test_an_animation_gives_its_first_frame(self) -> None:
        data = avif(heic_colours(), save_all=True, append_images=[Image.new("RGB", (64, 48))])
        assert np.abs(pixels(data).astype(int) - np.asarray(heic_colours())).mean() < 3

    def test_colours_are_converted_and_metadata_is_left_out(self) -> None:
        mark = b"a mark that is nowhere else"
        profile = rgb_profile(P3, "Display P3")
        data = avif(Image.new("RGB", (32, 32), (200, 100, 50)), icc_profile=profile, xmp=mark)
        assert mark in data
        assert mark not in apart(data)
        assert profile not in apart(data)
        assert pixels(data)[16, 16, 0] > 210


class TestRefusals:
    """Every file is refused before anything is decoded."""

    @pytest.fixture(autouse=True)
    def _nothing_is_decoded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(decoding, "_decode", lambda *_: pytest.fail("it was decoded"))

    def refusal(self, data: bytes, kind: type[ImageError] = ImageError) -> str:
        with pytest.raises(kind) as caught:
            open_photo(data, name="a.heic")
        return str(caught.value)

    def test_too_many_pixels_are_refused(self) -> None:
        photo = item_of("photo")
        others = [one for one in photo.properties if one[0] != b"ispe"]
        large = photo._replace(properties=[ispe(9_000, 9_000), *others])
        assert "9000 x 9000 pixels, more than 50 megapixels" in self.refusal(heif_of({1: large}), TooLargeError)
        grid = grid_of(item_of("tile"), 30, 30, 60_000, 60_000)
        assert "more than 50 megapixels" in self.refusal(grid, TooLargeError)

    @pytest.mark.parametrize("layers", [0, 3])
    def test_a_picture_that_is_coded_larger_than_declared_is_refused(self, layers: int) -> None:
        slices = hevc_unit(19, b"\x80" + bytes(20))
        for width, height in ((5_000, 5_000), (65_535, 65_535)):
            item = Item(b"hvc1", slices, [ispe(64, 48), hvcc(sequence_set(width, height, layers))])
            assert "damaged or incomplete" in self.refusal(heif_of({1: item}))
            grid = grid_of(item._replace(properties=[ispe(32, 24), *item.properties[1:]]), 2, 2, 64, 48)
            assert "damaged or incomplete" in self.refusal(grid)

    @pytest.mark.parametrize("reduced", [False, True])
    def test_an_avif_that_is_coded_larger_than_declared_is_refused(self, reduced: bool) -> None:
        data = av1_unit(1, av1_sequence(20_000, 20_000, reduced=reduced)) + av1_unit(6, bytes(20))
        item = Item(b"av01", data, [ispe(64, 48), (b"av1C", b"\x81\0\x0c\0")])
        assert "damaged or incomplete" in self.refusal(heif_of({1: item}, brand=b"avif"))

    def test_too_many_slices_or_frames_are_refused(self) -> None:
        many = hevc_unit(19, b"\x80" + bytes(20)) + hevc_unit(19, bytes(20)) * 9
        item = Item(b"hvc1", many, [ispe(4_000, 3_000), hvcc(sequence_set(4_000, 3_000))])
        assert "too many pieces; save it" in self.refusal(heif_of({1: item}))
        frames = av1_unit(1, av1_sequence(4_000, 3_000)) + av1_unit(6, bytes(20)) * 10
        film = Item(b"av01", frames, [ispe(4_000, 3_000), (b"av1C", b"\x81\0\x0c\0")])
        assert "too many pieces; save it" in self.refusal(heif_of({1: film}, brand=b"avif"))

    def test_a_picture_that_needs_too_much_memory_is_refused(self) -> None:
        rich = hvcc(sequence_set(7_000, 7_000, depth=10))
        item = Item(b"hvc1", hevc_unit(19, b"\x80" + bytes(20)), [ispe(7_000, 7_000), rich])
        assert "would take 808 MB of memory to decode" in self.refusal(heif_of({1: item}), TooLargeError)

    def test_too_many_bytes_of_file_or_pixel_data_are_refused(self) -> None:
        data = heif_of({1: item_of("photo")})
        assert "of more than 64 MiB; save" in self.refusal(data + bytes(_MOST_BYTES))
        long = Item(b"hvc1", hevc_unit(19, b"\x80" + bytes(2**23)), [ispe(64, 48), hvcc(sequence_set(64, 48))])
        assert "more than 8 MiB of pixel data; save" in self.refusal(heif_of({1: long}))

    @pytest.mark.parametrize("kind", [b"iovl", b"jpeg", b"j2k1", b"iden", b"\0\1\2\3"])
    def test_a_picture_of_another_type_is_refused_and_its_type_named(self, kind: bytes) -> None:
        said = self.refusal(heif_of({1: item_of("photo")._replace(kind=kind)}), FormatError)
        assert said.startswith(f"a.heic holds a picture of type {'unknown' if kind[0] == 0 else kind.decode()}, ")

    def test_an_unknown_property_is_refused_only_if_it_is_essential(self) -> None:
        photo = item_of("photo")
        items = {1: photo._replace(properties=[*photo.properties, (b"cmpd", b"\0")])}
        assert "needs cmpd, a feature" in self.refusal(heif_of(items, essential=[b"cmpd"]), FormatError)
        take_apart("Heif", heif_of(items))

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda data: data[:40],
            lambda data: data[:-30],
            lambda data: data.replace(b"pitm", b"skip"),
            lambda data: data.replace(b"ispe", b"skip"),
            lambda data: data.replace(b"hvcC", b"skip"),
            lambda data: data.replace(b"meta", b"skip"),
            lambda data: data[:24] + b"\xff\xff\xff\xff" + data[28:],
            lambda data: data[:24] + b"\0\0\0\1" + data[28:],
        ],
    )
    def test_damaged_boxes_that_cannot_be_parsed_are_refused(self, spoil: Callable[[bytes], bytes]) -> None:
        assert "damaged or incomplete" in self.refusal(spoil(heif_of({1: item_of("photo")})))

    def test_extents_that_are_outside_the_file_repeated_or_too_many_are_refused(self) -> None:
        photo, size = item_of("photo"), 5_000_000
        for extents in ([(2**31, 100)], [(0, size)] * 3, [(0, 0)] * 3, [(0, 1)] * 101):
            data = heif_of({1: photo}, extents={1: extents}).ljust(size, b"\0")
            assert "; " in self.refusal(data)

    def test_too_many_tiles_boxes_or_pictures_are_refused(self) -> None:
        photo = item_of("photo")
        data = heif_of({1: photo}, [(b"dimg", 1, range(1_000))])
        assert "has 1,000 tiles" in self.refusal(data)
        assert "more than 10,000 boxes" in self.refusal(heif_of({1: photo}, more=box(b"free") * 10_001))
        many = heif_of({1: photo}).replace(b"ipma" + bytes(7) + b"\1", b"ipma" + bytes(4) + b"\xff" * 4)
        assert "more than 10,000 pictures" in self.refusal(many)

    @pytest.mark.parametrize("brand", [b"crx ", b"qt  ", b"isom", b"mp42"])
    def test_videos_and_raw_photos_are_refused_as_other_formats(self, brand: bytes) -> None:
        data = box(b"ftyp", brand, bytes(4), brand) + box(b"mdat", bytes(100))
        assert "is not a JPEG" in self.refusal(data, FormatError)


class TestWithoutADecoder:
    @pytest.mark.parametrize(("name", "expected"), [("HEIF", "a HEIC photo"), ("AVIF", "an AVIF photo")])
    def test_the_message_names_the_extra_to_install(
        self, name: str, expected: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(decoding, "is_installed", lambda one: one != name)
        data = heic("photo")
        if name == "AVIF":
            coded = av1_unit(1, av1_sequence(64, 48)) + av1_unit(6, bytes(20))
            data = heif_of({1: Item(b"av01", coded, [ispe(64, 48), (b"av1C", b"\x81\0\x0c\0")])}, brand=b"avif")
        with pytest.raises(FormatError, match=rf'^a is {expected}; to read it, run pip install "captioner\[heif\]"\.$'):
            open_photo(data, name="a")


class TestBitstreams:
    def test_the_size_of_hevc_data_is_read_from_the_sequence_parameter_set(self) -> None:
        for width, height, layers, depth, chroma in ((64, 48, 0, 8, 1), (4_032, 3_024, 6, 10, 2), (512, 512, 1, 8, 3)):
            (_, config), data = hvcc(sequence_set(width, height, layers, depth, chroma)), hevc_unit(19, b"\x80rest")
            found = hevc(config, data)
            assert (found.width, found.height, found.passes, found.rich) == (width, height, 1, layers > 0)
            assert (found.config[:22], found.data) == (config[:22], data)

    def test_only_the_first_picture_of_the_base_layer_is_kept(self) -> None:
        sets = [sequence_set(64, 48), b"\x44\1picture", b"\x4e\1message", b"\x42\x09a layer's"]
        first, more, next_, layer, hint = (
            hevc_unit(19, b"\x80first"),
            hevc_unit(19, b"\0more"),
            hevc_unit(19, b"\x80next"),
            hevc_unit(19, b"\x80layer", layer=1),
            hevc_unit(39, b"hint"),
        )
        found = hevc(hvcc(*sets)[1], hint + sets[0][:0] + layer + first + layer + more + next_ + more)
        assert (found.data, found.passes) == (first + more, 2)
        assert b"picture" in found.config
        assert b"message" not in found.config
        assert b"layer" not in found.config

    @pytest.mark.parametrize("reduced", [False, True])
    def test_the_size_of_av1_data_is_read_from_the_sequence_header(self, reduced: bool) -> None:
        sequence, frame = av1_unit(1, av1_sequence(640, 480, reduced=reduced)), av1_unit(6, b"frame")
        start, other, end = av1_unit(2, b""), av1_unit(5, b"metadata"), av1_unit(15, b"\0")
        found = av1(b"\x81\0\x0c\0more", start + sequence + other + frame + end)
        assert (found.width, found.height, found.passes, found.rich) == (640, 480, 1, False)
        assert (found.config, found.data) == (b"\x81\0\x0c\0", sequence + frame)

    @needs_avif
    def test_the_size_of_a_file_from_an_encoder_is_read(self) -> None:
        for size in ((64, 48), (133, 77)):
            data = avif(heic_colours().resize(size))
            picture = take_apart("Avif", data)
            assert picture.size == size
            assert b"frame" not in picture.data


def test_alpha_is_distinguished_from_other_auxiliary_pictures() -> None:
    photo, tile = item_of("photo"), item_of("tile")
    for name, count in ((ALPHA, 2), (b"\0\0\0\0urn:com:apple:photo:2020:aux:hdrgainmap\0", 1)):
        auxiliary = tile._replace(properties=[*tile.properties, (b"auxC", name)])
        assert apart(heif_of({1: photo, 2: auxiliary}, [(b"auxl", 2, [1])])).count(b"infe") == count
