"""Decodes a photo's file with Pillow's decoders, within pixel and time limits."""

import importlib
import io
import time
from typing import Any

from PIL import Image

from caprun.errors import FormatError, ImageError, TooLargeError
from caprun.photos.extensions import EXTRA, is_installed
from caprun.photos.formats import kind_of
from caprun.photos.picture import Picture

MAX_PIXELS = 50_000_000
MAX_SIDE = 500_000  # Pillow keeps a pointer for each row, and resampling weights for each pixel of a side

_MUCH = 16 * 2**20  # bytes of a file that can keep a decoder busy for seconds, whatever its pixel count
_MOST_SECONDS = 4
_END = b"\xff\xd9"  # end marker of a JPEG


def check_size(size: tuple[int, int]) -> None:
    """Refuses a photo with too many pixels, or with none.

    Raises:
        TooLargeError: The photo has more than `MAX_PIXELS` pixels, or more than `MAX_SIDE` on a side.
        ImageError: The photo has no pixels.
    """
    width, height = size
    if width * height > MAX_PIXELS:
        limit = MAX_PIXELS // 10**6
        raise TooLargeError(f"has {width} x {height} pixels, more than {limit} megapixels; scale it down first")
    if max(size) > MAX_SIDE:
        raise TooLargeError(f"has {width} x {height} pixels, more than {MAX_SIDE:,} on a side; cut it into pieces")
    if width * height == 0:
        raise ImageError(f"has no pixels ({width} x {height}); check how it was made")


def decode(picture: Picture, smallest: tuple[int, int] | None = None) -> Image.Image:
    """Decodes the pixels as stored; reduces a JPEG to 1/8, 1/4 or 1/2 of its size, but not below `smallest`.

    Raises:
        ImageError: The photo has too many pixels, or takes too long.
        FormatError: The installed Pillow cannot decode the photo.
        Exception: The photo is damaged.
    """
    began = time.thread_time()
    try:
        return _decode(picture.data, None if picture.lossless else smallest)
    except Exception as error:
        if picture.lossless:
            raise FormatError("is a lossless JPEG, which this Pillow cannot decode; save it as a PNG") from error
        if str(error).startswith("Unsupported BMP"):
            raise FormatError("is a BMP variant that Pillow cannot decode; save it as a PNG") from error
        endless = kind_of(picture.data) == "Jpeg" and _END not in picture.data
        if not endless or time.thread_time() - began > 1:  # decoding it twice more would take too long
            raise
        data = picture.data.rstrip(b"\xff")
        other = hash(_decode(data + _more(data) + _END, smallest).tobytes())
        image = _decode(data + _END, smallest)
        if hash(image.tobytes()) != other:
            raise
        return image  # only its end marker is missing


def _decode(data: bytes, smallest: tuple[int, int] | None) -> Image.Image:
    # The plugins are called directly: Image.open would apply its own pixel limit, which other code in the process may
    # have changed (the WebP plugin applies it too), and would look for more pictures in a JPEG. Each plugin is imported
    # when the first photo needs it, since importing all of them takes as long as reading a small photo.
    kind = kind_of(data)
    if not is_installed(str(kind).upper()):
        raise FormatError(f"is {'an AVIF' if kind == 'Avif' else 'a HEIC'} photo; to read it, run {EXTRA}")
    module = importlib.import_module("pi_heif" if kind == "Heif" else f"PIL.{kind}ImagePlugin")
    plugin = getattr(module, f"{kind}ImageFile")
    with (_Patient if len(data) > _MUCH else io.BytesIO)(data) as file:
        try:
            image: Image.Image = plugin(file)
        except Image.DecompressionBombError:
            raise TooLargeError(
                "has more pixels than `PIL.Image.MAX_IMAGE_PIXELS` allows; scale it down first"
            ) from None
        check_size(image.size)
        if kind == "Jpeg" and smallest is not None:
            image.draft(None, smallest)
        if kind == "WebP":
            webp: Any = image
            pixels = webp._decoder.get_next()[0]
            webp._decoder = None  # it takes twice the memory of the picture
            return Image.frombytes(image.mode, image.size, pixels, "raw", webp.rawmode)
        image.load()
    if kind == "Bmp" and image.mode == "RGBA" and image.getchannel("A").getbbox() is None:
        return image.convert("RGB")  # many programs write 0 to the unused fourth byte of a pixel
    return image


def _more(data: bytes) -> bytes:
    """Returns data that would change any missing block of a JPEG: noise with restart markers in sequence."""
    last = max(range(8), key=lambda number: data.rfind(bytes([0xFF, 0xD0 + number])))
    first = 0 if data.find(bytes([0xFF, 0xD0 + last])) < 0 else last + 1
    return b"".join(bytes(range(1, 255, 3)) + bytes([0xFF, 0xD0 + (first + number) % 8]) for number in range(8))


class _Patient(io.BytesIO):
    """A photo's file that can no longer be read once decoding takes too long.

    Some compressed data decode to nothing, which only decoding reveals. CPU time is counted, so other load on the
    machine does not matter.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._until = time.thread_time() + _MOST_SECONDS

    def read(self, size: int | None = -1, /) -> bytes:
        if time.thread_time() > self._until:
            raise ImageError(f"takes more than {_MOST_SECONDS} seconds to decode; scale it down first")
        return super().read(size)
