"""What the pictures of a caption show, and which fonts they are written in."""

import io
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw, ImageFont

from caprun import fonts
from caprun.drawing import attention_picture, caption_picture
from caprun.errors import ImageError, UsageError
from caprun.fonts import find_font
from caprun.image import ImageSpec, seen_box

Array = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.int64]
Box = tuple[float, float, float, float]

WHOLE = (0.0, 0.0, 1.0, 1.0)

GREEN = (40, 180, 90)
LONG = "a woman in an orange space suit is standing next to a model of a rocket and to the flag of her country, smiling"


def as_array(picture: Image.Image) -> Pixels:
    assert picture.mode == "RGB"
    return np.asarray(picture).astype(np.int64)


def ink(pixels: Pixels) -> npt.NDArray[np.float64]:
    """(height, width): 0 on white paper, towards 1 in a letter."""
    return np.asarray(1 - pixels.min(axis=-1) / 255, np.float64)


def runs(marked: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Where a row of marks begins and ends."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], marked.astype(int), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def cells(picture: Image.Image) -> list[tuple[int, int, int, int]]:
    """(left, top, right, bottom) of each panel of a picture of a photo that is all GREEN, in reading order.

    No heat colour and no letter is of the panels' green at the panel's left edge, where the tests put no weight.
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


def flat(height: int = 8, width: int = 8) -> Array:
    return np.full((height, width), 1 / (height * width), np.float32)


def panel(alpha: Array, box: Box = WHOLE, size: tuple[int, int] = (300, 300)) -> Pixels:
    """The one word's panel, cut out."""
    photo = Image.new("RGB", size, GREEN)
    place = cells(attention_picture(photo, [("word", flat())]))[1]
    return as_array(attention_picture(photo, [("word", alpha)], region_box=box).crop(place))


def heat(alpha: Array, box: Box = WHOLE) -> npt.NDArray[np.float64]:
    """(height, width): how far the panel's pixels are from those of a word that attends to nothing in particular."""
    return np.asarray(np.abs(panel(alpha, box) - panel(flat(), box)).sum(axis=-1), np.float64)


class TestCaptionPicture:
    def test_the_photo_is_above_the_caption_unchanged(self) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (400, 600, 3), np.uint8)
        pixels = as_array(caption_picture(Image.fromarray(noise), "a dog"))
        np.testing.assert_array_equal(pixels[:400, :600], noise)
        assert ink(pixels[400:]).max() > 0.8, "dark letters"
        assert np.median(ink(pixels[400:])) == 0, "on white paper"

    def test_a_long_caption_is_wrapped_and_nothing_of_it_is_cut(self) -> None:
        picture = caption_picture(Image.new("RGB", (600, 400)), LONG)
        band = ink(as_array(picture)[400:])
        lines = runs(band.max(axis=1) > 0.3)
        assert len(lines) >= 3
        assert band[:, :10].max() == band[:, -10:].max() == 0, "room on both sides"
        assert band[:5].max() == band[-5:].max() == 0, "and above and below"

        face = find_font(LONG, round(600 / 24))
        one_line = Image.new("RGB", (4000, 60), "white")
        ImageDraw.Draw(one_line).text((10, 5), LONG, fill=(28, 28, 32), font=face)
        assert band.sum() == pytest.approx(ink(as_array(one_line)).sum(), rel=0.02), "as much ink as on one long line"

    def test_lines_are_of_about_the_same_length(self) -> None:
        band = ink(
            as_array(
                caption_picture(Image.new("RGB", (600, 400)), "a dog that runs along the beach at sunset so fast")
            )[400:]
        )
        widths = []
        for top, bottom in runs(band.max(axis=1) > 0.3):
            columns = np.flatnonzero(band[top:bottom].max(axis=0) > 0.3)
            widths.append(columns[-1] - columns[0])
        assert len(widths) == 2
        assert min(widths) > 0.7 * max(widths)

    def test_a_word_too_long_for_a_line_is_broken(self) -> None:
        band = ink(as_array(caption_picture(Image.new("RGB", (600, 400)), "w" * 150))[400:])
        assert len(runs(band.max(axis=1) > 0.3)) > 2
        assert band[:, :10].max() == band[:, -10:].max() == 0

    def test_an_accent_is_never_parted_from_its_letter(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "marks.ttf"
        path.write_bytes(font_file("\u20d7"))
        lines: list[str] = []
        monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda _self, _xy, line, **_: lines.append(line))
        caption_picture(Image.new("RGB", (600, 400)), "i\u20d7" * 150, font=path)
        assert "".join(lines) == "i\u20d7" * 150
        assert len(lines) > 5
        assert not any(line.startswith("\u20d7") for line in lines)

    def test_a_caption_of_no_words_is_an_empty_band(self) -> None:
        pixels = as_array(caption_picture(Image.new("RGB", (600, 400)), " \n"))
        assert len(pixels) > 400
        assert ink(pixels[400:]).max() == 0

    def test_line_breaks_in_a_caption_are_spaces(self) -> None:
        photo = Image.new("RGB", (600, 400))
        assert caption_picture(photo, "a\ndog  runs") == caption_picture(photo, "a dog runs")

    @pytest.mark.parametrize(
        ("size", "shown"),
        [
            ((2048, 1536), (1024, 768)),
            ((700, 500), (700, 500)),
            ((12, 6), (480, 240)),
            ((1, 1), (480, 480)),
            ((4000, 30), (1024, 8)),
            ((30, 4000), (8, 1024)),
            ((1, 50_000), (1, 1024)),
        ],
    )
    def test_photos_of_any_size_are_shown_readably(self, size: tuple[int, int], shown: tuple[int, int]) -> None:
        pixels = as_array(caption_picture(Image.new("RGB", size, GREEN), LONG))
        height, width = pixels.shape[:2]
        assert width == max(shown[0], 480)
        photo = (pixels == GREEN).all(axis=-1)
        rows, columns = np.flatnonzero(photo.any(axis=1)), np.flatnonzero(photo.any(axis=0))
        assert (len(columns), len(rows)) == shown
        assert abs(columns[0] + columns[-1] + 1 - width) <= 1, "centred"
        assert height > shown[1]
        assert ink(pixels[shown[1] :])[:, :5].max() == 0

    def test_the_photo_is_turned_upright_and_never_altered(self) -> None:
        photo = Image.new("RGB", (600, 400), GREEN)
        photo.getexif()[274] = 6
        before = photo.copy()
        assert caption_picture(photo, "a dog").width == 480
        assert photo == before

    def test_a_photo_that_cannot_be_shown_is_an_image_error(self) -> None:
        with pytest.raises(ImageError):
            caption_picture(Image.new("RGB", (0, 4)), "nothing")


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

    def test_the_grid_is_tidy(self) -> None:
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
    def test_heat_is_where_the_weight_is(self, row: int, column: int) -> None:
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
        """From pixel to pixel it changes by a little of the whole: the edges of the regions are not to be seen."""
        checkered = np.tile(np.array([[0, 1], [1, 0]], np.float32), (4, 4))
        for alpha, most in ((peak(3, 4), 0.08), (checkered, 0.045)):
            found = heat(alpha)
            assert max(np.abs(np.diff(found, axis=axis)).max() for axis in (0, 1)) < most * found.max()

    def test_the_largest_weight_has_the_brightest_colour(self) -> None:
        black = Image.new("RGB", (300, 300))
        picture = as_array(attention_picture(black, [("word", peak(4, 4))]))
        assert picture[20:320, 340:640, 0].max() > 0.8 * 255

    def test_a_word_is_not_warmed_by_the_words_before_it(self) -> None:
        photo = Image.new("RGB", (300, 300), GREEN)
        before, alone = peak(1, 1), peak(6, 6)
        picture = attention_picture(photo, [("word", before), ("word", alone)])
        place = cells(attention_picture(photo, [("word", flat())] * 2))[2]
        np.testing.assert_array_equal(as_array(picture.crop(place)), panel(alone))

    def test_the_photo_is_turned_upright(self) -> None:
        photo = Image.new("RGB", (300, 200), GREEN)
        photo.getexif()[274] = 6
        assert {(right - left, bottom - top) for left, top, right, bottom in cells(attention_picture(photo, []))} == {
            (200, 300)
        }

    def test_more_weight_is_always_lighter_on_a_dark_photo(self) -> None:
        alpha = np.repeat(np.linspace(0, 1, 12, dtype=np.float32)[None] ** 3, 4, axis=0)
        picture = attention_picture(Image.new("RGB", (300, 300)), [("word", alpha / alpha.sum())])
        box = cells(attention_picture(Image.new("RGB", (300, 300), GREEN), [("word", flat())]))[1]
        row = as_array(picture.crop(box))[150] @ np.array([0.2126, 0.7152, 0.0722])
        assert (np.diff(row) > -1).all()
        assert row[-1] > 150

    def test_evenly_spread_attention_leaves_the_photo_as_it_is(self) -> None:
        muted = panel(flat())
        assert (muted == muted[0, 0]).all()
        almost = flat() * np.random.default_rng(0).uniform(0.95, 1.05, (8, 8)).astype(np.float32)
        assert heat(almost).max() < 0.15 * heat(peak(4, 4)).max()

    @pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -1.0])
    def test_weights_that_say_nothing_show_nothing(self, value: float) -> None:
        assert heat(np.full((8, 8), value, np.float32)).max() == 0

    def test_a_weight_that_is_no_number_is_none(self) -> None:
        alpha = peak(1, 1)
        alpha[6, 6] = np.nan
        found = heat(alpha)
        assert found[:150, :150].max() > 100
        assert found[150:, 150:].max() == 0

    def test_the_scale_of_the_weights_does_not_matter(self) -> None:
        np.testing.assert_array_equal(panel(peak(2, 2)), panel(peak(2, 2) * 64))

    def test_outside_of_what_the_encoder_saw_it_is_dark_and_never_warm(self) -> None:
        box = (0.25, 0.0, 0.75, 1.0)
        found = panel(peak(0, 0), box)
        outside = np.concatenate([found[:, :75], found[:, 225:]], axis=1)
        assert (outside == outside[0, 0]).all()
        assert outside[0, 0].sum() < 0.5 * found[250, 200].sum()
        warm = heat(peak(0, 0), box)
        top, left = np.unravel_index(warm.argmax(), warm.shape)
        assert top < 40
        assert 75 <= left < 75 + 25, "the grid covers the box, not the photo"

    def test_the_box_of_a_cropped_photo_is_the_one_from_seen_box(self) -> None:
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

    def test_a_box_within_one_pixel_of_a_photo_is_that_pixel(self) -> None:
        photo = Image.new("RGB", (1, 50_000), GREEN)
        picture = as_array(attention_picture(photo, [("a", flat())], region_box=(0.9, 0.0, 1.0, 1.0)))
        columns = np.flatnonzero(picture[100, :, 1] > picture[100, :, 0] + 15)
        assert len(columns) == 2, "the photo, and the word's panel"
        assert picture[100, columns[1], 1] > 100, "which is not dark"

    def test_a_grid_of_one_region_is_drawn(self) -> None:
        assert heat(np.ones((1, 1), np.float32)).max() == 0

    @pytest.mark.parametrize("length", [20, 40, 200])
    def test_a_long_word_stays_within_its_own_place(self, length: int) -> None:
        photo = Image.new("RGB", (30, 300), GREEN)
        picture = attention_picture(photo, [("w" * length, flat())] * 3)
        labels = ink(as_array(picture)[-54:])
        assert len(runs(labels.max(axis=0) > 0)) >= 2
        assert labels[:, :19].max() == labels[:, -19:].max() == 0
        assert max(right - left for left, right in runs(labels.max(axis=0) == 0)) >= 18, "a gap between the two"

    @pytest.mark.parametrize("shape", [(64,), (1, 8, 8), (0, 8)])
    def test_an_alpha_of_the_wrong_shape_is_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(UsageError, match="grid_height, grid_width"):
            attention_picture(Image.new("RGB", (64, 48)), [("a", np.ones(shape, np.float32))])

    @pytest.mark.parametrize("box", [(0.5, 0, 0.5, 1), (0, 0, 1, 2), (-0.1, 0, 1, 1), (0, 1, 1, 0)])
    def test_a_region_box_that_is_no_box_is_refused(self, box: Box) -> None:
        with pytest.raises(UsageError, match="region_box"):
            attention_picture(Image.new("RGB", (64, 48)), [], region_box=box)


