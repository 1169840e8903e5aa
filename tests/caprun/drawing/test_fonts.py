"""Pictures use Pillow's default font, a system font or a given file; an error names the letters without a glyph."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image, features

from caprun.drawing import fonts
from caprun.drawing.fonts import direction_of, find_font
from caprun.drawing.pictures import attention_picture, caption_picture
from caprun.errors import UsageError
from tests.caprun.drawing.support.pictures import GREEN, as_array, embedded, flat, font_file, ink

RIGHT_TO_LEFT = pytest.mark.skipif(not features.check("raqm"), reason="Pillow cannot draw from right to left")


@pytest.fixture(autouse=True)
def system_fonts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Returns the list that replaces the system's fonts: empty, until a test adds some."""
    found: list[str] = []
    monkeypatch.setattr(fonts, "_system_fonts", lambda: found)
    return found


@pytest.fixture
def han(tmp_path: Path) -> Path:
    """Writes a font with a glyph for 漢, and returns its path."""
    path = tmp_path / "han.ttf"
    path.write_bytes(font_file("漢"))
    return path


def test_plain_english_needs_no_font_file() -> None:
    face = find_font("A dog, running; it's “fast”… " + "".join(map(chr, range(32, 127))), 20)
    assert face.getname() == embedded().getname()
    assert face.size == 20


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("caf\u00e9 漢!", "'é' (U+00E9), '漢' (U+6F22)"),
        ("q\u0301", "'\u0301' (U+0301)"),
        ("\ud800", r"'\ud800' (U+D800)"),
        ("\ue000", r"'\ue000' (U+E000)"),
    ],
)
def test_letters_without_a_glyph_are_named_with_the_option_that_helps(text: str, letters: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_font(text, 20)
    assert str(caught.value) == f"Pillow's default font has no glyph for {letters}; choose another font with `--font`."


def test_many_missing_letters_are_counted() -> None:
    with pytest.raises(UsageError, match="and 12 more; "):
        find_font("".join(map(chr, range(0x4E00, 0x4E14))), 20)


@pytest.mark.parametrize("text", ["", " ", "\u00a0\u3000", "a\u200db", "a\ufe0f", "a\U000e0100", "a\tb"])
def test_invisible_characters_need_no_glyph(text: str) -> None:
    assert find_font(text, 20).getname() == embedded().getname()


def test_a_lone_accent_that_libraqm_puts_on_a_circle_needs_a_glyph(tmp_path: Path) -> None:
    path = tmp_path / "circle.ttf"
    path.write_bytes(font_file("\u25cc"))
    with pytest.raises(UsageError, match=r"U\+093F"):
        find_font("\u093f", 20, path)


def test_a_blank_glyph_counts_as_missing(tmp_path: Path) -> None:
    path = tmp_path / "blank.ttf"
    path.write_bytes(font_file("漢", shown=" "))
    with pytest.raises(UsageError, match="漢"):
        find_font("漢", 20, path)


def test_a_given_font_is_used(han: Path) -> None:
    for given in (han, str(han)):
        assert find_font("a dog 漢", 20, given).size == 20


def test_a_given_font_that_lacks_a_letter_is_refused(han: Path) -> None:
    with pytest.raises(UsageError) as caught:
        find_font("字", 20, han)
    assert str(caught.value).startswith(f"The font {han} has no glyph for '字' (U+5B57); ")


def test_a_given_font_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.ttf").write_text("Dear Sir or Madam")
    for path in (tmp_path / "absent.ttf", tmp_path, tmp_path / "letter.ttf", "nul\0"):
        with pytest.raises(UsageError) as caught:
            find_font("a", 20, path)
        assert str(caught.value).startswith(f"The font {path} cannot be read (")
        assert str(caught.value).endswith("; pass a TrueType or OpenType file to `--font`.")


def test_a_given_font_is_not_searched_for_in_the_system_folders(
    monkeypatch: pytest.MonkeyPatch, han: Path, tmp_path: Path
) -> None:
    """Pillow would search for it in the system's folders."""
    (tmp_path / "share" / "fonts").mkdir(parents=True)
    han.rename(tmp_path / "share" / "fonts" / "han.ttf")
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path / "share"))
    with pytest.raises(UsageError, match=r"han\.ttf cannot be read"):
        find_font("a", 20, "han.ttf")


