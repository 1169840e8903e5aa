"""Which fonts the pictures are written in."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from caprun.drawing import fonts
from caprun.drawing.fonts import find_font
from caprun.drawing.pictures import attention_picture, caption_picture
from caprun.errors import UsageError
from tests.caprun.drawing.support.pictures import GREEN, as_array, embedded, flat, font_file, ink


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
