"""Finds a font with the glyphs for a text, and the direction of the text."""

import contextlib
import functools
import io
import os
import unicodedata
from pathlib import Path
from typing import TypeAlias

from PIL import ImageFont, features

from caprun.errors import UsageError

FontFile: TypeAlias = str | os.PathLike[str] | None

_MOST_NAMED = 8  # letters listed in a message
_PROBE_SIZE = 24  # pixels; large enough to tell different glyphs apart
_UNASSIGNED = "\U0010ffff"  # never assigned by Unicode, so every font draws its .notdef glyph
# Linux, macOS and Windows fonts, tried in this order for text that Pillow's default font cannot draw.
_SYSTEM_FONTS = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "wqy-zenhei.ttc", "FreeSans.ttf"),
    *(
        f"NotoSans{script}-Regular.ttf"
        for script in ("Arabic", "Hebrew", "Devanagari", "Thai", "Lao", "Khmer", "Myanmar")
    ),
    *("Arial Unicode.ttf", "segoeui.ttf", "msyh.ttc", "YuGothM.ttc", "malgun.ttf"),
    *("LeelawUI.ttf", "Nirmala.ttf", "mmrtext.ttf"),
)
_RIGHT_TO_LEFT = ("R", "AL")  # bidirectional classes
_WITHOUT_GLYPH = {"Zs", "Zl", "Zp", "Cc", "Cf"}  # categories of spaces, controls and joiners


def find_font(text: str, size: int, font: FontFile = None) -> ImageFont.FreeTypeFont:
    """Loads a font of `size` pixels and checks that it has a glyph for every letter of a text.

    Without a font file, it is Pillow's default font, which is the same on every host, or, if that has no glyph for a
    letter, the first common system font that has them all.

    Raises:
        UsageError: The font cannot be read or has no glyph for a letter.
    """
    name = "Pillow's default font" if font is None else f"The font {os.fsdecode(font)}"
    try:
        if font is None:
            loaded = ImageFont.load_default(size)
            assert isinstance(loaded, ImageFont.FreeTypeFont), "with a size, Pillow loads its outline font"
            face = probe = loaded
        else:
            content = Path(os.fsdecode(font)).read_bytes()  # Pillow would look for a missing file among system fonts
            face = ImageFont.truetype(io.BytesIO(content), size)
            # libraqm would put a lone accent on a dotted circle, whether or not the font has the accent
            probe = ImageFont.truetype(io.BytesIO(content), _PROBE_SIZE, layout_engine=ImageFont.Layout.BASIC)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{name} cannot be read ({reason}); pass a TrueType or OpenType file to `--font`.") from error
    lacking = [f"{letter!r} (U+{ord(letter):04X})" for letter in sorted(set(text)) if not _has_glyph(probe, letter)]
    if lacking and font is None:
        for path in _system_fonts():
            with contextlib.suppress(UsageError):
                return find_font(text, size, path)
    if lacking:
        more = f" and {len(lacking) - _MOST_NAMED} more" if len(lacking) > _MOST_NAMED else ""
        raise UsageError(
            f"{name} has no glyph for {', '.join(lacking[:_MOST_NAMED])}{more}; choose another font with `--font`."
        )
    return face


def direction_of(text: str) -> str | None:
    """Returns `rtl` if the first strong letter of a text is right-to-left; None leaves the direction to Pillow.

    Raises:
        UsageError: Pillow cannot draw right-to-left text.
    """
    classes = map(unicodedata.bidirectional, text)
    if next((one for one in classes if one in ("L", *_RIGHT_TO_LEFT)), "L") == "L":
        return None
    if not features.check("raqm"):
        raise UsageError(
            "Pillow needs FriBiDi to draw right-to-left text; install it, for example the package libfribidi0."
        )
    return "rtl"


def _has_glyph(font: ImageFont.FreeTypeFont, letter: str) -> bool:
    """Returns whether a font draws a letter other than as .notdef; Pillow does not expose the character map."""
    if unicodedata.category(letter) in _WITHOUT_GLYPH or unicodedata.name(letter, "").startswith("VARIATION SELECTOR"):
        return True
    try:
        drawn, missing = font.getmask(letter), font.getmask(_UNASSIGNED)
    except (OSError, ValueError):  # a bitmap font without this size, a damaged font, or a lone surrogate
        return False
    return any(drawn) and (drawn.size, bytes(drawn)) != (missing.size, bytes(missing))


@functools.cache
def _system_fonts() -> list[str]:
    """Finds the common fonts in the system's font folders, which Pillow searches."""
    found = []
    for name in _SYSTEM_FONTS:
        with contextlib.suppress(OSError):
            found.append(str(ImageFont.truetype(name, _PROBE_SIZE).path))
    return found
