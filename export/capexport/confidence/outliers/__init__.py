"""Outliers: pictures drawn at random that are not photos, of kinds that a captioner cannot describe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from PIL import Image, ImageFilter

from capexport.confidence.outliers import drawings, fields, pages
from capexport.confidence.outliers.canvas import Random, image

KINDS: Mapping[str, Callable[[Random], Image.Image]] = {
    "flat colour": fields.flat,
    "gradient": fields.gradient,
    "noise": fields.noise,
    "clouds": fields.clouds,
    "pattern": fields.pattern,
    "shapes": drawings.shapes,
    "lines": drawings.lines,
    "icon": drawings.icon,
    "logo": drawings.logo,
    "text": pages.text,
    "screenshot": pages.screenshot,
    "chart": pages.chart,
}
"""The function that draws one picture of each kind, RGB, of any size."""


def draw_outliers(kind: str, count: int, seed: int) -> Iterator[Image.Image]:
    """Yields pictures of one of `KINDS`; equal seeds give equal pictures on every host."""
    rng = np.random.default_rng([seed, *kind.encode()])
    for _ in range(count):
        yield _worn(rng, KINDS[kind](rng))


def _worn(rng: Random, picture: Image.Image) -> Image.Image:
    """Blurs some pictures, makes others grainy, and leaves most as they are."""
    worn = rng.random()
    if worn < 0.1:
        return picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 4)))
    if worn < 0.2:
        pixels = np.asarray(picture, np.float32)
        return image(pixels + rng.normal(0, rng.uniform(2, 15), pixels.shape))
    return picture