def test_both_pictures_use_the_given_font_and_raise_its_errors(han: Path) -> None:
    photo = Image.new("RGB", (64, 48), GREEN)
    with pytest.raises(UsageError, match="漢"):
        caption_picture(photo, "漢")
    with pytest.raises(UsageError, match="漢"):
        attention_picture(photo, [("漢", flat())])
    assert ink(as_array(caption_picture(photo, "漢", font=han))[360:]).max() > 0.8
    assert ink(as_array(attention_picture(photo, [("漢", flat())], font=han))[-54:]).max() > 0.8


def test_a_letter_and_its_accent_are_composed_if_unicode_can() -> None:
    """More fonts have the composed form, and only the composed form is looked up."""
    with pytest.raises(UsageError, match=r"glyph for 'é' \(U\+00E9\); "):
        caption_picture(Image.new("RGB", (64, 48)), "cafe\u0301")


def test_a_system_font_is_used_for_letters_that_pillows_font_lacks(
    system_fonts: list[str], han: Path, tmp_path: Path
) -> None:
    (tmp_path / "damaged.ttf").write_bytes(b"none")
    (tmp_path / "other.ttf").write_bytes(font_file("字"))
    system_fonts += [str(tmp_path / "damaged.ttf"), str(tmp_path / "other.ttf"), str(han)]
    assert find_font("a dog", 20).getname() == embedded().getname()
    assert find_font("漢", 20).getname() == find_font("漢", 20, han).getname()
    with pytest.raises(UsageError, match=r"^Pillow's default font has no glyph for '字' \(U\+5B57\), '漢'"):
        find_font("漢字", 20)


def test_system_fonts_are_found_by_name(monkeypatch: pytest.MonkeyPatch, han: Path, tmp_path: Path) -> None:
    monkeypatch.undo()
    (tmp_path / "share" / "fonts").mkdir(parents=True)
    han.rename(tmp_path / "share" / "fonts" / "Caprun-Han.ttf")
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path / "share"))
    monkeypatch.setattr(fonts, "_SYSTEM_FONTS", ("Caprun-None.ttf", "Caprun-Han.ttf"))
    monkeypatch.setattr(fonts, "_system_fonts", fonts._system_fonts.__wrapped__)
    assert fonts._system_fonts() == [str(tmp_path / "share" / "fonts" / "Caprun-Han.ttf")]


@RIGHT_TO_LEFT
def test_the_first_letter_determines_the_direction() -> None:
    assert direction_of("2 כלבים Nike") == direction_of("« رجلٌ") == "rtl"
    assert direction_of("Nike כלבים") is direction_of("狗") is direction_of("123") is None


@pytest.fixture
def dejavu() -> Path:
    """Returns the path of a font with Hebrew and Arabic letters, which is part of matplotlib."""
    return Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@RIGHT_TO_LEFT
def test_right_to_left_captions_are_drawn_from_the_right(dejavu: Path) -> None:
    photo = Image.new("RGB", (64, 48), GREEN)
    for caption in ("כלב על הדשא", "رجلٌ يركضُ"):
        assert ink(as_array(caption_picture(photo, caption, font=dejavu))[360:]).max() > 0.8
    picture = as_array(attention_picture(photo, [("כלב", flat()), ("Nike", flat())], font=dejavu))
    own = np.flatnonzero((picture == GREEN).all(2).any(0))
    assert own.min() > picture.shape[1] / 2  # the photo comes first, at the right


def test_right_to_left_text_is_refused_without_fribidi(monkeypatch: pytest.MonkeyPatch, dejavu: Path) -> None:
    monkeypatch.setattr(features, "check", lambda _: False)
    photo = Image.new("RGB", (64, 48))
    with pytest.raises(UsageError, match="Pillow needs FriBiDi to draw right-to-left text; install it"):
        caption_picture(photo, "כלב", font=dejavu)
    with pytest.raises(UsageError, match="Pillow needs FriBiDi to draw right-to-left text; install it"):
        attention_picture(photo, [("כלב", flat())], font=dejavu)


def test_a_line_is_not_broken_before_a_combining_mark() -> None:
    from caprun.drawing.pictures import _wrap

    lines = _wrap("กั" * 40, embedded(), 50)
    assert len(lines) > 1
    assert all(line[0] == "ก" for line in lines)
