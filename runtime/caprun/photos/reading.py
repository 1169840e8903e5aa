"""Photo -> uint8 array: the one definition of preprocessing.

`open_photo` turns whatever holds a photo into an upright, opaque RGB image; `prepare` resizes it as an `ImageSpec`
says. Training and every runtime go through both, so that a caption cannot depend on who opened the photo.
"""

import contextlib
import importlib
import io
import os
import threading
import time
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import ExifTags, Image

from caprun.errors import FormatError, ImageError, TooLargeError
from caprun.photos.file import Photo as Photo
from caprun.photos.file import name_of, printable, read
from caprun.photos.formats import Picture, TooMuchError, take_apart
from caprun.photos.memory_limit import MemoryLimit
from caprun.photos.orientation import TURNS, upright_rgb

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

MAX_PIXELS = 50_000_000
MAX_SIDE = 500_000  # Pillow has a pointer for each row, and a weight for each pixel that a row of the result is made of
MAX_MEMORY = 560_000_000
"""Most bytes that decoding may take, of one photo as of all the large ones that are decoded at once."""

_MUCH = 16 * 2**20  # bytes of a file that can keep a decoder busy for seconds, whatever its pixels
_MOST_SECONDS = 4
_gate = MemoryLimit(MAX_MEMORY, free=128_000_000)  # 16 megapixels of RGB, and as many turned upright


def open_photo(photo: Photo, *, name: str | None = None) -> Image.Image:
    """The photo upright, opaque and RGB.

    JPEG, PNG, WebP, GIF and BMP, told by their content and not by their name, up to `MAX_PIXELS` (checked before pixels
    are decoded); the first frame of an animation. EXIF orientation is applied, transparency is composited on white, and
    colour profiles are ignored. 16-bit (and `I`, always read as 0..65535) keeps the high byte, as Pillow itself does
    with 16-bit colour. `F`: black to white is the smallest of 0..1, 0..255 and 0..65535 that holds every finite value,
    or else from the least of them to the greatest; NaN and -inf are black, +inf white.

    A PIL image may have any format, is taken at its current frame, and is never altered; one that is already upright
    opaque RGB is returned itself, so do not draw on the result.

    Photos that take more than `MAX_MEMORY` to decode are refused, and so are those that were made to take minutes.
    Threads may call it at once; large photos then wait for each other.

    `name` stands for the photo in messages; the default is its path, or "the photo".

    Raises `ImageError` for everything that can be wrong with a photo.
    """
    with opened(photo, name=name) as image:
        return image


@contextlib.contextmanager
def opened(photo: Photo, *, name: str | None = None) -> Iterator[Image.Image]:
    """`open_photo`, for those who make the photo small: other large photos wait until the context ends."""
    label = printable(name if name is not None else name_of(photo))
    with contextlib.ExitStack() as stack:
        try:
            if isinstance(photo, Image.Image):
                _check_size(photo.size, label)
                stack.enter_context(_gate.entered(8 * photo.width * photo.height))
                photo.load()
                upright = upright_rgb(photo, _orientation(photo))
            else:
                picture = _picture(photo, label)
                stack.enter_context(_gate.entered(_memory(picture, label)))
                image, orientation = _decode(picture, label), picture.orientation
                del picture  # the file is not needed any more, and may be large
                upright = upright_rgb(image, orientation)
        except ImageError:
            raise
        except TooMuchError as error:
            raise ImageError(f"{label} {error}") from error
        except MemoryError as error:
            raise ImageError(f"{label} does not fit in the memory that is free; scale it down first") from error
        # Pillow's decoders raise whatever a hostile byte led to: OSError, SyntaxError, ValueError, IndexError,
        # KeyError, struct.error, zlib.error, AssertionError ... and a batch must outlive all of them.
        except Exception as error:
            raise ImageError(
                f"{label} is damaged or incomplete and cannot be decoded; get another copy of it"
            ) from error
        if upright is not photo:
            upright.info = {}  # an orientation or transparency left there would be applied again by who opens it again
        yield upright


