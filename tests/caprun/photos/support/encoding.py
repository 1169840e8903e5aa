"""Encodes photos in every format, some without a library, and reads their pixels."""

import io
import struct
import zlib

import numpy as np
import numpy.typing as npt
from PIL import Image

from caprun.photos.file import Photo
from caprun.photos.preprocessing import ImageSpec
from caprun.photos.reading import open_photo

UInt8 = npt.NDArray[np.uint8]


def spec(height: int = 32, width: int = 48, fit: str = "squash", resample: str = "bilinear") -> ImageSpec:
    return ImageSpec(height, width, fit, resample, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))  # type: ignore[arg-type]


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(photo: Photo) -> UInt8:
    return np.asarray(open_photo(photo))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *between: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(between) + data


def heic_colours() -> Image.Image:
    """Draws the photo of the HEIC files in `data`: 64 x 48 pixels, smooth, without symmetry."""
    y, x = np.mgrid[0:48, 0:64]
    return Image.fromarray(np.stack([x * 4, y * 5, 255 - (x + y) * 2], axis=-1).astype(np.uint8))
