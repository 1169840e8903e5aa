"""Views of a photo: what augmentation shows the model in place of it.

Numbered views are few enough for their features to be cached. View 0 is the photo as it is, view 1 its mirror image,
and every further one a crop, each second of them mirrored; a view depends on the photo's content and its number alone.
Where nothing is cached, `cut` and `recolour` draw anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageOps

from captioner.text.metric_words import tokenize

_AREA = (0.6, 1.0)
_ASPECT = (0.85, 1 / 0.85)
_COLOUR = (0.8, 1.2)  # factors of brightness, contrast and saturation


def is_mirrored(view: int) -> bool:
    """Whether left and right have changed places in a view."""
    return view % 2 == 1


def may_be_mirrored(captions: Iterable[str], sided_words: Iterable[str]) -> bool:
    """Whether a photo's captions stay true in a mirror: they do unless they speak of a side."""
    sided = set(sided_words)
    return not any(sided.intersection(tokenize(caption)) for caption in captions)


def show(photo: Image.Image, view: int, content: str) -> Image.Image:
    """The photo as a view shows it.

    Args:
        photo: upright RGB.
        view: its number.
        content: hexadecimal digest of the photo's file, which seeds its crops.
    """
    if view >= 2:
        photo = _crop(photo, np.random.default_rng([int(content[:16], 16), view]))
    return ImageOps.mirror(photo) if is_mirrored(view) else photo


def cut(photo: Image.Image, rng: np.random.Generator, *, mirror: bool) -> Image.Image:
    """A crop of an upright RGB photo, mirrored every second time if it may be."""
    photo = _crop(photo, rng)
    return ImageOps.mirror(photo) if rng.random() < 0.5 and mirror else photo


def recolour(image: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A prepared photo, uint8 (height, width, 3), of slightly more or less brightness, contrast and colour."""
    photo = Image.fromarray(image)
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        photo = change(photo).enhance(float(rng.uniform(*_COLOUR)))
    return np.array(photo)


def _crop(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A part of at least 60% of the area, its sides up to 17% longer or shorter than the photo's."""
    area = rng.uniform(*_AREA)
    aspect = math.exp(rng.uniform(*np.log(_ASPECT)))
    width, height = min(1.0, math.sqrt(area * aspect)), min(1.0, math.sqrt(area / aspect))
    left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    box = (left, top, left + width, top + height)
    sides = (photo.width, photo.height, photo.width, photo.height)
    first, upper, last, lower = (round(share * side) for share, side in zip(box, sides, strict=True))
    return photo.crop((first, upper, max(last, first + 1), max(lower, upper + 1)))
