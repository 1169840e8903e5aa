"""Measures how reliable a bundle's confidence is on dev, on other photos, and on pictures that are not photos.

    python bench/confidence.py weights/caprun_weights/everyday_lite2 --data flickr8k --photos FOLDER

The figures of the manifest come first. They are out of fold: a fit is measured on the dev photos that it left out, and
another fit on the dataset that it left out (--data can be repeated). Then the packaged confidence is measured on the
dev photos that it was fitted on, so these figures are slightly better. The calibration error to expect by chance with
as many photos is printed after them; it is a lower limit. Pictures that are not photos are drawn by code that no fit
uses. Kinds that resemble those of the fit (one colour, pages of words, screens of text) come first and are excluded
from the last figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from harness.command_line import command_line
from PIL import Image, ImageDraw, ImageFont

from capexport.confidence.captioned import Captioned, caption_all, caption_examples
from capexport.confidence.event import relative_scores
from capexport.confidence.figures import auroc, calibration_error
from caprun.bundle.confidence import Confidence
from caprun.bundle.reading import read_bundle
from caprun.engine import Captioner
from caprun.errors import CaprunError
from caprun.inference.session import OnnxBackend
from caprun.photos.preprocessing import load
from captioner.backends.loading import splits_of
from captioner.datasets import Dataset, DataSource, load_datasets
from captioner.errors import CaptionerError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
SEED = 20
_WORDS = ("the", "of", "and", "to", "in", "is", "you", "that", "it", "he", "was", "for", "on", "are", "with", "his")


def page_of_words(rng: np.random.Generator) -> Image.Image:
    """Draws English words in Pillow's bitmap font, black on white."""
    picture = Image.new("RGB", (600, 800), "white")
    lines = (" ".join(rng.choice(_WORDS, 14)) for _ in range(rng.integers(1, 60)))
    ImageDraw.Draw(picture).multiline_text((20, 20), "\n".join(lines), "black", ImageFont.load_default())
    return picture


