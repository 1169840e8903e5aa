"""Outliers with text: pages, screenshots and charts."""

from __future__ import annotations

import itertools
import math

import numpy as np
from PIL import Image, ImageDraw

from capexport.confidence.outliers.canvas import Colour, Random, Writing, canvas, colour, ink_on


def text(rng: Random) -> Image.Image:
    """Draws a headline, or a page of text in one to three columns; some are rotated."""
    picture, draw = canvas(rng)
    width, height = picture.size
    writing = Writing(rng)
    ink = ink_on(rng, picture)
    form = rng.integers(5)
    if form == 0:  # a few words, large
        lines = [writing.words(2) for _ in range(int(rng.integers(1, 4)))]
        font = writing.font(min(height / (len(lines) + 1), 1.5 * width / max(map(len, lines))))
        draw.text((width / 2, height / 2), "\n".join(lines), ink, font, "mm", align="center")
    else:
        columns = int(rng.choice([1, 1, 1, 2, 3]))
        pixels = max(7, height / rng.uniform(6, 45))
        for column in range(columns):
            left, wide = width * (column + 0.05) / columns, width * 0.9 / columns
            _paragraphs(rng, draw, (left, height * 0.05, left + wide, height * 0.95), writing, pixels, ink)
    if rng.random() < 0.2:
        picture = picture.rotate(rng.uniform(-90, 90), Image.Resampling.BILINEAR, fillcolor=picture.getpixel((0, 0)))
    return picture


def _paragraphs(
    rng: Random,
    draw: ImageDraw.ImageDraw,
    box: tuple[float, float, float, float],
    writing: Writing,
    pixels: float,
    ink: Colour,
) -> None:
    """Draws lines of words in a box; some end early, and some are left out."""
    left, top, right, bottom = box
    font = writing.font(pixels)
    letters = max(1, int((right - left) / (0.55 * pixels)))
    ragged, gaps = rng.uniform(0, 0.6), rng.uniform(0, 0.25)
    y = top
    while y + pixels < bottom:
        if rng.random() > gaps:
            line = writing.words(4)
            while len(line) < letters * (1 - ragged * rng.random()):
                line += " " + writing.word()
            draw.text((left, y), line[:letters], ink, font)
        y += 1.4 * pixels


def screenshot(rng: Random) -> Image.Image:
    """Draws a window or a phone: bars, buttons, cards, lists and text on a light or dark ground."""
    sizes = ((1280, 720), (800, 600), (1024, 768), (640, 480), (360, 640), (400, 800))
    width, height = sizes[int(rng.integers(len(sizes)))]
    dark = rng.random() < 0.4
    level = int(rng.integers(10, 60) if dark else rng.integers(225, 256))
    picture = Image.new("RGB", (width, height), (level, level, min(255, level + int(rng.integers(0, 12)))))
    draw = ImageDraw.Draw(picture)
    ink = (220, 220, 220) if dark else (30, 30, 30)
    accent = colour(rng)
    writing = Writing(rng)
    pixels = rng.uniform(12, 26)
    top = height * rng.uniform(0.04, 0.14)
    draw.rectangle((0, 0, width, top), fill=accent if rng.random() < 0.6 else _shade(level, 20))
    draw.text((width * 0.03, top / 2), writing.words(3), ink, writing.font(top * 0.5), "lm")
    left = width * rng.uniform(0.15, 0.3) if rng.random() < 0.5 else 0
    if left:
        draw.rectangle((0, top, left, height), fill=_shade(level, 12))
        _paragraphs(rng, draw, (width * 0.02, top + pixels, left * 0.9, height), writing, pixels, ink)
    body = (left + width * 0.03, top + pixels, width * 0.97, height * 0.97)
    form = rng.integers(4)
    if form == 0:  # code or an article
        _paragraphs(rng, draw, body, writing, pixels, ink)
    elif form == 1:  # rows with lines between them, as in mails, tables and settings
        rows, columns = int(rng.integers(4, 16)), int(rng.integers(1, 6))
        for row in range(rows):
            y = body[1] + (body[3] - body[1]) * row / rows
            draw.line((body[0], y, body[2], y), fill=_shade(level, 40))
            for column in range(columns):
                x = body[0] + (body[2] - body[0]) * column / columns
                draw.text((x, y + 4), writing.words(2)[:14], ink, writing.font(pixels * 0.8))
    elif form == 2:  # cards, or the icons of a desktop
        rows, columns = int(rng.integers(1, 5)), int(rng.integers(2, 6))
        for row in range(rows):
            for column in range(columns):
                x = body[0] + (body[2] - body[0]) * column / columns
                y = body[1] + (body[3] - body[1]) * row / rows
                right, below = (body[2] - body[0]) * 0.8 / columns, (body[3] - body[1]) * 0.6 / rows
                draw.rounded_rectangle((x, y, x + right, y + below), 8, fill=colour(rng))
                draw.text((x, y + below + 2), writing.words(2)[:16], ink, writing.font(pixels * 0.8))
    else:  # a dialogue or a chat
        for row in range(int(rng.integers(2, 9))):
            y = body[1] + row * pixels * 3.2
            x = body[0] if rng.random() < 0.5 else body[0] + (body[2] - body[0]) * 0.3
            right = x + (body[2] - body[0]) * rng.uniform(0.3, 0.7)
            ground = accent if rng.random() < 0.4 else _shade(level, 25)
            draw.rounded_rectangle((x, y, right, y + pixels * 2.4), pixels * 0.7, fill=ground)
            draw.text((x + 8, y + pixels), writing.words(4)[:30], ink, writing.font(pixels), "lm")
    return picture


