"""Converts pixels from the colours of an embedded ICC profile to sRGB."""

import functools
import io
import struct
from typing import Any, NamedTuple

from PIL import Image

MAX_BYTES = 2**22
"""Maximum bytes of a profile; printing press profiles have one or two MB, camera profiles a few KB."""

_MODES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
_CLASSES = (b"scnr", b"mntr", b"prtr", b"spac")  # devices and colour spaces, but not device links or named colours
_SLOW = (b"D2B0", b"D2B1", b"D2B2", b"D2B3")  # chains of any length, which can take minutes to prepare


class Conversion(NamedTuple):
    """The conversion from a profile's colours to sRGB."""

    mode: str
    """Mode of the pixels that the profile describes: `RGB`, `L` or `CMYK`."""
    transform: Any
    """The `ImageCmsTransform` from that mode to RGB; thread-safe."""

    def fits(self, image: Image.Image) -> bool:
        """Returns whether the profile describes pixels of the image's mode."""
        return self.mode == {"1": "L", "L": "L", "LA": "L", "CMYK": "CMYK"}.get(image.mode, "RGB")

    def apply(self, image: Image.Image) -> Image.Image:
        """Converts an opaque image that `fits`, and returns it as sRGB in mode RGB."""
        from PIL import ImageCms

        converted = ImageCms.applyTransform(image.convert(self.mode), self.transform)
        assert converted is not None
        return converted


@functools.lru_cache(maxsize=8)
def conversion_of(profile: bytes) -> Conversion | None:
    """Prepares the conversion of a profile's colours to sRGB, by perceptual intent.

    Returns:
        None for sRGB itself, and for a profile that is broken or does not describe grey, RGB or CMYK pixels.
    """
    try:
        mode = _MODES[profile[16:20]]
        count = min(100, struct.unpack_from(">I", profile, 128)[0])
        tags = {tag: (start, size) for tag, start, size in struct.iter_unpack(">4s2I", profile[132 : 132 + 12 * count])}
        start, size = tags[b"desc"]
        name = profile[start : start + size]
        if b"sRGB" in name or "sRGB".encode("utf-16-be") in name:
            return None
        if len(profile) > MAX_BYTES or profile[12:16] not in _CLASSES or not tags.keys().isdisjoint(_SLOW):
            return None
        from PIL import ImageCms  # imported here, since few photos need it

        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return Conversion(mode, ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB"))
    except Exception:  # noqa: BLE001  (hostile bytes may raise anything, and the pixels are fine without them)
        return None
