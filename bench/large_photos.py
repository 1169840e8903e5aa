"""Times JPEGs of 12 megapixels, as phones write them, from file to caption, with scaled decoding and in full.

    python bench/large_photos.py --photos DIR          # one photo at a time, and a folder run
    python bench/large_photos.py --photos DIR --limit 8 --rounds 3

The photos of the folder are enlarged, with added sensor noise, and saved at quality 90. One photo: the bundle with
scaled and with full decoding, eager PyTorch as in `peers.py`, and only Pillow, which decodes in full and resizes; all
are warm and take turns, photo by photo. Folder: the run of `folder.py` over the photos, scaled and in full, and eager
PyTorch photo by photo with as many threads, in turns. The last line counts the captions that change with scaled
decoding, and those that change if the photos are saved at quality 92.
"""

from __future__ import annotations

import io
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from folder import run
from harness.command_line import command_line, jpeg_files, machine
from harness.plain_search import without_bans
from harness.tables import header, row
from harness.turns import in_turns, ratios, seconds, with_quartiles
from peers.eager import EagerCaptioner
from PIL import Image

from caprun import Captioner
from caprun.batch.listing import list_photos
from caprun.engine import default_batch_size
from caprun.inference.hardware import threads_for_all_cores
from captioner.models.checkpoint import load_checkpoint

PIXELS = 12_000_000
GRAIN = 12


def enlarge(path: Path, target: Path, quality: int = 90) -> None:
    """Writes a photo with 12 megapixels and sides that are multiples of 8, like a camera's."""
    with Image.open(path) as opened:
        photo = opened.convert("RGB")
    scale = (PIXELS / (photo.width * photo.height)) ** 0.5
    size = round(photo.width * scale / 8) * 8, round(photo.height * scale / 8) * 8
    pixels = np.asarray(photo.resize(size, Image.Resampling.BICUBIC)).astype(np.int16)
    pixels += np.random.default_rng(0).integers(-GRAIN, GRAIN + 1, pixels.shape, dtype=np.int16)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(target, quality=quality)


def decoding(captioner: Captioner, how: str) -> Captioner:
    """Returns a captioner with the same graphs that decodes JPEGs as `how` says, `scaled` or `full`."""
    image = replace(captioner.spec.image, jpeg_decoding=how)
    spec = replace(captioner.spec, image=image)
    return Captioner(spec, captioner.vocabulary, captioner.backend, workers=captioner.workers)


def single(sides: Mapping[str, Callable[[str], object]], photos: Sequence[str], rounds: int) -> None:
    """Times every side on every photo and prints a row for each side, with its ratio to the last side."""
    in_turns(sides, photos)  # warm-up
    timed = {name: lambda photo, side=side: 1000 * seconds(lambda: side(photo)) for name, side in sides.items()}
    times = in_turns(timed, [*photos] * rounds)
    base = list(sides)[-1]
    print(header("one photo", "ms (quartiles)", f"times {base}"))
    for name, taken in times.items():
        print(row(name, with_quartiles(taken, 0), with_quartiles(ratios(taken, times[base]))), flush=True)


def folder(many: Mapping[str, Captioner], peer: EagerCaptioner, photos: Sequence[str], rounds: int) -> None:
    """Times folder runs and the peer's loop, and prints the photos per second of each."""
    listed = list_photos(photos, io.BytesIO())
    size = default_batch_size(next(iter(many.values())))
    options = without_bans(next(iter(many.values())).spec.search, 3)

    def loop(_: int) -> float:
        return 1000 * seconds(lambda: [peer.caption(photo, options) for photo in photos]) / len(photos)

    sides: dict[str, Callable[[int], float]] = {
        name: lambda _, captioner=captioner: run(captioner, listed, size).wall  # type: ignore[misc]
        for name, captioner in many.items()
    }
    sides["eager PyTorch"] = loop
    times = in_turns(sides, range(rounds))
    print(f"\n{header('folder run', 'photos/s', 'scaled / this row')}")
    for name, taken in times.items():
        cells = f"{1000 / statistics.median(taken):.1f}", f"{statistics.median(ratios(taken, times['scaled'])):.2f}"
        print(row(name, *cells), flush=True)


def main() -> None:
    """Prints a table of single photos, one of folder runs, and how many captions change."""
    parser = command_line(__doc__, "--photos", "--bundle", "--precision", "--checkpoint", "--threads")
    parser.add_argument("--limit", type=int, help="Number of photos.  [default: all]")
    parser.add_argument("--rounds", type=int, default=5, help="Turns of each side.  [default: 5]")
    arguments = parser.parse_args()
    files = jpeg_files(parser, arguments.photos)[: arguments.limit]
    load = partial(Captioner.load, arguments.bundle, device="cpu", precision=arguments.precision)
    captioner, cores = load(threads=arguments.threads), threads_for_all_cores()
    peer = EagerCaptioner(load_checkpoint(arguments.checkpoint))
    image = captioner.spec.image
    options = without_bans(captioner.spec.search, 3)

    def pillow(photo: str) -> Image.Image:
        with Image.open(photo) as opened:
            return opened.convert("RGB").resize((image.width, image.height), Image.Resampling.BICUBIC)

    with tempfile.TemporaryDirectory() as scratch:
        photos = [f"{scratch}/{path.name}" for path in files]
        for path, photo in zip(files, photos, strict=True):
            enlarge(path, Path(photo))
        print(f"{len(photos)} photos, {arguments.threads} thread(s), {cores} in the folder run")
        print(f"{machine(['onnxruntime', 'pillow', 'torch'])}\n")
        torch.set_num_threads(arguments.threads)
        scaled, full = decoding(captioner, "scaled"), decoding(captioner, "full")
        sides: dict[str, Callable[[str], object]] = {
            "scaled": lambda photo: scaled.caption(photo, options),
            "full": lambda photo: full.caption(photo, options),
            "eager PyTorch": lambda photo: peer.caption(photo, options),
            "Pillow, decode and resize": pillow,
        }
        single(sides, photos, arguments.rounds)
        torch.set_num_threads(cores)
        loaded = load(many=True)
        folder({how: decoding(loaded, how) for how in ("scaled", "full")}, peer, photos, arguments.rounds)
        before = [full.caption(photo, options).text for photo in photos]
        after = [scaled.caption(photo, options).text for photo in photos]
        for path, photo in zip(files, photos, strict=True):
            enlarge(path, Path(photo), quality=92)
        again = [full.caption(photo, options).text for photo in photos]
        changed = [sum(a != b for a, b in zip(before, other, strict=True)) for other in (after, again)]
        print(f"\ncaptions that change: {changed[0]} of {len(photos)} by scaled decoding, {changed[1]} by quality 92")


if __name__ == "__main__":
    main()
