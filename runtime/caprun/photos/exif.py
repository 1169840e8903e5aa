"""Reads a photo's orientation from its EXIF or XMP, and no other tag."""

import re
import struct

_ORIENTATION = 0x112
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([0-9])")


def orientation_of(exif: bytes | None, xmp: bytes | None) -> int:
    """Reads the orientation from EXIF, with or without its `Exif` marker, or else from an XMP packet.

    Returns 1 (upright) if both are missing or broken.
    """
    found = _exif_orientation(exif) if exif else None
    if found is None and xmp and (match := _XMP_ORIENTATION.search(xmp)):
        found = int(match[1])
    return 1 if found is None else found


def _exif_orientation(exif: bytes) -> int | None:
    """Reads tag 0x112 from the first directory (EXIF 2.32, 4.6.2 and 4.6.4)."""
    start = 0
    while start < 12 and exif.startswith(b"Exif\0\0", start):
        start += 6
    if exif[start : start + 4] not in _EXIF_STARTS:
        return None
    order = "<" if exif[start : start + 2] == b"II" else ">"
    try:
        first = start + struct.unpack_from(order + "I", exif, start + 4)[0]
        count = struct.unpack_from(order + "H", exif, first)[0]
        for entry in range(first + 2, first + 2 + 12 * count, 12):
            tag, kind, values = struct.unpack_from(order + "HHI4x", exif, entry)
            if tag == _ORIENTATION and kind in _EXIF_NUMBERS and values:
                at = entry + 8
                if values * struct.calcsize(_EXIF_NUMBERS[kind]) > 4:
                    at = start + struct.unpack_from(order + "I", exif, at)[0]
                return int(struct.unpack_from(order + _EXIF_NUMBERS[kind], exif, at)[0])
    except struct.error:  # the directory is truncated
        return None
    return None


_EXIF_STARTS = (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"MM\0+")  # all that Pillow accepts, including malformed ones
_EXIF_NUMBERS = {3: "H", 4: "I", 8: "h", 9: "i"}
