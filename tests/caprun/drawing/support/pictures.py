"""Measures drawn pictures, and creates fonts to draw with."""

import io
import struct

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFont

Array = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.int64]

GREEN = (40, 180, 90)


def as_array(picture: Image.Image) -> Pixels:
    assert picture.mode == "RGB"
    return np.asarray(picture).astype(np.int64)


def ink(pixels: Pixels) -> npt.NDArray[np.float64]:
    """Returns (height, width): 0 on white paper, close to 1 in a letter."""
    return np.asarray(1 - pixels.min(axis=-1) / 255, np.float64)


def runs(marked: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Returns the start and the end of each run of marks."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], marked.astype(int), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def flat(height: int = 8, width: int = 8) -> Array:
    return np.full((height, width), 1 / (height * width), np.float32)


def embedded(size: int = 20) -> ImageFont.FreeTypeFont:
    """Returns Pillow's default font."""
    face = ImageFont.load_default(size)
    assert isinstance(face, ImageFont.FreeTypeFont)
    return face


def font_file(letter: str, shown: str = "\u2122") -> bytes:
    """Returns Pillow's default font with `letter` (U+2045 to U+FB00) for its trade mark sign, drawn so or blank."""
    file = embedded().path
    assert isinstance(file, io.BytesIO)
    data = bytearray(file.getvalue())
    tables = [struct.unpack_from(">4sIII", data, 12 + 16 * i) for i in range(*struct.unpack_from(">4xH", data))]
    cmap = next(offset for tag, _, offset, _ in tables if tag == b"cmap")
    for record in range(cmap + 4, cmap + 28, 8):
        (offset,) = struct.unpack_from(">4xI", data, record)
        table = cmap + offset
        kind, doubled = struct.unpack_from(">H4xH", data, table)
        if kind == 4:
            for segment in range(table + 14, table + 14 + doubled, 2):
                places = segment, segment + 2 + doubled, segment + 2 + 2 * doubled
                end, start, delta = (struct.unpack_from(">H", data, place)[0] for place in places)
                if start == end == ord("\u2122"):
                    moved = (
                        ord(letter),
                        ord(letter),
                        ((3 if shown == " " else delta + ord("\u2122")) - ord(letter)) % 65536,
                    )
                    for place, value in zip(places, moved, strict=True):
                        struct.pack_into(">H", data, place, value)
    return bytes(data)
