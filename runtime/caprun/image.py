"""Photo -> uint8 array: the one definition of preprocessing.

`open_photo` turns whatever holds a photo into an upright, opaque RGB image; `prepare` resizes it as an `ImageSpec`
says. Training and every runtime go through both, so that a caption cannot depend on who opened the photo.
"""

import contextlib
import importlib
import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from caprun.errors import ImageError

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

Photo: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | BinaryIO
"""A path, an encoded file's bytes, a PIL image, or a file opened in binary mode (read from its start)."""

MAX_PIXELS = 50_000_000
MAX_BYTES = 512 * 2**20  # no photo within MAX_PIXELS needs more, and a mislabelled film should not fill the memory


@dataclass(frozen=True)
class ImageSpec:
    """What a bundle's encoder takes; `model.json` stores it as `image`."""

    height: int
    """Rows of the array given to the encoder."""

    width: int
    """Columns of the array given to the encoder."""

    fit: Literal["squash", "crop"]
    """`squash` resizes the whole photo, whatever its aspect; `crop` scales the short side and keeps the centre."""

    resample: Literal["bilinear", "bicubic", "lanczos"]
    """The one filter used, with antialiasing."""

    mean: tuple[float, float, float]
    """Per channel, of pixels / 255; subtracted inside the encoder graph, never here."""

    std: tuple[float, float, float]
    """Per channel, of pixels / 255; divided by inside the encoder graph, never here."""


def load(photo: Photo, spec: ImageSpec, *, name: str | None = None) -> npt.NDArray[np.uint8]:
    """`open_photo`, then `prepare`: uint8 (height, width, 3), or an `ImageError`."""
    return prepare(open_photo(photo, name=name), spec)


def open_photo(photo: Photo, *, name: str | None = None) -> Image.Image:
    """The photo upright, opaque and RGB.

    JPEG, PNG, WebP, GIF and BMP, told by their content and not by their name, up to `MAX_PIXELS` (checked before pixels
    are decoded); the first frame of an animation. EXIF orientation is applied, transparency is composited on white, and
    colour profiles are ignored. 16-bit (and `I`, always read as 0..65535) keeps the high byte, as Pillow itself does
    with 16-bit colour. `F`: black to white is the smallest of 0..1, 0..255 and 0..65535 that holds every finite value,
    or else from the least of them to the greatest; NaN and -inf are black, +inf white.

    A PIL image may have any format, is taken at its current frame, and is never altered; one that is already upright
    opaque RGB is returned itself, so do not draw on the result.

    `name` stands for the photo in messages; the default is its path, or "the photo".

    Raises `ImageError` for everything that can be wrong with a photo.
    """
    label = _printable(name if name is not None else _name_of(photo))
    try:
        image = photo if isinstance(photo, Image.Image) else _read_header(_read(photo, label), label)
        _check_size(image, label)
        image.load()
        upright = _turn_upright(_make_opaque(image), image)
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(f"{label} does not fit in the memory that is free; scale it down first") from error
    # Pillow's decoders raise whatever a hostile byte led to: OSError, SyntaxError, ValueError, IndexError, KeyError,
    # struct.error, zlib.error, OverflowError, AssertionError ... and a batch must outlive all of them.
    except Exception as error:
        raise ImageError(f"{label} is damaged or incomplete and cannot be decoded; get another copy of it") from error
    if upright is not photo:
        upright.info = {}  # an orientation or transparency left there would be applied again by whoever opens it again
    return upright


def prepare(image: Image.Image, spec: ImageSpec) -> npt.NDArray[np.uint8]:
    """Resize an image from `open_photo` once, as `spec` says.

    Returns a writable, C-contiguous uint8 array (height, width, 3), RGB. An image that has the size already is not
    resampled. Raises `ImageError` if the image is not RGB.
    """
    if image.mode != "RGB":
        raise ImageError(f"an image to prepare is RGB, and this one is {image.mode}; pass it through open_photo first")
    size = (spec.width, spec.height)
    if image.size != size:
        resample = Image.Resampling[spec.resample.upper()]
        image = image.resize(size, resample, box=_seen_pixels(image.size, spec))
    return np.array(image)


def seen_box(size: tuple[int, int], spec: ImageSpec) -> tuple[float, float, float, float]:
    """The part of a photo of `size` (width, height) that the encoder sees.

    Returns (left, top, right, bottom) as fractions of the photo's width and height: (0, 0, 1, 1) unless cropped.
    """
    width, height = size
    left, top, right, bottom = _seen_pixels(size, spec)
    return left / width, top / height, right / width, bottom / height


