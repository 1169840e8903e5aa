"""A parsed photo file."""

from typing import NamedTuple


class Picture(NamedTuple):
    """A photo's file, ready for a decoder."""

    data: bytes
    """A file of the same format with the pixels of the first picture and without metadata."""
    size: tuple[int, int]
    """Declared width and height."""
    orientation: int
    """Orientation from EXIF, or else from XMP: 1..8; any other number is invalid."""
    decoding: int
    """Bytes of memory needed for decoding, without `data`."""
    decoded: int
    """Bytes of the decoded picture."""
    rgb: bool
    """True if decoding produces opaque RGB."""
    profile: bytes | None = None
    """Embedded ICC profile, not checked."""
    lossless: bool = False
    """True for a lossless JPEG, which only some builds of Pillow decode and none can scale."""