def _shade(level: int, by: int) -> Colour:
    """Returns a grey that differs from another by `by`."""
    grey = level + by if level < 128 else level - by
    return grey, grey, grey


def chart(rng: Random) -> Image.Image:
    """Draws a chart of bars, lines, points or slices, with axes and names."""
    picture, draw = canvas(rng)
    width, height = picture.size
    ink = ink_on(rng, picture)
    writing = Writing(rng)
    font = writing.font(max(7, height / 22))
    left, top, right, bottom = width * 0.12, height * 0.12, width * 0.95, height * 0.88
    draw.text((width / 2, height * 0.06), writing.words(3), ink, font, "mm")
    form = rng.integers(4)
    count = int(rng.integers(3, 12))
    if form == 0:
        angles = np.concatenate([[0.0], np.cumsum(rng.dirichlet(np.ones(count)))]) * 360
        radius = min(width, height) * 0.38
        box = (width / 2 - radius, height / 2 - radius, width / 2 + radius, height / 2 + radius)
        for first, last in itertools.pairwise(angles):
            draw.pieslice(box, first, last, fill=colour(rng), outline=ink)
        if rng.random() < 0.4:
            hole = radius * rng.uniform(0.3, 0.7)
            box = (width / 2 - hole, height / 2 - hole, width / 2 + hole, height / 2 + hole)
            draw.ellipse(box, fill=picture.getpixel((0, 0)))
        return picture
    for y in np.linspace(top, bottom, int(rng.integers(2, 9))).tolist():
        draw.line((left, y, right, y), fill=(160, 160, 160))
        draw.text((left - 3, y), str(int(rng.integers(0, 1000))), ink, font, "rm")
    draw.line((left, top, left, bottom, right, bottom), fill=ink, width=max(1, round(height / 200)))
    for _ in range(int(rng.integers(1, 4))):
        paint = colour(rng)
        if form == 1:
            for i, share in enumerate(rng.uniform(0.05, 1, count).tolist()):
                x = left + (right - left) * (i + 0.15) / count
                draw.rectangle(
                    (x, bottom - (bottom - top) * share, x + (right - left) * 0.7 / count, bottom), fill=paint
                )
        elif form == 2:
            heights = 0.5 + np.cumsum(rng.normal(0, 0.1, 4 * count)).clip(-0.45, 0.45)
            xs = np.linspace(left, right, 4 * count)
            points = [(x, bottom - (bottom - top) * y) for x, y in zip(xs.tolist(), heights.tolist(), strict=True)]
            draw.line(points, fill=paint, width=max(1, round(height / 120)))
        else:
            for x, y in rng.uniform(0, 1, (12 * count, 2)).tolist():
                dot = max(1.0, height / 90)
                x, y = left + (right - left) * x, bottom - (bottom - top) * math.sqrt(y) * rng.uniform(0.5, 1)
                draw.ellipse((x - dot, y - dot, x + dot, y + dot), fill=paint)
    return picture
