"""Draws a small captioned dataset: coloured shapes on grey, two captions each.

    python examples/shapes.py shapes

It stands in for photos of your own where you want to see a training from end to end in a few minutes. The folder is in
the format of Flickr8k: `captions.txt` and `images/`.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from PIL import Image, ImageDraw

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 200), "yellow": (230, 210, 40)}
SHAPES = ("square", "disc", "triangle")
WIDTH, HEIGHT = 160, 120  # pixels


def draw(colour: str, shape: str, chance: random.Random) -> Image.Image:
    """Draws one shape of 40 to 70 pixels at a random place."""
    image = Image.new("RGB", (WIDTH, HEIGHT), (chance.randint(200, 250),) * 3)
    side = chance.randint(40, 70)
    left, top = chance.randint(0, WIDTH - side), chance.randint(0, HEIGHT - side)
    right, bottom = left + side, top + side
    canvas, fill = ImageDraw.Draw(image), COLOURS[colour]
    if shape == "square":
        canvas.rectangle((left, top, right, bottom), fill)
    elif shape == "disc":
        canvas.ellipse((left, top, right, bottom), fill)
    else:
        canvas.polygon([(left, bottom), (right, bottom), ((left + right) / 2, top)], fill)
    return image


def write(folder: Path, photos: int) -> None:
    """Writes the dataset, the same for the same number of photos."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    chance = random.Random(0)
    kinds = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    rows = ["image,caption"]
    for number in range(photos):
        colour, shape = kinds[number % len(kinds)]
        name = f"{number:03}.jpg"
        draw(colour, shape, chance).save(folder / "images" / name)
        rows += [f"{name},A {colour} {shape} on a grey background .", f"{name},There is a {shape} and it is {colour} ."]
    (folder / "captions.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="Folder to write the dataset to.")
    parser.add_argument("--photos", type=int, default=240, help="Number of pictures.  [default: 240]")
    arguments = parser.parse_args()
    write(arguments.folder, arguments.photos)
