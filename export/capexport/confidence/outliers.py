"""Outliers: random pictures that are not photos, of kinds that a captioner cannot describe."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Random = np.random.Generator
Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]

_LATIN = "abcdefghijklmnopqrstuvwxyz"
ALPHABETS = (
    _LATIN.upper(),
    "0123456789.,:-+=%$",
    "абвгдежзийклмнопрстуфхцчшщъыьэюя",
    "αβγδεζηθικλμνξοπρστυφχψω",
    "אבגדהוזחטיכלמנסעפצקרשת",
    "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
)
ALL_SCRIPTS = "DejaVuSans"
"""A matplotlib font that has all these letters."""
_LATIN_FONTS = (ALL_SCRIPTS, "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono")


def draw_outliers(kind: str, count: int, seed: int) -> Iterator[Image.Image]:
    """Yields RGB pictures of one of `KINDS`, in various sizes; equal seeds yield equal pictures."""
    rng = np.random.default_rng([seed, *kind.encode()])
    for _ in range(count):
        picture, worn = KINDS[kind](rng), rng.random()
        if worn < 0.1:
            picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 4)))
        elif worn < 0.2:
            picture = _image(np.asarray(picture) + rng.normal(0, rng.uniform(2, 15), (*picture.size[::-1], 3)))
        yield picture


def flat_colour(rng: Random) -> Image.Image:
    """Draws one colour, like a photo of a lens cap or a white wall; some have grain or darker corners."""
    x, y = _grid(rng)
    grain = rng.choice([0, 0, rng.uniform(0.5, 6)])
    dark = rng.choice([0, 0, rng.uniform(0, 0.4)])
    pixels = np.array(_colour(rng)) + grain * rng.normal(0, 1, (*x.shape, 3))
    return _image(pixels * (1 - dark * (x**2 + y**2))[..., None])


def gradient(rng: Random) -> Image.Image:
    """Draws a linear, radial or conic gradient of two to four colours."""
    x, y = _grid(rng)
    angle = rng.uniform(0, 2 * math.pi)
    along = (
        (x * math.cos(angle) + y * math.sin(angle)) / 2 + 0.5,
        np.hypot(x - math.cos(angle) / 2, y - math.sin(angle) / 2) / 2,
        (np.arctan2(y, x) + math.pi) / (2 * math.pi),
    )[rng.choice(3, p=[0.5, 0.25, 0.25])]
    colours = np.array([_colour(rng) for _ in range(rng.integers(2, 5))])
    stops = np.linspace(0, 1, len(colours))
    return _image(np.stack([np.interp(along, stops, channel) for channel in colours.T], -1))


def noise(rng: Random) -> Image.Image:
    """Draws noise at one scale or at several: pixels, blocks, blots or clouds, in grey or colour."""
    height, width = _size(rng)
    several = [2, 4, 8, 16, 32, 64, 128]
    scales = ([1], [1], [int(rng.integers(2, 90))], several)[rng.integers(4)]
    resample = Image.Resampling.NEAREST if rng.random() < 0.5 else Image.Resampling.BICUBIC
    channels = []
    for _ in range(int(rng.choice([1, 3]))):
        values = np.zeros((height, width))
        for scale in scales:
            grid = rng.normal(0, 1, (max(2, height // scale), max(2, width // scale))).astype(np.float32)
            values += scale**0.5 * np.asarray(Image.fromarray(grid).resize((width, height), resample))
        channels.append(values / values.std())
    values = np.stack(channels, -1)
    ground, form = np.array(_colour(rng)), rng.integers(3)
    if form == 0:  # black and white, or one colour with black and white spots
        kept = rng.random((height, width, 1)) < rng.choice([0, rng.uniform(0, 0.9)])
        return _image(np.where(kept, ground, np.where(values > rng.normal(), 255, 0)))
    return _image(np.broadcast_to(ground + rng.uniform(15, 120) * values, (height, width, 3)))


def pattern(rng: Random) -> Image.Image:
    """Draws a repeated pattern (stripes, waves, checks, dots, grids), a two-dimensional code, or a barcode."""
    height, width = _size(rng)
    y, x = np.mgrid[:height, :width]
    angle = rng.choice([0, math.pi / 2, rng.uniform(0, math.pi)])
    period = rng.uniform(4, max(8, min(width, height) / 2))
    u, v = (x * math.cos(angle) + y * math.sin(angle)) / period, (y * math.cos(angle) - x * math.sin(angle)) / period
    code = rng.random((int(rng.integers(8, 60)), int(rng.integers(8, 60)))) < 0.5
    share = rng.uniform(0.1, 0.6)
    on = (
        u % 1 < share,
        (np.sin(2 * math.pi * u) + 1) / 2,
        (np.floor(u) + np.floor(v)) % 2,
        np.hypot(u % 1 - 0.5, v % 1 - 0.5) < share * 0.7,
        (u % 1 < share / 2) | (v % 1 < share / 2),
        code[y * len(code) // height, x * code.shape[1] // width],
        code[0, x * code.shape[1] // width],
    )[rng.integers(7)]
    plain = rng.random() < 0.3  # black on white
    first, second = ((0, 0, 0), (255, 255, 255)) if plain else (_colour(rng), _colour(rng))
    return _image(np.array(first) + on[..., None] * (np.array(second) - np.array(first)))


def shapes(rng: Random) -> Image.Image:
    """Draws few or many circles, boxes, polygons, lines and scribbles on a plain background."""
    canvas = _Canvas(rng)
    share_of_lines = rng.choice([0, 0.5, 1])
    for _ in range(int(rng.choice([1, 2, 3, 6, 15, 60]))):
        if rng.random() < share_of_lines:
            canvas.line()
        else:
            canvas.shape(rng.uniform(0.05, 0.5), off=0.5)
    return canvas.picture


def icon(rng: Random) -> Image.Image:
    """Draws an icon or a logo: a letter or a few shapes on a plain or rounded background; some have a name below."""
    side = int(rng.choice([32, 48, 64, 128, 256, 512, 1024]))
    canvas = _Canvas(rng, (side, round(side * rng.choice([1, 1, 1.4]))))
    if rng.random() < 0.6:
        rounded = side * float(rng.choice([0, 0.15, 0.25, 0.42]))
        canvas.draw.rounded_rectangle((side * 0.08, side * 0.08, side * 0.92, side * 0.92), rounded, _colour(rng))
    if rng.random() < 0.35:
        font = canvas.font(side * rng.uniform(0.4, 0.8))
        canvas.draw.text((side / 2, side / 2), canvas.words(1)[:1], _colour(rng), font, "mm")
    else:
        for _ in range(int(rng.integers(1, 6))):
            canvas.shape(rng.uniform(0.15, 0.7), off=0.15)
    if canvas.picture.height > side:
        name = canvas.words(2)
        font = canvas.font(min(0.25 * side, 1.6 * side / len(name)))
        canvas.draw.text((side / 2, side * 1.2), name, canvas.ink, font, "mm")
    return canvas.picture


def text(rng: Random) -> Image.Image:
    """Draws a few large words, or a page of text in one to three columns; some are rotated."""
    canvas = _Canvas(rng)
    width, height = canvas.picture.size
    if rng.random() < 0.2:
        words = [canvas.words(2) for _ in range(int(rng.integers(1, 4)))]
        font = canvas.font(min(height / (len(words) + 1), 1.5 * width / max(map(len, words))))
        middle = (width / 2, height / 2)
        canvas.draw.multiline_text(middle, "\n".join(words), canvas.ink, font, "mm", align="center")
    else:
        columns = int(rng.choice([1, 1, 1, 2, 3]))
        pixels = max(7, height / rng.uniform(6, 45))
        for column in range(columns):
            left, right = width * (column + 0.05) / columns, width * (column + 0.95) / columns
            canvas.paragraphs((left, height * 0.05, right, height * 0.95), pixels)
    if rng.random() < 0.2:
        return canvas.picture.rotate(rng.uniform(-90, 90), Image.Resampling.BILINEAR, fillcolor=canvas.ground)
    return canvas.picture


def screenshot(rng: Random) -> Image.Image:
    """Draws a window or a phone screen: bars, then text or a grid of labels, buttons or cards."""
    width, height = ((1280, 720), (800, 600), (640, 480), (360, 640), (400, 800))[rng.integers(5)]
    grey = int(rng.choice([rng.integers(10, 60), rng.integers(225, 256)]))
    canvas, accent = _Canvas(rng, (width, height), (grey, grey, grey)), _colour(rng)
    draw, shade = canvas.draw, (grey + (20 if grey < 128 else -20),) * 3
    pixels, top = rng.uniform(12, 26), height * rng.uniform(0.04, 0.14)
    draw.rectangle((0, 0, width, top), accent if rng.random() < 0.6 else shade)
    draw.text((width * 0.03, top / 2), canvas.words(3), canvas.ink, canvas.font(top * 0.5), "lm")
    left = rng.choice([0, width * rng.uniform(0.15, 0.3)])
    if left:
        draw.rectangle((0, top, left, height), shade)
        canvas.paragraphs((width * 0.02, top + pixels, left * 0.9, height), pixels)
    left, top, right, bottom = left + width * 0.03, top + pixels, width * 0.97, height * 0.97
    if rng.random() < 0.3:
        canvas.paragraphs((left, top, right, bottom), pixels)
        return canvas.picture
    rows, columns = int(rng.integers(2, 14)), int(rng.integers(1, 6))
    wide, tall = (right - left) / columns, (bottom - top) / rows
    filled, rounded, label = rng.random() < 0.6, rng.choice([0, 4, 12]), canvas.font(pixels * 0.8)
    for y in np.arange(top, bottom - tall / 2, tall).tolist():
        draw.line((left, y, right, y), shade)
        for column in range(columns):
            x = left + column * wide + (rng.uniform(0, 0.3) * wide if columns == 1 else 0)
            if filled:
                fill = _colour(rng) if columns > 1 else (accent, shade)[rng.integers(2)]
                draw.rounded_rectangle((x, y + 2, x + wide * 0.7, y + tall * 0.75), rounded, fill)
            draw.text((x + 4, y + tall * 0.8), canvas.words(3)[:24], canvas.ink, label, "ls")
    return canvas.picture


def chart(rng: Random) -> Image.Image:
    """Draws a bar, line, scatter or pie chart."""
    count = int(rng.integers(3, 12))
    figure = Figure(figsize=tuple(rng.uniform(1.5, 7, 2)), dpi=100, facecolor=_share(rng))
    axes = figure.subplots()
    words = _Canvas(rng).words(3)
    axes.set_title(words, fontsize=rng.uniform(5, 14), parse_math=False)  # the words may contain two dollar signs
    axes.set_facecolor(_share(rng) if rng.random() < 0.5 else figure.get_facecolor())
    axes.grid(rng.random() < 0.5)
    form = rng.integers(4)
    if form == 3:
        axes.pie(rng.dirichlet(np.ones(count)), colors=[_share(rng) for _ in range(count)])
    for series in range(int(rng.integers(1, 4)) if form < 3 else 0):
        x, y, colour = np.arange(count * 4), np.cumsum(rng.normal(0, 1, count * 4)), _share(rng)
        if form == 0:
            axes.bar(np.arange(count) + series / 4, rng.uniform(0.05, 1, count), rng.uniform(0.2, 0.8), color=colour)
        elif form == 1:
            axes.plot(x, y, color=colour, linewidth=rng.uniform(1, 3))
        else:
            axes.scatter(rng.permutation(x), y, rng.uniform(3, 30), color=colour)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return Image.open(png).convert("RGB")


KINDS: Mapping[str, Callable[[Random], Image.Image]] = {
    draw.__name__.replace("_", " "): draw
    for draw in (flat_colour, gradient, noise, pattern, shapes, icon, text, screenshot, chart)
}
"""The function that draws one picture of each kind."""


def _image(pixels: npt.NDArray[Any]) -> Image.Image:
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _size(rng: Random) -> tuple[int, int]:
    """Draws two sides in pixels, with an aspect from 1:2 to 2:1."""
    side = int(rng.choice([48, 96, 160, 224, 320, 480, 640, 800, 1024]))
    return max(24, round(side * 2 ** rng.uniform(-1, 1))), side


def _grid(rng: Random) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Returns the x and y of each pixel, in -1..1, of a picture of random size."""
    height, width = _size(rng)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return x, y


