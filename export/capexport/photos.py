"""Photos on the disk, prepared for a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from caprun.photos.preprocessing import ImageSpec, load


def prepared(files: Sequence[Path], image: ImageSpec) -> npt.NDArray[np.uint8]:
    """Reads photos and resizes them as the model's input.

    Returns:
        uint8 (photos, height, width, 3).

    Raises:
        ImageError: a photo cannot be read.
    """
    photos = np.empty((len(files), image.height, image.width, 3), np.uint8)
    for photo, file in zip(photos, files, strict=True):
        photo[:] = load(file, image)
    return photos
