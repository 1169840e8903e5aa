"""A photo's file that was taken apart, and the reasons to refuse one."""

from typing import NamedTuple


class TooMuchError(Exception):
    """A photo would take too long or too much memory to decode; the message continues a sentence after its name."""


class UnsupportedError(Exception):
    """A photo has a rare kind of its format; the message continues a sentence after its name."""


class Picture(NamedTuple):
    """A photo's file, ready for a decoder."""

    data: bytes
    """A file of the same format with the same pixels, of the first picture only and without metadata."""
    size: tuple[int, int]
    """Declared width and height."""
    orientation: int
    """Orientation by EXIF, or else by XMP: 1..8; any other number is invalid."""
    decoding: int
    """Bytes of memory during decoding, without `data`."""
    decoded: int
    """Bytes of the decoded picture."""
    rgb: bool
    """True if decoding gives opaque RGB."""
    profile: bytes | None = None
    """Embedded ICC profile, not checked."""
    lossless: bool = False
    """True for a lossless JPEG, which not every Pillow decodes and none scales."""
