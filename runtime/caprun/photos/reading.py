"""Reads a photo from any source as an upright, opaque RGB image.

Training and every runtime read photos through `open_photo`, so that a caption does not depend on the program that
opened the photo.
"""

import contextlib
import importlib
import io
import os
import threading
import time
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from PIL import ExifTags, Image

from caprun.errors import FormatError, ImageError, TooLargeError
from caprun.photos.file import Photo as Photo
from caprun.photos.file import name_of, printable, read
from caprun.photos.formats import Picture, TooMuchError, take_apart
from caprun.photos.memory_limit import MemoryLimit
from caprun.photos.orientation import SIDEWAYS, TURNS, upright_rgb
from caprun.photos.profiles import Conversion, conversion_of

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

MAX_PIXELS = 50_000_000
MAX_SIDE = 500_000  # Pillow keeps a pointer for each row, and resampling weights for each pixel of a side
MAX_MEMORY = 560_000_000
"""Most bytes that decoding may take, for one photo and for all large photos decoded at once."""


class AtLeast(NamedTuple):
    """Size in pixels that an upright photo keeps when it is reduced while it is read."""

    width: int
    height: int
    jpeg: bool = True
    """Whether every JPEG may be reduced; if not, photos are reduced only before their colours are converted."""

    def stored(self, orientation: int) -> tuple[int, int]:
        """Returns width and height of the photo as it is stored."""
        return (self.height, self.width) if orientation in SIDEWAYS else (self.width, self.height)


_MUCH = 16 * 2**20  # bytes of a file that may keep a decoder busy for seconds, whatever its size in pixels
_MOST_SECONDS = 4
_gate = MemoryLimit(MAX_MEMORY, free=128_000_000)  # 16 megapixels of RGB, and a turned copy


def open_photo(photo: Photo, *, name: str | None = None, at_least: AtLeast | None = None) -> Image.Image:
    """Reads a photo as an upright, opaque RGB image.

    JPEG, PNG, WebP, GIF and BMP are recognised by content, up to `MAX_PIXELS`, which is checked before decoding. Of an
    animation, the first frame is read. EXIF orientation is applied, colours are converted from the embedded ICC profile
    to sRGB, and transparency is composited on white. 16-bit values (and `I`, read as 0..65535) keep their high byte, as
    in Pillow. For `F`, black to white is the smallest of 0..1, 0..255 and 0..65535 that holds every finite value, or
    else the range of the finite values; NaN and -inf are black, +inf is white.

    A PIL image may have any format, is read at its current frame, and is never altered. An image that is upright opaque
    RGB already is returned itself, so do not draw on the result.

    Photos that take more than `MAX_MEMORY` or several seconds to decode are refused. Several threads may call this
    function at once; large photos then wait for each other.

    Args:
        photo: The photo.
        name: Name of the photo for messages; None for its path, or "the photo".
        at_least: Size down to which a JPEG is decoded at 1/8, 1/4 or 1/2 of its size, in a fraction of the time, and a
            photo of other colours than sRGB is reduced; None reads every photo in full.

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
                _check_size(photo.size, label)
                stack.enter_context(_gate.entered(8 * photo.width * photo.height))
                photo.load()
                profile = photo.info.get("icc_profile")
                conversion = conversion_of(profile) if isinstance(profile, bytes) else None
                upright = upright_rgb(photo, _orientation(photo), conversion)
            else:
                picture = _picture(photo, label)
                conversion = None if picture.profile is None else conversion_of(picture.profile)
                stack.enter_context(_gate.entered(_memory(picture, conversion, label)))
                image, orientation = _decode(picture, label, at_least), picture.orientation
                del picture  # the file is not needed any more, and may be large
                if conversion is not None and at_least is not None:
                    image = _reduced(image, at_least.stored(orientation))
                upright = upright_rgb(image, orientation, conversion)
        except ImageError:
            raise
        except TooMuchError as error:
            raise ImageError(f"{label} {error}.") from error
        except MemoryError as error:
            raise ImageError(f"{label} does not fit in the memory that is free; scale it down first.") from error
        # A hostile file makes Pillow's decoders raise anything: OSError, SyntaxError, ValueError, IndexError, KeyError,
        # struct.error, zlib.error, AssertionError ... and a batch must survive all of them.
        except Exception as error:
            raise ImageError(
                f"{label} is damaged or incomplete and cannot be decoded; get another copy of it."
            ) from error
        if upright is not photo:
            upright.info = {}  # an orientation or transparency left here would be applied again at the next opening
        yield upright


# The plugins are called directly: Image.open would apply its own pixel limit, which other code in the process may have
# changed, and would look for further pictures in a JPEG. Each plugin is imported for the first photo that needs it,
# since importing all of them takes as long as a small photo.
_FORMATS: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "Jpeg"),
    (b"\x89PNG\r\n\x1a\n", "Png"),
    (b"RIFF", "WebP"),
    (b"GIF8", "Gif"),
    (b"BM", "Bmp"),
)

_quiet_lock = threading.Lock()
if hasattr(os, "register_at_fork"):  # a thread of the parent may hold it, and does not exist in the child
    os.register_at_fork(after_in_child=lambda: _quiet_lock._at_fork_reinit())  # type: ignore[attr-defined]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences Pillow's warnings about bad metadata and large pictures, which `open_photo` judges itself.

    Warning filters belong to the whole process, hence the lock; the work under it is short and waits for no disk.
    """
    with _quiet_lock, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _picture(photo: str | os.PathLike[str] | bytes | BinaryIO, label: str) -> Picture:
    """Reads the photo's file and takes it apart."""
    data = read(photo, label)
    found = _kind(data)
    if found is None:
        raise FormatError(f"{label} is not a JPEG, PNG, WebP, GIF or BMP image; convert it to one of these.")
    picture = take_apart(found, data)
    _check_size(picture.size, label)
    return picture


