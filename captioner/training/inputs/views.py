"""Augmented views of a photo.

Numbered views are few enough for their features to be cached. View 0 is the photo itself, view 1 its mirror image, and
views from 2 on are crops; odd views are mirrored. A view depends only on the photo's content and the number. Without a
cache, `cut` and `recolour` draw new variations in every epoch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageOps

from captioner.text.metric_words import mention

_AREA = (0.6, 1.0)
_ASPECT = (0.85, 1 / 0.85)
_COLOUR = (0.8, 1.2)  # factors of brightness, contrast and saturation


def is_mirrored(view: int) -> bool:
    """Returns whether a view is mirrored."""
    return view % 2 == 1


def may_be_mirrored(captions: Iterable[str], sided_words: Iterable[str]) -> bool:
    """Returns whether a photo may be mirrored: none of its captions contains a sided word."""
    return not mention(captions, sided_words)


def show(photo: Image.Image, view: int, content: str) -> Image.Image:
    """Returns a numbered view of a photo.

    Args:
        photo: an upright RGB photo.
        view: the number of the view.
        content: hexadecimal digest of the photo's file, which seeds the crops.
    """
    if view >= 2:
        photo = _crop(photo, np.random.default_rng([int(content[:16], 16), view]))
    return ImageOps.mirror(photo) if is_mirrored(view) else photo


def cut(photo: Image.Image, rng: np.random.Generator, *, mirror: bool) -> Image.Image:
    """Returns a random crop of an upright RGB photo, mirrored with probability 0.5 if `mirror` is true."""
    photo = _crop(photo, rng)
    return ImageOps.mirror(photo) if rng.random() < 0.5 and mirror else photo


def recolour(image: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Returns a prepared photo, uint8 (height, width, 3), with brightness, contrast and colour changed by up to 20%."""
    photo = Image.fromarray(image)
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        photo = change(photo).enhance(float(rng.uniform(*_COLOUR)))
    return np.array(photo)


def _crop(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Returns a random crop of at least 60% of the area, with the aspect ratio changed by at most 18%."""
    area = rng.uniform(*_AREA)
    aspect = math.exp(rng.uniform(*np.log(_ASPECT)))
    width, height = min(1.0, math.sqrt(area * aspect)), min(1.0, math.sqrt(area / aspect))
    left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    box = (left, top, left + width, top + height)
    sides = (photo.width, photo.height, photo.width, photo.height)
    first, upper, last, lower = (round(share * side) for share, side in zip(box, sides, strict=True))
    return photo.crop((first, upper, max(last, first + 1), max(lower, upper + 1)))
