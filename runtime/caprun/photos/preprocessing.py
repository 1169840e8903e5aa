"""Photo -> uint8 array: the one definition of preprocessing, for training and every runtime."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from caprun.errors import ImageError
from caprun.photos.file import Photo
from caprun.photos.reading import opened

_MOST_RESIZED = 32_000_000  # pixels of a photo that has its width already and not yet its height


@dataclass(frozen=True)
class ImageSpec:
    """What a bundle's encoder takes; `model.json` stores it as `image`."""

    height: int
    """Rows of the array given to the encoder."""

    width: int
    """Columns of the array given to the encoder."""

    fit: Literal["squash", "crop"]
    """`squash` resizes the whole photo, whatever its aspect; `crop` scales the short side and keeps the centre."""

    resample: Literal["bilinear", "bicubic", "lanczos"]
    """The one filter used, with antialiasing."""

    mean: tuple[float, float, float]
    """Per channel, of pixels / 255; subtracted inside the encoder graph, never here."""

    std: tuple[float, float, float]
    """Per channel, of pixels / 255; divided by inside the encoder graph, never here."""


def load(photo: Photo, spec: ImageSpec, *, name: str | None = None) -> npt.NDArray[np.uint8]:
    """`open_photo`, then `prepare`: uint8 (height, width, 3), or an `ImageError`."""
    with opened(photo, name=name) as image:  # large photos come one after the other until they are small
        return prepare(image, spec)


def prepare(image: Image.Image, spec: ImageSpec) -> npt.NDArray[np.uint8]:
    """Resize an image from `open_photo` once, as `spec` says.

    Returns a writable, C-contiguous uint8 array (height, width, 3), RGB. An image that has the size already is not
    resampled. Raises `ImageError` if the image is not RGB.
    """
    if image.mode != "RGB":
        raise ImageError(f"an image to prepare is RGB, and this one is {image.mode}; pass it through open_photo first")
    size = (spec.width, spec.height)
    if image.size != size:
        resample = Image.Resampling[spec.resample.upper()]
        # Pillow scales rows first, so that a photo of many is large in between: then whole pixels are joined before
        gap = 4.0 if spec.width * image.height > _MOST_RESIZED else None
        image = image.resize(size, resample, box=_seen_pixels(image.size, spec), reducing_gap=gap)
    return np.array(image)


def seen_box(size: tuple[int, int], spec: ImageSpec) -> tuple[float, float, float, float]:
    """The part of a photo of `size` (width, height) that the encoder sees.

    Returns (left, top, right, bottom) as fractions of the photo's width and height: (0, 0, 1, 1) unless cropped.
    """
    width, height = size
    left, top, right, bottom = _seen_pixels(size, spec)
    return left / width, top / height, right / width, bottom / height


def _seen_pixels(size: tuple[int, int], spec: ImageSpec) -> tuple[float, float, float, float]:
    width, height = size
    seen_width, seen_height = float(width), float(height)
    if spec.fit == "crop":
        # In whole numbers, so that a photo of the very aspect is never trimmed by a rounding error.
        if width * spec.height > height * spec.width:
            seen_width = height * spec.width / spec.height
        else:
            seen_height = width * spec.height / spec.width
    left, top = (width - seen_width) / 2, (height - seen_height) / 2
    return left, top, min(left + seen_width, width), min(top + seen_height, height)
