"""Random sizes, colours, shapes and words, from which outliers are drawn."""

from __future__ import annotations

import colorsys
import functools
import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Random = np.random.Generator
Colour = tuple[int, int, int]

_SIDES = (48, 96, 160, 224, 320, 480, 640, 800, 1024)
_LATIN = "abcdefghijklmnopqrstuvwxyz"
_ALPHABETS = (
    _LATIN,
    _LATIN.upper(),
    "0123456789.,:-+=%$",
    "абвгдежзийклмнопрстуфхцчшщъыьэюя",
    "αβγδεζηθικλμνξοπρστυφχψω",
    "אבגדהוזחטיכלמנסעפצקרשת",
    "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
)
_ALL_SCRIPTS = "DejaVuSans"
"""A font that matplotlib brings, the same on every host; it has every letter above."""
_LATIN_FONTS = (_ALL_SCRIPTS, "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono")


def image(pixels: npt.NDArray[np.floating[Any]]) -> Image.Image:
    """Converts pixels (height, width, 3), clipped to 0..255, to an image."""
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def size(rng: Random) -> tuple[int, int]:
    """Draws a width and a height, with an aspect from 1:2 to 2:1."""
    width = int(rng.choice(_SIDES))
    return width, max(24, round(width * 2 ** rng.uniform(-1, 1)))


def colour(rng: Random) -> Colour:
    """Draws a colour; black, white, greys and saturated colours are more frequent than by chance."""
    form = rng.random()
    if form < 0.1:
        return 0, 0, 0
    if form < 0.2:
        return 255, 255, 255
    if form < 0.35:
        grey = int(rng.integers(256))
        return grey, grey, grey
    if form < 0.6:
        red, green, blue = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.5, 1), rng.uniform(0.4, 1))
        return round(255 * red), round(255 * green), round(255 * blue)
    red_, green_, blue_ = rng.integers(0, 256, 3).tolist()
    return red_, green_, blue_


def canvas(rng: Random, of: tuple[int, int] | None = None) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Returns an empty picture, often white, and what draws on it."""
    ground = (255, 255, 255) if rng.random() < 0.4 else colour(rng)
    picture = Image.new("RGB", of or size(rng), ground)
    return picture, ImageDraw.Draw(picture)


def ink_on(rng: Random, picture: Image.Image) -> Colour:
    """Draws a colour that contrasts with the picture's corner."""
    ground = picture.getpixel((0, 0))
    assert isinstance(ground, tuple)
    for _ in range(20):
        ink = (0, 0, 0) if rng.random() < 0.3 else colour(rng)
        if sum(abs(a - b) for a, b in zip(ink, ground, strict=True)) > 150:
            return ink
    return (0, 0, 0) if sum(ground) > 380 else (255, 255, 255)


def shape(rng: Random, draw: ImageDraw.ImageDraw, of: tuple[int, int], share: float, off: float = 0.5) -> None:
    """Draws one shape, filled or not.

    Args:
        rng: source of random numbers.
        draw: the picture to draw on.
        of: width and height of the picture.
        share: size of the shape as a share of the shorter side.
        off: largest distance from the middle as a share of the sides; 0.5 is the edge.
    """
    width, height = of
    side = max(4.0, share * min(width, height))
    x, y = width * (0.5 + rng.uniform(-off, off)), height * (0.5 + rng.uniform(-off, off))
    tall = side / 2 * rng.uniform(0.4, 1)
    box = (x - side / 2, y - tall, x + side / 2, y + tall)
    ink = colour(rng)
    thick = max(1, round(side * rng.uniform(0.03, 0.2)))
    form = rng.integers(7)
    if form == 0:
        draw.ellipse(box, fill=ink)
    elif form == 1:
        draw.ellipse(box, outline=ink, width=thick)
    elif form == 2:
        draw.rectangle(box, fill=ink)
    elif form == 3:
        draw.rounded_rectangle(box, tall * rng.uniform(0, 0.4), outline=ink, width=thick)
    elif form == 4:
        draw.arc(box, rng.uniform(0, 360), rng.uniform(0, 360), fill=ink, width=thick)
    else:  # a polygon, or a star
        corners, turn = int(rng.integers(3, 12)), rng.uniform(0, 2 * math.pi)
        inner = math.cos(math.pi / corners) if form == 5 else rng.uniform(0.3, 0.7)
        points = []
        for i in range(2 * corners):
            radius = side / 2 * (inner if i % 2 else 1)
            angle = turn + math.pi * i / corners
            points.append((x + radius * math.cos(angle), y + radius * math.sin(angle)))
        draw.polygon(points, fill=ink)


class Writing:
    """Words in one script and font. Latin is as frequent as all other scripts together."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        latin = rng.random() < 0.5
        self._letters = list(_LATIN if latin else _ALPHABETS[int(rng.integers(len(_ALPHABETS)))])
        self._font = _LATIN_FONTS[int(rng.integers(len(_LATIN_FONTS)))] if latin else _ALL_SCRIPTS

    def font(self, pixels: float) -> ImageFont.FreeTypeFont:
        """Returns the font at a height in pixels."""
        return _load_font(self._font, max(6, round(pixels)))

    def word(self) -> str:
        """Draws a word of random letters."""
        word = "".join(self._rng.choice(self._letters, int(self._rng.integers(1, 11))))
        return word.capitalize() if self._rng.random() < 0.2 else word

    def words(self, most: int) -> str:
        """Draws one word or more, up to `most`."""
        return " ".join(self.word() for _ in range(int(self._rng.integers(1, most + 1))))


@functools.lru_cache(maxsize=64)
def _load_font(name: str, pixels: int) -> ImageFont.FreeTypeFont:
    file = Path(mpl.get_data_path(), "fonts", "ttf", f"{name}.ttf")
    # not every Pillow has libraqm, which would place letters differently
    return ImageFont.truetype(str(file), pixels, layout_engine=ImageFont.Layout.BASIC)
