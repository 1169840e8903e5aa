"""Converts a photo to a uint8 array: the one definition of preprocessing, for training and every runtime."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from caprun.errors import ImageError
from caprun.photos.file import Photo
from caprun.photos.reading import AtLeast, opened

_MARGIN = 1.5  # of the model's input; with 224x224, 4000x3000 is still decoded at 1/8
_MOST_RESIZED = 32_000_000  # pixels of a photo resized in width but not yet in height


@dataclass(frozen=True)
class ImageSpec:
    """Input of a bundle's encoder; `model.json` stores it as `image`."""

    height: int
    """Height of the array in pixels."""

    width: int
    """Width of the array in pixels."""

    fit: Literal["squash", "crop"]
    """`squash` resizes the whole photo, whatever its aspect ratio; `crop` scales it and keeps the centre."""

    resample: Literal["bilinear", "bicubic", "lanczos"]
    """Resampling filter, with antialiasing."""

    mean: tuple[float, float, float]
    """Mean of each channel of pixels / 255; the encoder graph subtracts it."""

    std: tuple[float, float, float]
    """Standard deviation of each channel of pixels / 255; the encoder graph divides by it."""

    jpeg_decoding: Literal["full", "scaled"] = "full"
    """`scaled` decodes a JPEG at the smallest of 1/8, 1/4 and 1/2 of its size that leaves both sides of the upright
    photo at least 1.5 times as long as the encoder's; `full` decodes every JPEG at full size."""

    @property
    def at_least(self) -> AtLeast:
        """Minimum size of an upright photo that is reduced while it is read."""
        width, height = (math.ceil(_MARGIN * side) for side in (self.width, self.height))
        return AtLeast(width, height, jpeg=self.jpeg_decoding == "scaled")


def load(photo: Photo, spec: ImageSpec, *, name: str | None = None) -> npt.NDArray[np.uint8]:
    """Reads a photo and prepares it for the encoder; messages call it by `name`, or else by its path.

    Returns:
        uint8 (height, width, 3).

    Raises:
        ImageError: The photo cannot be read.
    """
    # large photos wait for each other until they are resized
    with opened(photo, name=name, at_least=spec.at_least) as image:
        return prepare(image, spec)


def prepare(image: Image.Image, spec: ImageSpec) -> npt.NDArray[np.uint8]:
    """Resizes an image from `open_photo` once; an image that already has the size is not resampled.

    Returns:
        RGB, uint8 (height, width, 3), writable and C-contiguous.

    Raises:
        ImageError: The image is not RGB.
    """
    if image.mode != "RGB":
        raise ImageError(f"The image has the mode {image.mode} and must be RGB; pass it through open_photo first.")
    size = (spec.width, spec.height)
    if image.size != size:
        resample = Image.Resampling[spec.resample.upper()]
        # Pillow scales the width first, so a tall photo stays large in between; reducing it first avoids that
        gap = 4.0 if spec.width * image.height > _MOST_RESIZED else None
        image = image.resize(size, resample, box=_seen_pixels(image.size, spec), reducing_gap=gap)
    return np.array(image)


def seen_box(size: tuple[int, int], spec: ImageSpec) -> tuple[float, float, float, float]:
    """Computes the part that the encoder sees of a photo with the given width and height.

    Returns:
        (left, top, right, bottom) as fractions of the photo's width and height; (0, 0, 1, 1) unless cropped.
    """
    width, height = size
    left, top, right, bottom = _seen_pixels(size, spec)
    return left / width, top / height, right / width, bottom / height


def _seen_pixels(size: tuple[int, int], spec: ImageSpec) -> tuple[float, float, float, float]:
    width, height = size
    seen_width, seen_height = float(width), float(height)
    if spec.fit == "crop":
        # Integers, so that rounding never trims a photo of the right aspect ratio.
        if width * spec.height > height * spec.width:
            seen_width = height * spec.width / spec.height
        else:
            seen_height = width * spec.height / spec.width
    left, top = (width - seen_width) / 2, (height - seen_height) / 2
    return left, top, min(left + seen_width, width), min(top + seen_height, height)