def _colour(rng: Random) -> Colour:
    """Draws a colour; black, white, greys and saturated colours are more frequent than in a uniform draw."""
    if rng.random() < 0.35:
        return ((0, 255, int(rng.integers(256)))[rng.integers(3)],) * 3
    red, green, blue = (255 * rng.beta(0.6, 0.6, 3)).astype(int).tolist()
    return red, green, blue


def _share(rng: Random) -> tuple[float, float, float]:
    """Draws a colour for matplotlib, often white."""
    red, green, blue = (255, 255, 255) if rng.random() < 0.3 else _colour(rng)
    return red / 255, green / 255, blue / 255


class _Canvas:
    """An empty picture, often white, with a contrasting ink, a script and a font."""

    def __init__(self, rng: Random, size: tuple[int, int] | None = None, ground: Colour | None = None) -> None:
        self._rng = rng
        self.ground = ground or ((255, 255, 255) if rng.random() < 0.4 else _colour(rng))
        self.picture = Image.new("RGB", size or _size(rng), self.ground)
        self.draw = ImageDraw.Draw(self.picture)
        self.side = min(self.picture.size)
        red, green, blue = (part // 3 for part in _colour(rng))
        self.ink: Colour = (red, green, blue) if sum(self.ground) > 380 else (255 - red, 255 - green, 255 - blue)
        latin = rng.random() < 0.5
        self._letters = list(_LATIN if latin else ALPHABETS[rng.integers(len(ALPHABETS))])
        self._font = _LATIN_FONTS[rng.integers(len(_LATIN_FONTS))] if latin else ALL_SCRIPTS

    def line(self) -> None:
        """Draws a line through random points or along a random walk."""
        rng = self._rng
        points = rng.uniform(0, 1, (int(rng.integers(2, 30)), 2))
        if rng.random() < 0.5:
            points = (points[0] + np.cumsum(rng.normal(0, 0.06, points.shape), 0)).clip(0, 1)
        ink, width = self.ink if rng.random() < 0.7 else _colour(rng), int(rng.integers(1, 3 + self.side // 60))
        self.draw.line((points * self.picture.size).ravel().tolist(), ink, width)

    def shape(self, share: float, off: float) -> None:
        """Draws a shape whose size is a share of the shorter side, at most `off` times the sides from the middle."""
        rng, draw, ink = self._rng, self.draw, _colour(self._rng)
        radius = max(2.0, share * self.side / 2)
        x, y = (side * (0.5 + rng.uniform(-off, off)) for side in self.picture.size)
        tall, thick = radius * rng.uniform(0.4, 1), max(1, round(radius * rng.uniform(0.05, 0.4)))
        box = (x - radius, y - tall, x + radius, y + tall)
        form = rng.integers(6)
        if form == 0:
            draw.ellipse(box, ink)
        elif form == 1:
            draw.arc(box, rng.uniform(0, 180), rng.uniform(180, 540), ink, thick)
        elif form == 2:
            draw.rectangle(box, ink)
        elif form == 3:
            draw.rounded_rectangle(box, tall * rng.uniform(0, 0.4), None, ink, thick)
        else:  # a polygon, or a star
            corners, turn = int(rng.integers(3, 12)), rng.uniform(0, 2 * math.pi)
            inner = rng.uniform(0.3, 0.7) if form == 5 else math.cos(math.pi / corners)
            angles = turn + np.arange(2 * corners) * math.pi / corners
            radii = radius * np.tile([1, inner], corners)
            draw.polygon(np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], 1).ravel().tolist(), ink)

    def font(self, pixels: float) -> ImageFont.FreeTypeFont:
        return load_font(self._font, max(6, round(pixels)))

    def words(self, most: int) -> str:
        """Returns one to `most` words of random letters."""
        sizes = self._rng.integers(1, 11, self._rng.integers(1, most + 1))
        words = ("".join(self._rng.choice(self._letters, size)) for size in sizes)
        return " ".join(word.capitalize() if self._rng.random() < 0.2 else word for word in words)

    def paragraphs(self, box: Box, pixels: float) -> None:
        """Draws lines of words in a box; some end early, and some are left out."""
        left, top, right, bottom = box
        letters = max(1, int((right - left) / (0.55 * pixels)))
        ragged, gaps = self._rng.uniform(0, 0.6), self._rng.uniform(0, 0.25)
        for y in np.arange(top, bottom - pixels, 1.4 * pixels).tolist():
            if self._rng.random() > gaps:
                end = int(letters * (1 - ragged * self._rng.random()))
                words = self.words(letters // 2 + 4)[: max(1, end)]
                self.draw.text((left, y), words, self.ink, self.font(pixels))


@functools.lru_cache(maxsize=64)
def load_font(name: str, pixels: int) -> ImageFont.FreeTypeFont:
    """Loads a matplotlib font."""
    file = Path(mpl.get_data_path(), "fonts", "ttf", f"{name}.ttf")
    # not every Pillow has libraqm, which would place letters differently
    return ImageFont.truetype(str(file), pixels, layout_engine=ImageFont.Layout.BASIC)
