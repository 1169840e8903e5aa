"""Text -> a font that has all of its letters."""

import functools
import os
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from PIL import ImageFont

from caprun.errors import UsageError

_EMBEDDED = ""  # stands for the font inside Pillow where a path is expected
_PROBE_SIZE = 24  # pixels; large enough that two glyphs differ whenever they are different
_NO_LETTER = "\U0010ffff"  # Unicode promises never to assign it, so every font shows its sign for "missing"
_PREFERRED = ("notosans-", "notosanscjk", "notosans", "dejavusans", "arialunicode", "arial unicode", "segoeui", "arial")
_STYLED = ("bold", "black", "heavy", "italic", "oblique", "light", "thin", "condensed", "narrow", "mono", "serif")


def find_font(text: str, size: int, font: str | os.PathLike[str] | None = None) -> ImageFont.FreeTypeFont:
    """A font of `size` pixels with a glyph for every letter of `text`.

    It is the file `font` if one is given; else the font inside Pillow, the same on every host; else the first
    installed font that will do. Right-to-left and joined scripts are shaped where Pillow has libraqm, and only there.

    Raises `UsageError` if `font` is not a readable font or lacks a letter, or if no installed font has them all.
    """
    # Always a path to a file: a bare name would make Pillow look for an installed font of that name.
    paths = _candidates() if font is None else iter([_check_file(os.fsdecode(font))])
    letters = frozenset(letter for letter in text if not _is_invisible(letter))
    fewest: frozenset[str] | None = None
    for path in paths:
        missing = frozenset(letter for letter in letters if not _has_glyph(path, letter))
        if not missing:
            return _open(path, size)
        if fewest is None or len(missing) < len(fewest):
            fewest = missing
    names = _list_letters(fewest or letters)
    if font is not None:
        raise UsageError(f"the font {os.fsdecode(font)} has no glyph for {names}; choose another with --font FILE.ttf")
    raise UsageError(f"no font here has a glyph for {names}; --font FILE.ttf gives one")


def _list_letters(letters: frozenset[str], most: int = 8) -> str:
    # The code points as well: whoever lacks the font may see only boxes.
    named = [
        f"{letter} (U+{ord(letter):04X})" if letter.isprintable() else f"U+{ord(letter):04X}"
        for letter in sorted(letters)
    ]
    more = f" and {len(named) - most} more" if len(named) > most else ""
    return ", ".join(named[:most]) + more


def _check_file(path: str) -> str:
    if not Path(path).is_file():
        raise UsageError(f"the font {path} is not a file; give the path of a .ttf or .otf file")
    try:
        _open(path, _PROBE_SIZE)
    except OSError as error:  # FreeType's, for what is no font, and Python's, for what may not be read
        raise UsageError(f"the font {path} cannot be read ({error}); give another .ttf or .otf file") from error
    return path


@functools.lru_cache(maxsize=256)
def _open(path: str, size: int) -> ImageFont.FreeTypeFont:
    if path != _EMBEDDED:
        return ImageFont.truetype(path, size)
    embedded = ImageFont.load_default(size)
    assert isinstance(embedded, ImageFont.FreeTypeFont), "with a size, Pillow gives its outline font"
    return embedded


@functools.lru_cache(maxsize=256)
def _probe(path: str) -> ImageFont.FreeTypeFont:
    if path == _EMBEDDED:
        return _open(path, _PROBE_SIZE)
    # Not with libraqm, which sets a lone mark on a dotted circle, whether or not the font has the mark. (Nor through
    # font_variant, which ignores this argument in older Pillows.)
    return ImageFont.truetype(path, _PROBE_SIZE, layout_engine=ImageFont.Layout.BASIC)


def _is_invisible(letter: str) -> bool:
    """Spaces, controls, joiners and variation selectors need no glyph."""
    if unicodedata.category(letter) in {"Zs", "Zl", "Zp", "Cc", "Cf"}:
        return True
    return letter == "\u034f" or "\ufe00" <= letter <= "\ufe0f" or "\U000e0100" <= letter <= "\U000e01ef"


@functools.lru_cache(maxsize=65536)
def _picture(path: str, letter: str) -> tuple[tuple[int, int], bytes]:
    """How the font draws a letter: its size and its pixels."""
    mask = _probe(path).getmask(letter, mode="L")
    return mask.size, bytes(mask)


def _has_glyph(path: str, letter: str) -> bool:
    """Whether the font draws something for a visible letter, other than its sign for a missing one.

    Pillow does not tell which letters a font maps, but what it draws does.
    """
    try:
        size, pixels = _picture(path, letter)
        return any(pixels) and (size, pixels) != _picture(path, _NO_LETTER)
    except (OSError, ValueError):  # a bitmap font without this size, a damaged one, or half of a surrogate pair
        return False


def _candidates() -> Iterator[str]:
    yield _EMBEDDED
    yield from _installed_fonts()


@functools.lru_cache(maxsize=1)
def _installed_fonts() -> tuple[str, ...]:
    """Every installed font, those of plain style first, and among them the ones known for many letters."""
    found = {
        str(Path(folder, name))
        for root in _font_folders()
        for folder, _, names in os.walk(root)
        for name in names
        if name.lower().endswith((".ttf", ".otf", ".ttc")) and not name.startswith("LastResort")
    }
    return tuple(sorted(found, key=_preference))


def _preference(path: str) -> tuple[bool, int, str]:
    name = Path(path).stem.lower()
    known = next((rank for rank, prefix in enumerate(_PREFERRED) if name.startswith(prefix)), len(_PREFERRED))
    return any(style in name for style in _STYLED), known, path


def _font_folders() -> list[Path]:
    home = Path.home()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA", str(home / "AppData" / "Local"))
        return [Path(os.environ.get("WINDIR", r"C:\Windows"), "Fonts"), Path(local, "Microsoft", "Windows", "Fonts")]
    if sys.platform == "darwin":
        return [home / "Library/Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts")]
    own = os.environ.get("XDG_DATA_HOME") or str(home / ".local/share")
    shared = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    return [home / ".fonts", *(Path(folder, "fonts") for folder in [own, *shared.split(":")] if folder)]