def embedded(size: int = 20) -> ImageFont.FreeTypeFont:
    """The font inside Pillow."""
    face = ImageFont.load_default(size)
    assert isinstance(face, ImageFont.FreeTypeFont)
    return face


def font_file(letter: str, shown: str = "\u2122") -> bytes:
    """The font inside Pillow, with the letter (U+2045 to U+FB00) for its trade mark sign, shown so or as a space."""
    file = embedded().path
    assert isinstance(file, io.BytesIO)
    data = bytearray(file.getvalue())
    tables = [struct.unpack_from(">4sIII", data, 12 + 16 * i) for i in range(*struct.unpack_from(">4xH", data))]
    cmap = next(offset for tag, _, offset, _ in tables if tag == b"cmap")
    for record in range(cmap + 4, cmap + 28, 8):
        (offset,) = struct.unpack_from(">4xI", data, record)
        table = cmap + offset
        kind, doubled = struct.unpack_from(">H4xH", data, table)
        if kind == 4:
            for segment in range(table + 14, table + 14 + doubled, 2):
                places = segment, segment + 2 + doubled, segment + 2 + 2 * doubled
                end, start, delta = (struct.unpack_from(">H", data, place)[0] for place in places)
                if start == end == ord("\u2122"):
                    moved = (
                        ord(letter),
                        ord(letter),
                        ((3 if shown == " " else delta + ord("\u2122")) - ord(letter)) % 65536,
                    )
                    for place, value in zip(places, moved, strict=True):
                        struct.pack_into(">H", data, place, value)
    return bytes(data)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The only folder of installed fonts, empty."""
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path / "share"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "own"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    folder = tmp_path / "share" / "fonts" / "some"
    folder.mkdir(parents=True)
    fonts._installed_fonts.cache_clear()
    yield folder
    fonts._installed_fonts.cache_clear()


class TestFonts:
    def test_plain_english_needs_no_installed_font(self, installed: Path) -> None:
        (installed / "NotoSans-Regular.ttf").write_bytes(font_file("漢"))
        face = find_font("A dog, running; it's “fast”… " + "".join(map(chr, range(32, 127))), 20)
        assert face.getname() == embedded().getname()
        assert face.size == 20
        assert not isinstance(face.path, str)

    def test_other_letters_are_looked_for_in_installed_fonts(self, installed: Path) -> None:
        (installed / "one.ttf").write_bytes(font_file("漢"))
        (installed / "two.ttf").write_bytes(font_file("字"))
        assert find_font("a 漢", 20).path == str(installed / "one.ttf")
        assert find_font("字 b", 20).path == str(installed / "two.ttf")

    def test_files_that_are_no_fonts_are_passed_over(self, installed: Path) -> None:
        (installed / "NotoSans-Regular.ttf").write_text("not a font")
        (installed / "z.ttf").write_bytes(font_file("漢"))
        assert find_font("漢", 20).path == str(installed / "z.ttf")

    def test_plain_and_well_known_fonts_come_first(self, installed: Path) -> None:
        for name in ["Abc-Bold.ttf", "Zzz.ttf", "DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "NotoSansMono-Regular.ttf"]:
            (installed / name).write_bytes(font_file("漢"))
        order = []
        while any(installed.iterdir()):
            fonts._installed_fonts.cache_clear()
            chosen = Path(str(find_font("漢", 20).path))
            order.append(chosen.name)
            chosen.unlink()
        assert order == ["DejaVuSans.ttf", "Zzz.ttf", "NotoSansMono-Regular.ttf", "DejaVuSans-Bold.ttf", "Abc-Bold.ttf"]

    def test_the_users_own_fonts_are_searched(self, installed: Path, tmp_path: Path) -> None:
        for number, folder in enumerate([tmp_path / "own" / "fonts", tmp_path / "home" / ".fonts"]):
            letter = "漢字"[number]
            folder.mkdir(parents=True)
            (folder / "mine.otf").write_bytes(font_file(letter))
            fonts._installed_fonts.cache_clear()
            assert find_font(letter, 20).path == str(folder / "mine.otf")

    @pytest.mark.parametrize(
        ("platform", "folder"),
        [("darwin", "home/Library/Fonts"), ("win32", "local/Microsoft/Windows/Fonts"), ("win32", "windows/Fonts")],
    )
    def test_every_system_has_its_own_folders(
        self, installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, folder: str
    ) -> None:
        monkeypatch.setattr("sys.platform", platform)
        monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
        monkeypatch.setenv("WINDIR", str(tmp_path / "windows"))
        path = tmp_path / folder / "mine.ttf"
        path.parent.mkdir(parents=True)
        path.write_bytes(font_file("\uf8f0"))
        assert find_font("\uf8f0", 20).path == str(path)

    def test_letters_that_no_font_has_are_named(self, installed: Path) -> None:
        with pytest.raises(UsageError) as caught:
            find_font("caf\u00e9 漢!", 20)
        assert str(caught.value) == "no font here has a glyph for é (U+00E9), 漢 (U+6F22); --font FILE.ttf gives one"

    def test_only_the_letters_that_the_best_font_lacks_are_named(self, installed: Path) -> None:
        (installed / "one.ttf").write_bytes(font_file("漢"))
        with pytest.raises(UsageError, match=r"glyph for é \(U\+00E9\); "):
            find_font("caf\u00e9 漢!", 20)

    def test_many_missing_letters_are_counted(self, installed: Path) -> None:
        with pytest.raises(UsageError, match="and 12 more; "):
            find_font("".join(map(chr, range(0x4E00, 0x4E14))), 20)

    @pytest.mark.parametrize("text", ["", " ", "\u00a0\u3000", "a\u200db", "a\ufe0f", "a\tb"])
    def test_what_is_invisible_needs_no_glyph(self, installed: Path, text: str) -> None:
        assert find_font(text, 20).getname() == embedded().getname()

    def test_an_accent_needs_a_glyph(self, installed: Path) -> None:
        with pytest.raises(UsageError, match=r"U\+0301"):
            find_font("q\u0301", 20)

    def test_an_accent_that_libraqm_would_set_on_a_circle_still_needs_a_glyph(self, tmp_path: Path) -> None:
        path = tmp_path / "circle.ttf"
        path.write_bytes(font_file("\u25cc"))
        with pytest.raises(UsageError, match=r"U\+093F"):
            find_font("\u093f", 20, path)

    def test_a_blank_glyph_is_no_glyph(self, tmp_path: Path) -> None:
        path = tmp_path / "blank.ttf"
        path.write_bytes(font_file("漢", shown=" "))
        with pytest.raises(UsageError, match="漢"):
            find_font("漢", 20, path)

    def test_half_of_a_surrogate_pair_has_no_glyph(self, installed: Path) -> None:
        with pytest.raises(UsageError, match=r"U\+D800"):
            find_font("\ud800", 20)

    def test_a_font_given_is_used(self, installed: Path, tmp_path: Path) -> None:
        path = tmp_path / "given.ttf"
        path.write_bytes(font_file("漢"))
        for given in (path, str(path)):
            face = find_font("a dog 漢", 20, given)
            assert (face.path, face.size) == (str(path), 20)

    def test_a_font_given_that_lacks_a_letter_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "given.ttf"
        path.write_bytes(font_file("漢"))
        with pytest.raises(UsageError) as caught:
            find_font("字", 20, path)
        assert str(path) in str(caught.value)
        assert "字 (U+5B57)" in str(caught.value)

    def test_a_font_given_that_is_not_there_is_refused(self, tmp_path: Path) -> None:
        for path in (tmp_path / "absent.ttf", tmp_path):
            with pytest.raises(UsageError) as caught:
                find_font("a", 20, path)
            assert str(caught.value).startswith(f"the font {path} is not a file; ")

    def test_a_font_given_is_never_looked_for_by_name(self, installed: Path) -> None:
        (installed / "mine.ttf").write_bytes(font_file("漢"))
        with pytest.raises(UsageError, match=r"mine\.ttf is not a file"):
            find_font("a", 20, "mine.ttf")

    def test_a_font_given_that_is_no_font_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "letter.ttf"
        path.write_text("Dear Sir or Madam")
        with pytest.raises(UsageError) as caught:
            find_font("a", 20, path)
        assert str(caught.value).startswith(f"the font {path} cannot be read")

    def test_both_pictures_take_the_font_and_its_errors(self, installed: Path, tmp_path: Path) -> None:
        path = tmp_path / "given.ttf"
        path.write_bytes(font_file("漢"))
        photo = Image.new("RGB", (64, 48), GREEN)
        with pytest.raises(UsageError, match="漢"):
            caption_picture(photo, "漢")
        with pytest.raises(UsageError, match="漢"):
            attention_picture(photo, [("漢", flat())])
        assert ink(as_array(caption_picture(photo, "漢", font=path))[360:]).max() > 0.8
        assert ink(as_array(attention_picture(photo, [("漢", flat())], font=path))[-54:]).max() > 0.8

    def test_a_letter_and_its_accent_are_joined_where_unicode_can(self, installed: Path) -> None:
        """More fonts have the joined form, and only it is asked for."""
        with pytest.raises(UsageError, match=r"glyph for é \(U\+00E9\); "):
            caption_picture(Image.new("RGB", (64, 48)), "cafe\u0301")
