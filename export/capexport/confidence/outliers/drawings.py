"""Outliers made of a few shapes: geometry, scribbles, icons and logos."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from capexport.confidence.outliers.canvas import Random, Writing, canvas, colour, ink_on, shape


def shapes(rng: Random) -> Image.Image:
    """Draws few or many circles, boxes, polygons, stars and arcs on one colour."""
    picture, draw = canvas(rng)
    for _ in range(int(rng.choice([1, 2, 3, 6, 15, 60]))):
        shape(rng, draw, picture.size, rng.uniform(0.05, 0.5))
    return picture


def lines(rng: Random) -> Image.Image:
    """Draws scribbles, rays and networks of lines."""
    picture, draw = canvas(rng)
    width, height = picture.size
    ink = ink_on(rng, picture)
    for _ in range(int(rng.integers(1, 40))):
        points = rng.uniform(0, 1, (int(rng.integers(2, 30)), 2))
        if rng.random() < 0.5:  # a pen that moves on from each point
            points = (points[0] + np.cumsum(rng.normal(0, 0.06, points.shape), 0)).clip(0, 1)
        stroke = int(rng.integers(1, 3 + min(width, height) // 60))
        draw.line([(x * width, y * height) for x, y in points.tolist()], fill=ink, width=stroke)
        if rng.random() < 0.3:
            ink = colour(rng)
    return picture


def icon(rng: Random) -> Image.Image:
    """Draws an icon: a letter or a few shapes on a plain or rounded ground."""
    side = int(rng.choice([32, 48, 64, 128, 256, 512, 1024]))
    picture, draw = canvas(rng, (side, side))
    if rng.random() < 0.6:
        box = (side * 0.08, side * 0.08, side * 0.92, side * 0.92)
        draw.rounded_rectangle(box, side * float(rng.choice([0, 0.15, 0.25, 0.42])), fill=colour(rng))
    if rng.random() < 0.35:
        writing = Writing(rng)  # one object, because each draws a font and a script
        font = writing.font(side * rng.uniform(0.4, 0.8))
        draw.text((side / 2, side / 2), writing.word()[:1], fill=colour(rng), font=font, anchor="mm")
    else:
        for _ in range(int(rng.integers(1, 6))):
            shape(rng, draw, picture.size, rng.uniform(0.15, 0.7), off=0.15)
    return picture


def logo(rng: Random) -> Image.Image:
    """Draws a logo: a word or two beside or below a sign."""
    picture, draw = canvas(rng)
    width, height = picture.size
    writing = Writing(rng)
    word = writing.words(2)
    font = writing.font(min(height * rng.uniform(0.15, 0.4), 1.6 * width / max(4, len(word))))
    below = rng.random() < 0.5
    place = (width * (0.5 if below else 0.6), height * (0.75 if below else 0.5))
    draw.text(place, word, fill=ink_on(rng, picture), font=font, anchor="mm")
    sign = Image.new("RGB", (max(16, round(min(width, height) * rng.uniform(0.2, 0.5))),) * 2, picture.getpixel((0, 0)))
    for _ in range(int(rng.integers(1, 4))):
        shape(rng, ImageDraw.Draw(sign), sign.size, rng.uniform(0.4, 0.9), off=0.1)
    x, y = (width // 2, height * 2 // 5) if below else (width // 5, height // 2)
    picture.paste(sign, (x - sign.width // 2, y - sign.height // 2))
    return picture
