"""Reads a photo from any source as an upright, opaque RGB image.

Training and every runtime read photos through `open_photo`, so that a caption does not depend on the program that
opened the photo.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from PIL import ExifTags, Image

from caprun.errors import FormatError, ImageError, TooLargeError
from caprun.photos.decoding import MAX_PIXELS as MAX_PIXELS
from caprun.photos.decoding import check_size, decode
from caprun.photos.file import Photo as Photo
from caprun.photos.file import name_of, printable, read
from caprun.photos.formats import kind_of, take_apart
from caprun.photos.memory_limit import MemoryLimit
from caprun.photos.orientation import SIDEWAYS, TURNS, upright_rgb
from caprun.photos.picture import Picture
from caprun.photos.profiles import Conversion, conversion_of

MAX_MEMORY = 560_000_000
"""Maximum bytes of memory for decoding, for one photo and for all large photos decoded at once."""


class AtLeast(NamedTuple):
    """Minimum size in pixels of an upright photo that is reduced while it is read."""

    width: int
    height: int
    jpeg: bool = True
    """True to reduce JPEGs while decoding; otherwise photos are reduced only before colour conversion."""

    def stored(self, orientation: int) -> tuple[int, int]:
        """Returns the width and height of the photo as stored."""
        return (self.height, self.width) if orientation in SIDEWAYS else (self.width, self.height)


_gate = MemoryLimit(MAX_MEMORY, free=128_000_000)  # 16 megapixels of RGB, and a turned copy


def open_photo(photo: Photo, *, name: str | None = None, at_least: AtLeast | None = None) -> Image.Image:
    """Reads a photo as an upright, opaque RGB image.

    JPEG, PNG, WebP, GIF, BMP, HEIC and AVIF are detected by content. Photos above `MAX_PIXELS` are refused before
    decoding. Only the first frame of an animation is read. EXIF orientation is applied, colours are converted from the
    embedded ICC profile to sRGB, and transparency is composited on white. 16-bit values (and `I`, read as 0..65535)
    keep their high byte, as in Pillow. For `F`, black to white is the smallest of 0..1, 0..255 and 0..65535 that
    contains every finite value, or else the range of the finite values; NaN and -inf are black, +inf is white.

    A PIL image can have any format, is read at its current frame, and is never modified. An image that is already
    upright, opaque RGB is returned itself, so do not draw on the result.

    Photos that take more than `MAX_MEMORY` or several seconds to decode are refused. The function is thread-safe; large
    photos wait for each other.

    Args:
        photo: The photo.
        name: Name of the photo for messages; None for its path, or "the photo".
        at_least: Minimum size to which a JPEG is reduced while decoding (to 1/8, 1/4 or 1/2, in a fraction of the time)
            and a photo in a colour space other than sRGB before conversion; None reads every photo at full size.

    Raises:
        ImageError: The photo cannot be read.
    """
    with opened(photo, name=name, at_least=at_least) as image:
        return image


@contextlib.contextmanager
def opened(photo: Photo, *, name: str | None = None, at_least: AtLeast | None = None) -> Iterator[Image.Image]:
    """Reads a photo as `open_photo` does; other large photos wait until the context ends, so resize inside it."""
    label = printable(name if name is not None else name_of(photo))
    with contextlib.ExitStack() as stack:
        try:
            if isinstance(photo, Image.Image):
                check_size(photo.size)
                stack.enter_context(_gate.entered(8 * photo.width * photo.height))
                photo.load()
                profile = photo.info.get("icc_profile")
                conversion = conversion_of(profile) if isinstance(profile, bytes) else None
                upright = upright_rgb(photo, _orientation(photo), conversion)
            else:
                picture = _picture(photo)
                conversion = None if picture.profile is None else conversion_of(picture.profile)
                stack.enter_context(_gate.entered(_memory(picture, conversion)))
                orientation = picture.orientation
                smallest = None if at_least is None else at_least.stored(orientation)
                image = decode(picture, smallest if at_least and at_least.jpeg else None)
                del picture  # no longer needed, and can be large
                if conversion is not None and smallest is not None:
                    image = _reduced(image, smallest)
                upright = upright_rgb(image, orientation, conversion)
        except ImageError as error:  # its message follows the photo's name
            raise type(error)(f"{label} {error}.") from error
        except MemoryError as error:
            raise ImageError(f"{label} does not fit in the free memory; scale it down first.") from error
        # A hostile file can make Pillow's decoders raise anything: OSError, SyntaxError, ValueError, IndexError,
        # KeyError, struct.error, zlib.error, AssertionError ... and a batch must survive all of them.
        except Exception as error:
            raise ImageError(
                f"{label} is damaged or incomplete and cannot be decoded; get another copy of it."
            ) from error
        if upright is not photo:
            upright.info = {}  # an orientation or transparency left here would be applied again when it is next opened
        yield upright


def _picture(photo: str | os.PathLike[str] | bytes | BinaryIO) -> Picture:
    """Reads and parses the photo's file."""
    data = read(photo)
    found = kind_of(data)
    if found is None:
        raise FormatError("is not a JPEG, PNG, WebP, GIF, BMP, HEIC or AVIF image; convert it to a JPEG")
    picture = take_apart(found, data)
    check_size(picture.size)
    return picture


def _memory(picture: Picture, conversion: Conversion | None) -> int:
    """Computes the bytes that the picture needs until it is upright RGB, and refuses too many."""
    width, height = picture.size
    copied = 0 if picture.rgb and picture.orientation not in TURNS and conversion is None else 4 * width * height
    memory = max(len(picture.data) + picture.decoding, picture.decoded + copied)
    if memory > MAX_MEMORY:
        raise TooLargeError(
            f"would take {memory // 10**6} MB of memory to decode, more than {MAX_MEMORY // 10**6}; "
            "scale it down first, or save it as a plain JPEG"
        )
    return memory


def _reduced(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Reduces an image by averaging whole blocks of pixels, keeping both sides at least `size`."""
    factor = min(image.width // size[0], image.height // size[1])
    if factor < 2 or image.mode not in ("L", "LA", "RGB", "RGBA", "CMYK") or "transparency" in image.info:
        return image
    return image.reduce(factor)


def _orientation(image: Image.Image) -> int:
    """Reads the EXIF orientation of a loaded image."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001  (broken metadata may raise anything, but the pixels are fine)
        return 1
    return found if isinstance(found, int) else 1