# The plugins are called directly: Image.open would refuse and warn by a pixel limit of its own, which any other code in
# the process may have set, and would look for further pictures in a JPEG, of which only the first is wanted. Each is
# imported with the first photo that needs it, for together they take as long as a small photo.
_FORMATS: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "Jpeg"),
    (b"\x89PNG\r\n\x1a\n", "Png"),
    (b"RIFF", "WebP"),
    (b"GIF8", "Gif"),
    (b"BM", "Bmp"),
)

_quiet_lock = threading.Lock()
if hasattr(os, "register_at_fork"):  # a thread of the parent may have held it, and is not in the child
    os.register_at_fork(after_in_child=lambda: _quiet_lock._at_fork_reinit())  # type: ignore[attr-defined]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No warnings from Pillow about bad metadata or large pictures: open_photo judges those itself.

    Warning filters belong to the whole process, hence the lock; what is done under it is short and waits for no disk.
    """
    with _quiet_lock, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _picture(photo: str | os.PathLike[str] | bytes | BinaryIO, label: str) -> Picture:
    """The photo's file, taken apart."""
    data = read(photo, label)
    found = _kind(data)
    if found is None:
        raise FormatError(f"{label} is not a JPEG, PNG, WebP, GIF or BMP image; convert it to one of these")
    picture = take_apart(found, data)
    _check_size(picture.size, label)
    return picture


def _memory(picture: Picture, label: str) -> int:
    """Bytes that the picture takes until it is upright RGB; refused where they are too many."""
    width, height = picture.size
    copied = 0 if picture.rgb and picture.orientation not in TURNS else 4 * width * height
    memory = max(len(picture.data) + picture.decoding, picture.decoded + copied)
    if memory > MAX_MEMORY:
        raise TooLargeError(
            f"{label} would take {memory // 10**6} MB of memory to decode, more than {MAX_MEMORY // 10**6}; "
            "scale it down first, or save it as a plain JPEG"
        )
    return memory


def _kind(data: bytes) -> str | None:
    found = next((name for signature, name in _FORMATS if data.startswith(signature)), None)
    return None if found == "WebP" and data[8:12] != b"WEBP" else found


def _decode(picture: Picture, label: str) -> "ImageFile":
    """The picture's pixels, as they are stored."""
    found = _kind(picture.data)
    plugin: Any = getattr(importlib.import_module(f"PIL.{found}ImagePlugin"), f"{found}ImageFile")
    with (_Patient if len(picture.data) > _MUCH else io.BytesIO)(picture.data) as file:
        try:
            with _quiet():
                image: ImageFile = plugin(file)
        except Image.DecompressionBombError as error:
            raise TooLargeError(
                f"{label} has more than {MAX_PIXELS // 10**6} megapixels; scale it down first"
            ) from error
        _check_size(image.size, label)
        if found == "WebP":
            _load_webp(image)
        else:
            image.load()
    return image


class _Patient(io.BytesIO):
    """A photo's file that is read to its end only if that does not take too long.

    Of some compressed data much says nothing at all, and only decoding it tells. Counted is the processor's time, so
    that how busy the machine is does not matter.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._until = time.thread_time() + _MOST_SECONDS

    def read(self, size: int | None = -1, /) -> bytes:
        if time.thread_time() > self._until:
            raise TooMuchError(f"takes more than {_MOST_SECONDS} seconds to decode; scale it down first")
        return super().read(size)


def _load_webp(image: Any) -> None:
    """Have it give up its decoder, twice as large as itself, as soon as that has given the first frame."""
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
    finally:  # nothing that refers to itself, and so would outlive its use
        vars(image).pop("_get_next", None)
        image._decoder = None


def _check_size(size: tuple[int, int], label: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        limit = MAX_PIXELS // 10**6
        raise TooLargeError(f"{label} has {width} x {height} pixels, more than {limit} megapixels; scale it down first")
    if max(size) > MAX_SIDE:
        raise TooLargeError(
            f"{label} has {width} x {height} pixels, more than {MAX_SIDE:,} to a side; cut it in pieces"
        )
    if width * height == 0:
        raise ImageError(f"{label} has no pixels ({width} x {height}); check how it was made")


def _orientation(image: Image.Image) -> int:
    """What the EXIF of a loaded image of the caller's says."""
    try:
        with _quiet():
            found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001  (broken metadata raises as variously as broken pixels, but the photo is fine)
        return 1
    return found if isinstance(found, int) else 1