def _memory(picture: Picture, conversion: Conversion | None, label: str) -> int:
    """Computes the bytes that the picture takes until it is upright RGB, and refuses too many."""
    width, height = picture.size
    copied = 0 if picture.rgb and picture.orientation not in TURNS and conversion is None else 4 * width * height
    memory = max(len(picture.data) + picture.decoding, picture.decoded + copied)
    if memory > MAX_MEMORY:
        raise TooLargeError(
            f"{label} would take {memory // 10**6} MB of memory to decode, more than {MAX_MEMORY // 10**6}; "
            "scale it down first, or save it as a plain JPEG."
        )
    return memory


def _kind(data: bytes) -> str | None:
    found = next((name for signature, name in _FORMATS if data.startswith(signature)), None)
    return None if found == "WebP" and data[8:12] != b"WEBP" else found


def _decode(picture: Picture, label: str, at_least: AtLeast | None) -> Image.Image:
    """Decodes the pixels as they are stored, a JPEG as small as `at_least` allows."""
    found = _kind(picture.data)
    plugin: Any = getattr(importlib.import_module(f"PIL.{found}ImagePlugin"), f"{found}ImageFile")
    with (_Patient if len(picture.data) > _MUCH else io.BytesIO)(picture.data) as file:
        try:
            with _quiet():
                image: ImageFile = plugin(file)
        except Image.DecompressionBombError as error:
            raise TooLargeError(
                f"{label} has more than {MAX_PIXELS // 10**6} megapixels; scale it down first."
            ) from error
        _check_size(image.size, label)
        if found == "Jpeg" and at_least is not None and at_least.jpeg:
            image.draft(None, at_least.stored(picture.orientation))
        if found == "WebP":
            _load_webp(image)
        else:
            image.load()
    if found == "Bmp" and image.mode == "RGBA" and image.getchannel("A").getbbox() is None:
        return image.convert("RGB")  # many programs leave the fourth byte of a pixel 0 and mean nothing by it
    return image


def _reduced(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Averages whole blocks of pixels, as far as no side falls below `size`."""
    factor = min(image.width // size[0], image.height // size[1])
    if factor < 2 or image.mode not in ("L", "LA", "RGB", "RGBA", "CMYK") or "transparency" in image.info:
        return image
    return image.reduce(factor)


class _Patient(io.BytesIO):
    """A photo's file that stops being read when decoding takes too long.

    Some compressed data decodes to nothing, which only decoding shows. Processor time is counted, so that other load on
    the machine does not matter.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._until = time.thread_time() + _MOST_SECONDS

    def read(self, size: int | None = -1, /) -> bytes:
        if time.thread_time() > self._until:
            raise TooMuchError(f"takes more than {_MOST_SECONDS} seconds to decode; scale it down first")
        return super().read(size)


def _load_webp(image: Any) -> None:
    """Loads a WebP and frees its decoder, twice the size of the picture, right after the first frame."""
    get_next = getattr(image, "_get_next", None)

    def get_last() -> Any:
        assert get_next is not None
        frame = get_next()
        image._decoder = None
        return frame

    if get_next is not None:
        image._get_next = get_last
    try:
        image.load()
    finally:  # a reference cycle would outlive its use
        vars(image).pop("_get_next", None)
        image._decoder = None


def _check_size(size: tuple[int, int], label: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        limit = MAX_PIXELS // 10**6
        raise TooLargeError(
            f"{label} has {width} x {height} pixels, more than {limit} megapixels; scale it down first."
        )
    if max(size) > MAX_SIDE:
        raise TooLargeError(
            f"{label} has {width} x {height} pixels, more than {MAX_SIDE:,} on a side; cut it in pieces."
        )
    if width * height == 0:
        raise ImageError(f"{label} has no pixels ({width} x {height}); check how it was made.")


def _orientation(image: Image.Image) -> int:
    """Reads the EXIF orientation of a loaded image."""
    try:
        with _quiet():
            found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001  (broken metadata may raise anything, but the pixels are fine)
        return 1
    return found if isinstance(found, int) else 1