def smiley(rng: np.random.Generator) -> Image.Image:
    """Draws a round face with two eyes and a mouth."""
    side = int(rng.choice([32, 100, 400]))
    picture = Image.new("RGB", (side, side), tuple(rng.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((side * 0.1, side * 0.1, side * 0.9, side * 0.9), fill="yellow", outline="black")
    for x in (0.35, 0.65):
        draw.ellipse((side * (x - 0.06), side * 0.3, side * (x + 0.06), side * 0.45), fill="black")
    draw.arc((side * 0.3, side * 0.4, side * 0.7, side * 0.75), 20, 160, fill="black", width=max(1, side // 25))
    return picture


def flag(rng: np.random.Generator) -> Image.Image:
    """Draws three vertical or horizontal stripes, some with a disc."""
    picture = Image.new("RGB", (600, 400))
    draw = ImageDraw.Draw(picture)
    upright = rng.random() < 0.5
    for i in range(3):
        box = (200 * i, 0, 200 * i + 200, 400) if upright else (0, 134 * i, 600, 134 * i + 134)
        draw.rectangle(box, fill=tuple(rng.integers(0, 256, 3).tolist()))
    if rng.random() < 0.5:
        draw.ellipse((220, 120, 380, 280), fill="white")
    return picture


def crossword(rng: np.random.Generator) -> Image.Image:
    """Draws a grid of black and white squares, some with a number."""
    picture = Image.new("RGB", (450, 450), "white")
    draw = ImageDraw.Draw(picture)
    for row in range(15):
        for column in range(15):
            box = (30 * column, 30 * row, 30 * column + 30, 30 * row + 30)
            draw.rectangle(box, fill="black" if rng.random() < 0.25 else "white", outline="black")
            if rng.random() < 0.3:
                draw.text((30 * column + 3, 30 * row + 1), str(rng.integers(1, 99)), "black")
    return picture


def sheet_music(rng: np.random.Generator) -> Image.Image:
    """Draws staves with notes."""
    picture = Image.new("RGB", (700, 900), "white")
    draw = ImageDraw.Draw(picture)
    for top in range(60, 820, 110):
        for line in range(5):
            draw.line((40, top + 10 * line, 660, top + 10 * line), fill="black")
        for x in range(60, 650, int(rng.integers(20, 50))):
            y = top + 5 * int(rng.integers(0, 9))
            draw.ellipse((x, y - 5, x + 12, y + 5), fill="black")
            draw.line((x + 12, y, x + 12, y - 32), fill="black", width=2)
    return picture


def plasma(rng: np.random.Generator) -> Image.Image:
    """Draws overlapping waves, different in each colour channel."""
    y, x = np.mgrid[0:300, 0:400] / 60.0
    waves = [
        np.sin(a * x + b * y + c) + np.sin(np.hypot(x - d, y - e) * a) for a, b, c, d, e in rng.uniform(0, 4, (3, 5))
    ]
    return _of((np.stack(waves, -1) + 2) * 63.75)


def fractal(rng: np.random.Generator) -> Image.Image:
    """Draws a Julia set."""
    y, x = np.mgrid[-1.2:1.2:240j, -1.6:1.6:320j]
    z, c = x + 1j * y, complex(*rng.uniform(-0.8, 0.8, 2))
    steps = np.zeros(z.shape)
    for _ in range(40):
        z = np.where(np.abs(z) < 4, z * z + c, z)
        steps += np.abs(z) < 4
    return _of(steps[..., None] * rng.uniform(1, 6, 3))


def mosaic(rng: np.random.Generator) -> Image.Image:
    """Draws the Voronoi cells of random points, each in one colour."""
    y, x = np.mgrid[0:240, 0:320]
    seeds = rng.uniform(0, 320, (int(rng.integers(5, 60)), 2))
    nearest = np.argmin([(x - a) ** 2 + (y - b) ** 2 for a, b in seeds], 0)
    return _of(rng.uniform(0, 255, (len(seeds), 3))[nearest])


def test_card(rng: np.random.Generator) -> Image.Image:
    """Draws bars of the primary colours above a grey gradient."""
    bars = rng.permutation([(r, g, b) for r in (0, 255) for g in (0, 255) for b in (0, 255)])
    pixels = np.repeat(np.repeat(bars[None], 300, 0), 50, 1).astype(float)
    pixels[220:] = np.linspace(0, 255, 400)[None, :, None]
    return _of(pixels)


def road_sign(rng: np.random.Generator) -> Image.Image:
    """Draws a number or a word on a disc or a triangle with a border."""
    side = int(rng.choice([64, 200, 512]))
    picture = Image.new("RGB", (side, side), tuple(rng.choice([255, 240, 0], 1).repeat(3).tolist()))
    draw = ImageDraw.Draw(picture)
    if rng.random() < 0.5:
        draw.ellipse((side * 0.05, side * 0.05, side * 0.95, side * 0.95), "white", "red", max(2, side // 12))
    else:
        corners = [(side / 2, side * 0.05), (side * 0.95, side * 0.9), (side * 0.05, side * 0.9)]
        draw.polygon(corners, "white", "red", max(2, side // 14))
    said = str(rng.choice(["30", "50", "STOP", "!", "P", "100"]))
    draw.text((side / 2, side * 0.58), said, "black", ImageFont.load_default(side / 4), anchor="mm")
    return picture


def spreadsheet(rng: np.random.Generator) -> Image.Image:
    """Draws cells with numbers below a green bar."""
    picture = Image.new("RGB", (1280, 720), "white")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, 1280, 60), fill="#217346")
    for row in range(24):
        for column in range(12):
            box = (106 * column, 60 + 28 * row, 106 * column + 106, 88 + 28 * row)
            draw.rectangle(box, outline="#c0c0c0", fill="#eeeeee" if row * column == 0 else "white")
            if rng.random() < 0.7:
                draw.text((box[0] + 6, box[1] + 6), f"{rng.uniform(0, 10000):.2f}", "black")
    return picture


def terminal(rng: np.random.Generator) -> Image.Image:
    """Draws lines of green or white text on black."""
    picture = Image.new("RGB", (800, 500), "black")
    draw = ImageDraw.Draw(picture)
    ink = "#00ff66" if rng.random() < 0.5 else "#e0e0e0"
    for y in range(8, 490, 15):
        if rng.random() < 0.8:
            draw.text((8, y), "$ " + "".join(rng.choice(list("abcdef /.-_=0123"), rng.integers(3, 110))), ink)
    return picture


def blank(rng: np.random.Generator) -> Image.Image:
    """Draws one colour in one to four million pixels."""
    side = int(rng.choice([1, 8, 300, 2000]))
    return Image.new("RGB", (side, side), tuple(rng.integers(0, 256, 3).tolist()))


def _of(pixels: npt.NDArray[np.float64]) -> Image.Image:
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


Kind = Callable[[np.random.Generator], Image.Image]
FAMILIAR_KINDS: tuple[Kind, ...] = (blank, page_of_words, terminal, spreadsheet)
"""Kinds that resemble the outliers of the fit."""
UNSEEN_KINDS: tuple[Kind, ...] = (
    smiley,
    road_sign,
    flag,
    crossword,
    sheet_music,
    test_card,
    plasma,
    fractal,
    mosaic,
)


def read(captioner: Captioner, pictures: Iterator[Path | Image.Image]) -> Iterator[npt.NDArray[np.uint8]]:
    """Prepares pictures one after the other."""
    return (load(picture, captioner.spec.image) for picture in pictures)


def probabilities(confidence: Confidence, captioned: Captioned) -> npt.NDArray[np.float64]:
    """Returns the confidence of each caption, (photos,), as the runtime computes it."""
    pairs = zip(captioned.photos, captioned.hypotheses, strict=True)
    return np.array([confidence.probability(photo, hypothesis) for photo, hypothesis in pairs])


def show_dev(captioner: Captioner, confidence: Confidence, data: Dataset) -> npt.NDArray[np.float64]:
    """Prints figures for the bundle's own search, greedy and beam 5; returns the probabilities for its own search."""
    human = confidence.measured["human_cider"]  # of the datasets that were in the fit
    dev = [example for example in data.split("dev") if len(example.references) > 1 and example.dataset in human]
    own = captioner.spec.search
    of_own = np.empty(0)
    for options in (own, own.plain(1), own.plain(5)):
        captioned = caption_examples(captioner, dev, options)
        found = probabilities(confidence, captioned)
        good = relative_scores(captioned.texts, dev, human) >= confidence.measured["share"]
        print(
            f"  dev as fitted, {options.text}: {len(dev)} photos, {100 * good.mean():.1f}% good, mean confidence "
            f"{100 * found.mean():.1f}%, calibration error {calibration_error(found, good):.3f} (equal mass) "
            f"{calibration_error(found, good, of='width'):.3f} (equal width), "
            f"AUROC {auroc(found[good], found[~good]):.3f}"
        )
        of_own = found if options is own else of_own
    for name in dict.fromkeys(example.dataset for example in dev):
        its = of_own[[example.dataset == name for example in dev]]
        print(f"  by chance, {its.size} photos of {name or 'dev'}: calibration error {by_chance(its):.3f} (equal mass)")
    return of_own


def by_chance(confidence: npt.NDArray[np.float64]) -> float:
    """Returns the mean calibration error by chance if every confidence is exactly right."""
    rng = np.random.default_rng(SEED)
    return float(np.mean([calibration_error(confidence, rng.random(confidence.size) < confidence) for _ in range(200)]))


def show_others(
    captioner: Captioner, confidence: Confidence, dev: npt.NDArray[np.float64], photos: Sequence[Path], count: int
) -> None:
    """Prints figures for photos of another collection, and for each kind of drawn picture against dev."""
    others = np.empty(0)
    if photos:
        captioned = caption_all(captioner, read(captioner, iter(photos)))
        others = probabilities(confidence, captioned)
        pairs = zip(captioned.photos, captioned.hypotheses, strict=True)
        familiar = np.array([confidence.familiar.logit(*pair) for pair in pairs])
        print(
            f"  {len(photos)} photos of another collection: mean confidence {100 * others.mean():.1f}%, "
            f"{np.count_nonzero(familiar < 0)} taken for outliers"
        )
    everything = []
    for kind in (*FAMILIAR_KINDS, *UNSEEN_KINDS):
        rng = np.random.default_rng([SEED, *kind.__name__.encode()])
        drawn = (kind(rng) for _ in range(count))
        found = probabilities(confidence, caption_all(captioner, read(captioner, drawn)))
        if kind in UNSEEN_KINDS:
            everything.append(found)
        against = f", against those photos {auroc(others, found):.3f}" if len(others) else ""
        print(
            f"  {kind.__name__.replace('_', ' ')}: AUROC against dev {auroc(dev, found):.3f}{against}; confidence "
            f"{np.median(found):.3f} (median), {found.max():.3f} (highest)"
        )
    every = auroc(dev, np.concatenate(everything))
    print(f"  the last {len(UNSEEN_KINDS)} kinds, unlike those of the fit, {count} each: AUROC against dev {every:.3f}")


def show_manifest(confidence: Confidence) -> None:
    """Prints the figures that the export measured."""
    for found in confidence.measured["found"]:
        print(f"  dev out of fold, {found['precision']}, beam {found['beam_size']}: {figures(found)}")
    for one in confidence.measured.get("datasets", ()):
        print(f"  {one['dataset']} out of fold, {one['photos']} photos: {figures(one)}")
        if one["transfer"]:
            print(
                f"  {one['dataset']}, fitted on the {one['transfer']['fitted_on']} others: {figures(one['transfer'])}"
            )


def figures(found: Mapping[str, Any]) -> str:
    """Describes the figures of a manifest."""
    return (
        f"{100 * found['base_rate']:.1f}% good, mean confidence {100 * found['mean_confidence']:.1f}%, calibration "
        f"error {found['error_equal_mass']:.3f} (equal mass) {found['error_equal_width']:.3f} (equal width), AUROC "
        f"{found['auroc'] if found['auroc'] is None else format(found['auroc'], '.3f')}"
    )


def main() -> None:
    """Prints the figures of the export, then those of each precision."""
    parser = command_line(__doc__, "--threads")
    parser.add_argument("bundle", type=Path, help="ONNX bundle with a confidence.")
    parser.add_argument(
        "--data", type=Path, required=True, action="append", help="Dataset of the export; can be repeated."
    )
    parser.add_argument("--photos", type=Path, help="Folder of photos from another collection.")
    parser.add_argument("--outliers", type=int, default=30, help="Number of pictures of each kind.  [default: 30]")
    arguments = parser.parse_args()
    try:
        measure(arguments.bundle, arguments.data, arguments.photos, arguments.outliers, arguments.threads)
    except CaprunError as error:
        parser.exit(1, f"Error: {error}\n")


def measure(path: Path, data: Sequence[Path], photos: Path | None, outliers: int, threads: int) -> None:
    """Prints all figures of a bundle.

    Raises:
        CaprunError: the bundle, the dataset or a photo cannot be read, or the bundle has no confidence.
    """
    bundle, drawn = read_bundle(path), splits_of(path)
    confidence = bundle.manifest.confidence
    if confidence is None:
        raise CaptionerError(f"{path} has no confidence; export it again with --data.")
    others = sorted(file for file in photos.rglob("*") if file.suffix.lower() in SUFFIXES) if photos else []
    if photos and not others:
        raise CaptionerError(f"There are no photos in {photos}; name another folder with --photos.")
    sources = [DataSource(directory) for directory in data]
    dataset = load_datasets(sources, drawn)
    print(confidence.event)
    show_manifest(confidence)
    for precision in bundle.manifest.precisions:
        if precision == "fp16":
            continue
        print(f"{precision}:")
        backend = OnnxBackend(bundle, "cpu", threads, precision)
        captioner = Captioner(bundle.manifest, bundle.vocabulary, backend)
        dev = show_dev(captioner, confidence, dataset)
        show_others(captioner, confidence, dev, others, outliers)


if __name__ == "__main__":
    main()
