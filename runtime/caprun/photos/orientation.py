"""Converts a decoded picture of any mode to opaque, upright sRGB."""

import math

import numpy as np
from PIL import Image

from caprun.photos.profiles import Conversion

STRIP = 4_000_000
"""Pixels converted at a time; a larger photo is converted in strips, so that little of it is in memory twice."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

SIDEWAYS = (5, 6, 7, 8)
"""Orientations whose rows become columns."""

_BACKWARDS = (3, 4, 6, 7)  # the last row becomes the first


def upright_rgb(image: Image.Image, orientation: int, conversion: Conversion | None = None) -> Image.Image:
    """Converts a loaded image of any mode to RGB, composites it on white, and turns it by its EXIF orientation."""
    width, height = image.size
    turn = TURNS.get(orientation)
    bounds = _float_bounds(image) if image.mode == "F" else None
    rows = max(1, STRIP // width)
    ready = image.mode == "RGB" and not image.has_transparency_data and conversion is None
    if rows >= height or (ready and turn is None):
        pixels = _make_opaque(image, bounds, conversion)
        return pixels if turn is None else pixels.transpose(turn)
    sideways, backwards = orientation in SIDEWAYS, orientation in _BACKWARDS
    upright = Image.new("RGB", (height, width) if sideways else (width, height))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip = _make_opaque(image.crop((0, top, width, bottom)), bounds, conversion)
        at = height - bottom if backwards else top
        upright.paste(strip if turn is None else strip.transpose(turn), (at, 0) if sideways else (0, at))
    return upright


def _make_opaque(image: Image.Image, bounds: tuple[float, float] | None, conversion: Conversion | None) -> Image.Image:
    """Converts a loaded image of any mode to RGB on white; `bounds` are the black and white values of an `F` image."""
    if bounds is not None or image.mode.startswith("I"):
        image = _scale_to_bytes(image, bounds)
    if conversion is not None and not conversion.fits(image):
        conversion = None
    if not image.has_transparency_data:
        if conversion is not None:
            return conversion.apply(image)
        return image if image.mode == "RGB" else image.convert("RGB")
    key = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
        # A 16-bit PNG: Pillow keeps only the high byte of each pixel, but both bytes of the transparent colour.
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in key)
    if image.mode == "La":
        image = image.convert("LA")
    overlay = image.convert("RGBA")
    colours = overlay if conversion is None else conversion.apply(overlay)
    white = Image.new("RGB", overlay.size, "white")
    white.paste(colours, mask=overlay)
    return white


def _float_bounds(image: Image.Image) -> tuple[float, float]:
    """Finds the values of black and white in an `F` image."""
    rows = max(1, STRIP // image.width)
    low, high = math.inf, -math.inf
    for top in range(0, image.height, rows):
        values = np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))
        finite = values[np.isfinite(values)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if low > high:  # no value is finite
        return 0.0, 1.0
    if low >= 0 and high <= 65535:
        return 0.0, next(top for top in (1.0, 255.0, 65535.0) if high <= top)
    return low, high


def _scale_to_bytes(image: Image.Image, bounds: tuple[float, float] | None) -> Image.Image:
    """Scales `I`, `I;16...` and `F` to `L`; Pillow would clip the values at 255."""
    values = np.asarray(image)
    if bounds is not None:
        low, high = bounds
        unit = (np.nan_to_num(values.astype(np.float64), nan=low, neginf=low, posinf=high) - low) / (high - low or 1.0)
        grey = np.rint(unit * 255).astype(np.uint8)
    else:
        grey = (np.clip(values, 0, 65535) >> 8).astype(np.uint8)
    key = image.info.get("transparency")
    if isinstance(key, int):
        grey[values == key] = 255
    return Image.fromarray(grey)
