"""The extensions of photo files: the one list for finding photos and for writing pictures."""

from pathlib import PurePath

from caprun.errors import UsageError

EXTENSIONS = {
    ".bmp": "BMP",
    ".dib": "BMP",
    ".gif": "GIF",
    ".jfif": "JPEG",
    ".jpe": "JPEG",
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
}
"""The format that each extension, in lower case, names; a photo is read by its content, whatever its extension."""


def format_to_write(path: PurePath, option: str) -> str:
    """Chooses the format of a picture by the extension of its file; PNG without an extension.

    Args:
        path: The file to write.
        option: The command line option that names it, for the message.

    Returns:
        A format of Pillow.

    Raises:
        UsageError: The extension is none of `EXTENSIONS`.
    """
    extension = path.suffix.lower()
    if not extension:
        return "PNG"
    if extension not in EXTENSIONS:
        raise UsageError(f"{option} {path} has an unknown extension; use one of {' '.join(EXTENSIONS)}.")
    return EXTENSIONS[extension]
