"""Writes the pictures of a caption for `--picture` and `--attention`."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from caprun.errors import OutputError, UsageError
from caprun.photos.extensions import format_to_write

if TYPE_CHECKING:
    from PIL import Image

    from caprun.bundle.manifest import ModelSpec
    from caprun.caption import Caption


class Pictures(NamedTuple):
    """The picture files to write for a photo."""

    attention: Path | None
    picture: Path | None
    font: Path | None

    @property
    def wanted(self) -> bool:
        """True if there is a picture to write."""
        return self.attention is not None or self.picture is not None

    def check(self) -> None:
        """Refuses a file whose extension is not that of a supported format.

        Raises:
            UsageError: The extension is unknown.
        """
        for option, path in (("--attention", self.attention), ("--picture", self.picture)):
            if path is not None:
                format_to_write(path, option)

    def write(self, spec: "ModelSpec", photo: str, caption: "Caption") -> None:
        """Draws and writes the requested pictures; `attention` needs a caption with attention weights.

        Raises:
            ImageError: The photo can no longer be read.
            UsageError: The font has no glyph for a character of the caption, or the path cannot be a file.
            OutputError: The file cannot be written.
        """
        if not self.wanted:
            return
        from caprun.drawing.pictures import attention_picture, caption_picture
        from caprun.photos.preprocessing import seen_box
        from caprun.photos.reading import open_photo

        image = open_photo(photo)  # at full resolution, for people
        if self.attention:
            seen = [(word.text, word.alpha) for word in caption.words if word.alpha is not None]
            box = seen_box(image.size, spec.image)
            _write(attention_picture(image, seen, region_box=box, font=self.font), self.attention, "--attention")
        if self.picture:
            _write(caption_picture(image, caption.text, font=self.font), self.picture, "--picture")


def _write(image: "Image.Image", path: Path, option: str) -> None:
    from caprun.atomic_write import atomic_write

    try:
        with atomic_write(path) as file:
            image.save(file, format=format_to_write(path, option), quality=90)  # quality applies to JPEG and WebP
    except OSError as error:
        # a wrong path is a usage error; other errors come from the disk
        wrong = isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError))
        kind = UsageError if wrong else OutputError
        raise kind(f"The picture {path} cannot be written: {error.strerror or error}.") from error