def _seen_pixels(size: tuple[int, int], spec: ImageSpec) -> tuple[float, float, float, float]:
    width, height = size
    seen_width, seen_height = float(width), float(height)
    if spec.fit == "crop":
        # In whole numbers, so that a photo of the very aspect is never trimmed by a rounding error.
        if width * spec.height > height * spec.width:
            seen_width = height * spec.width / spec.height
        else:
            seen_height = width * spec.height / spec.width
    left, top = (width - seen_width) / 2, (height - seen_height) / 2
    return left, top, min(left + seen_width, width), min(top + seen_height, height)


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

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_quiet_lock = threading.Lock()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No warnings from Pillow about bad metadata or large pictures: open_photo judges those itself.

    Warning filters belong to the whole process, hence the lock; what is done under it is short and waits for no disk.
    """
    with _quiet_lock, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _name_of(photo: Photo) -> str:
    if isinstance(photo, str | os.PathLike):
        return os.fsdecode(photo)
    # A file has a name, and so has a PIL image that came from one; a pipe's name is a number.
    name = getattr(photo, "filename" if isinstance(photo, Image.Image) else "name", None)
    return name if isinstance(name, str) and name else "the photo"


def _printable(name: str) -> str:
    """A file may be called anything, line breaks included; a message is one line."""
    return name if name and name.isprintable() else repr(name)


def _read(photo: str | os.PathLike[str] | bytes | BinaryIO, label: str) -> bytes:
    """The encoded file, whole: one read costs less than the many small ones of a decoder."""
    if isinstance(photo, bytes | bytearray | memoryview):
        return bytes(photo)
    try:
        if isinstance(photo, str | os.PathLike):
            return _read_path(Path(os.fsdecode(photo)), label)
        if not hasattr(photo, "read"):
            kind = type(photo).__name__
            raise ImageError(f"{label} is of type {kind}; give a path, bytes, a PIL image or a file opened for reading")
        with contextlib.suppress(AttributeError, OSError):  # a pipe cannot go back, and is read from where it is
            photo.seek(0)
        data = photo.read(MAX_BYTES + 1)
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{label} does not exist; check the path") from error
    except PermissionError as error:
        raise ImageError(f"{label} may not be read by this user; change its permissions") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path, or a file that was closed
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"{label} cannot be read ({reason}); check the path and the disk") from error
    if not isinstance(data, bytes):
        raise ImageError(f"{label} was opened as text; open it in binary mode, 'rb'")
    return data


def _read_path(path: Path, label: str) -> bytes:
    info = path.stat()
    if stat.S_ISDIR(info.st_mode):
        raise ImageError(f"{label} is a folder; name the photos in it")
    if not stat.S_ISREG(info.st_mode):  # never opened: a FIFO would block until somebody writes
        raise ImageError(f"{label} is not a regular file; save the photo to one first")
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _read_header(data: bytes, label: str) -> "ImageFile":
    """The photo as Pillow sees it before decoding any pixel."""
    if not data:
        raise ImageError(f"{label} is empty; get another copy of it")
    found = next((name for signature, name in _FORMATS if data.startswith(signature)), None)
    if found is None or (found == "WebP" and data[8:12] != b"WEBP"):
        raise ImageError(f"{label} is not a JPEG, PNG, WebP, GIF or BMP image; convert it to one of these")
    if len(data) > MAX_BYTES:
        raise ImageError(f"{label} is larger than {MAX_BYTES >> 20} MiB; scale it down first")
    plugin: Any = getattr(importlib.import_module(f"PIL.{found}ImagePlugin"), f"{found}ImageFile")
    try:
        with _quiet():
            return plugin(io.BytesIO(data))  # type: ignore[no-any-return]
    except Image.DecompressionBombError as error:
        raise ImageError(f"{label} has more than {MAX_PIXELS // 10**6} megapixels; scale it down first") from error


def _check_size(image: Image.Image, label: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        limit = MAX_PIXELS // 10**6
        raise ImageError(f"{label} has {width} x {height} pixels, more than {limit} megapixels; scale it down first")
    if width * height == 0:
        raise ImageError(f"{label} has no pixels ({width} x {height}); check how it was made")


def _turn_upright(pixels: Image.Image, source: Image.Image) -> Image.Image:
    """`pixels`, turned as the EXIF of the loaded image they come from says."""
    try:
        with _quiet():
            turn = _TURNS.get(source.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001  (broken metadata raises as variously as broken pixels, but the photo is fine)
        return pixels
    return pixels if turn is None else pixels.transpose(turn)


def _make_opaque(image: Image.Image) -> Image.Image:
    """A loaded image of any mode as RGB, on white where it is transparent."""
    if image.mode == "F" or image.mode.startswith("I"):
        return _scale_to_bytes(image)
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    key = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
        # A 16-bit PNG: Pillow kept each pixel's high byte, and the whole transparent colour.
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in key)
    if image.mode == "La":
        image = image.convert("LA")
    overlay = image.convert("RGBA")
    white = Image.new("RGB", overlay.size, "white")
    white.paste(overlay, mask=overlay)
    return white


def _scale_to_bytes(image: Image.Image) -> Image.Image:
    """`I`, `I;16...` and `F`, which Pillow would saturate at 255."""
    values = np.asarray(image)
    if image.mode == "F":
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        if low >= 0 and high <= 65535:
            low, high = 0.0, next(top for top in (1.0, 255.0, 65535.0) if high <= top)
        unit = (np.nan_to_num(values.astype(np.float64), nan=low, neginf=low, posinf=high) - low) / (high - low or 1.0)
        grey = np.rint(unit * 255).astype(np.uint8)
    else:
        grey = (np.clip(values, 0, 65535) >> 8).astype(np.uint8)
    key = image.info.get("transparency")
    if isinstance(key, int):
        grey[values == key] = 255
    return Image.fromarray(grey).convert("RGB")
