"""Writes the HEIC files of this folder with pillow-heif, since pi-heif can only read them.

pip install pillow-heif
python tests/caprun/photos/data/make_heic.py
"""

import sys
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import Image

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[3]))

from tests.caprun.photos.support.encoding import heic_colours  # noqa: E402


def main() -> None:
    """Writes a photo, a tile of a grid, a photo with alpha, and a photo of 10 bits."""
    pillow_heif.register_heif_opener()
    photo = heic_colours()
    exif = Image.Exif()
    exif[0x010E] = "a mark that is nowhere else"
    photo.save(HERE / "photo.heic", quality=80, exif=exif, xmp=b"a mark that is nowhere else")
    Image.new("RGB", (64, 64), (200, 60, 30)).save(HERE / "tile.heic", quality=80)
    clear = photo.convert("RGBA")
    clear.putalpha(Image.fromarray(np.repeat(np.array([[255, 0]], np.uint8), 32, 1).repeat(48, 0)))
    clear.save(HERE / "alpha.heic", quality=80)
    deep = np.asarray(photo).astype(np.uint16) << 8
    pillow_heif.from_bytes("RGB;16", photo.size, deep.tobytes()).save(HERE / "deep.heic", quality=80)


if __name__ == "__main__":
    main()
