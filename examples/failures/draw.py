"""Draw the pictures here that are no photos: `python examples/failures/draw.py`."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).parent


def main() -> None:
    """Write the files anew."""
    sign = Image.new("RGB", (320, 224), "white")
    draw = ImageDraw.Draw(sign)
    for line, text in enumerate(("ROAD CLOSED", "Tuesday 9 to 17 h", "Use the bridge")):
        draw.text((160, 56 + 56 * line), text, "black", ImageFont.load_default(30), anchor="mm")
    sign.save(HERE / "sign.webp", quality=80)
    noise = np.random.default_rng(0).integers(0, 256, (28, 40, 3), np.uint8)
    Image.fromarray(noise).resize((320, 224), Image.Resampling.NEAREST).save(HERE / "noise.webp", quality=60)


if __name__ == "__main__":
    main()
