"""The extensions of photo files, for finding photos and for writing pictures."""

import functools
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import PurePath

from caprun.errors import UsageError

EXTENSIONS = {
    ".avif": "AVIF",
    ".bmp": "BMP",
    ".dib": "BMP",
    ".gif": "GIF",
    ".heic": "HEIF",
    ".heif": "HEIF",
    ".hif": "HEIF",
    ".jfif": "JPEG",
    ".jpe": "JPEG",
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
}
"""Format of each lower-case extension; photos are read by their content, whatever their extension."""

HIDDEN = (".", "@eaDir", "__MACOSX")
"""Name prefixes of files and folders that operating systems and NAS devices create, such as `._photo.jpg`."""

OTHERS = (
    *(".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".rw2", ".srw"),  # raw
    *(".jp2", ".jxl", ".psd", ".tif", ".tiff"),
)
"""Extensions of photos that caprun does not read."""

EXTRA = 'pip install "captioner[heif]"'
"""Command that installs the HEIC and AVIF decoders."""

_MODULES = {"AVIF": "PIL._avif", "HEIF": "pi_heif"}
_WRITTEN = {extension: name for extension, name in EXTENSIONS.items() if name not in _MODULES}


@functools.cache
def is_installed(name: str) -> bool:
    """Returns whether the decoder of a format, named as in `EXTENSIONS`, is installed."""
    return name not in _MODULES or importlib.util.find_spec(_MODULES[name]) is not None


def describe_left_out(counts: Mapping[str, int]) -> Iterator[str]:
    """Yields a sentence for each group of files that cannot be read, from their counts by extension."""
    for chosen, hint in ((EXTENSIONS, f"to read them, run {EXTRA}"), (OTHERS, "convert them to JPEG")):
        found = {extension: count for extension, count in sorted(counts.items()) if extension in chosen}
        if found:
            kinds = ", ".join(f"{count:,} {extension}" for extension, count in found.items())
            yield f"Photos left out: {kinds}; {hint}."


def format_to_write(path: PurePath, option: str) -> str:
    """Returns Pillow's format for a picture by the extension of its file; PNG without an extension.

    Raises:
        UsageError: The extension cannot be written; the message names `option`.
    """
    extension = path.suffix.lower()
    if not extension:
        return "PNG"
    if extension not in _WRITTEN:
        raise UsageError(f"{option} {path} has an unknown extension; use one of {' '.join(_WRITTEN)}.")
    return _WRITTEN[extension]
