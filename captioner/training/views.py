"""Views of a photo: what augmentation shows the model in place of it, few enough to be cached.

View 0 is the photo as it is, view 1 its mirror image, and every further one a crop, each second of them mirrored. A
view depends on the photo's content and its number alone, so that its features are computed once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageOps

from captioner.evaluation.metrics import tokenize

_AREA = (0.6, 1.0)
_ASPECT = (0.85, 1 / 0.85)


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
        rng = np.random.default_rng([int(content[:16], 16), view])
        area = rng.uniform(*_AREA)
        aspect = math.exp(rng.uniform(*np.log(_ASPECT)))
        width, height = min(1.0, math.sqrt(area * aspect)), min(1.0, math.sqrt(area / aspect))
        left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
        box = (left, top, left + width, top + height)
        sides = (photo.width, photo.height, photo.width, photo.height)
        first, upper, last, lower = (round(share * side) for share, side in zip(box, sides, strict=True))
        photo = photo.crop((first, upper, max(last, first + 1), max(lower, upper + 1)))
    return ImageOps.mirror(photo) if is_mirrored(view) else photo
