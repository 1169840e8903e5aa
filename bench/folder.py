"""Compares the folder run, from files to rows, with the time that its stages take alone.

    python bench/folder.py --photos DIR                # the ratio to the bound
    python bench/folder.py --photos DIR --scale        # cost and memory at 100, 1,000 and 10,000 photos

Each stage is timed alone on one core, in the batches of the run: reading a photo (JPEG decoding, resizing), the
encoder, and the decoder with its search, which is the time of captioning less that of the encoder. Their sum
divided by the number of cores is a lower bound on the time of the run. Stages and run take turns. CPU time is printed
next to wall time; it hardly depends on other load, and shows how much work the run adds to its stages.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from harness.command_line import command_line, machine
from harness.tables import header, row
from harness.turns import in_turns

from caprun import Captioner
from caprun.batch.listing import Listed, list_photos
from caprun.commands.many_photos import plan_output, write_captions
from caprun.engine import default_batch_size
from caprun.inference.hardware import peak_memory
from caprun.photos.preprocessing import load

SCALE = (100, 1_000, 10_000)


class Cost(NamedTuple):
    """Milliseconds per photo."""

    wall: float
    cpu: float


def timed(work: Callable[[], Any], photos: int) -> tuple[Any, Cost]:
    """Returns the result of a call, and its cost per photo."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, Cost(1000 * (time.perf_counter() - wall) / photos, 1000 * (time.process_time() - cpu) / photos)


def stages(captioner: Captioner, paths: list[str], size: int) -> dict[str, Cost]:
    """Times each stage alone, on one core."""
    images, reading = timed(lambda: np.stack([load(path, captioner.spec.image) for path in paths]), len(paths))
    batches = [images[first : first + size] for first in range(0, len(images), size)]
    _, encoding = timed(lambda: [captioner.backend.encode(batch) for batch in batches], len(paths))
    _, both = timed(lambda: [captioner.caption_arrays(batch) for batch in batches], len(paths))
    return {"read": reading, "encoder": encoding, "decoder": Cost(both.wall - encoding.wall, both.cpu - encoding.cpu)}


def run(captioner: Captioner, photos: list[Listed], size: int) -> Cost:
    """Times a folder run, including writing its file but not loading the model."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        output = plan_output(f"{folder}/captions.jsonl", photos)
        options = captioner.spec.search
        _, cost = timed(
            lambda: write_captions(captioner, photos, options, output, batch_size=size, decoders=None, overwrite=False),
            len(photos),
        )
    return cost


def compare(captioner: Captioner, photos: list[Listed], size: int, rounds: int, run_of: int) -> None:
    """Prints the stages, the run, and the ratio of the bound to the run."""
    paths = [photo.path for photo in photos]
    many = list(itertools.islice(itertools.cycle(photos), run_of))
    stages(captioner, paths, size), run(captioner, photos, size)  # warm-up
    alone, whole = [], []
    sides: dict[str, Callable[[int], None]] = {
        "stages": lambda _: alone.append(stages(captioner, paths, size)),
        "run": lambda _: whole.append(run(captioner, many, size)),
    }
    in_turns(sides, range(rounds))
    cores = captioner.workers
    print(f"{machine(['onnxruntime'])}; {len(paths)} photos, batches of {size}, {cores} worker(s)")
    print(f"ms per photo, medians of {rounds} rounds\n")
    print(header("", "wall", "CPU"))
    for stage in alone[0]:
        print(cost_row(f"{stage}, alone on one core", (costs[stage] for costs in alone)))
    bounds = [Cost(*(sum(costs) / cores for costs in zip(*turn.values(), strict=True))) for turn in alone]
    print(cost_row(f"bound: their sum / {cores}", bounds))
    shares = [Cost(cost.wall, cost.cpu / cores) for cost in whole]
    print(cost_row(f"run of {run_of:,} photos", shares))
    print(cost_row("bound / run", (Cost(b.wall / w.wall, b.cpu / w.cpu) for b, w in zip(bounds, shares, strict=True))))


def cost_row(name: str, costs: Iterable[Cost]) -> str:
    """Formats a row with the medians of costs."""
    return row(name, *(f"{statistics.median(times):.2f}" for times in zip(*costs, strict=True)))


def scale(arguments: list[str]) -> None:
    """Prints cost and peak memory by the number of photos, each measured in a separate process."""
    print(header("photos", "wall, ms per photo", "CPU, ms per photo", "peak memory, MB"))
    for count in SCALE:
        command = [sys.executable, __file__, *arguments, "--count", str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        cells = f"{count:,}", f"{found['wall']:.2f}", f"{found['cpu']:.2f}", f"{found['peak']:.0f}"
        print(row(*cells), flush=True)


def main() -> None:
    """Prints the comparison, or with --scale the cost by the number of photos."""
    parser = command_line(__doc__, "--bundle")
    parser.add_argument("--photos", type=Path, required=True, help="Folder of photos; a longer run repeats them.")
    parser.add_argument("--batch-size", type=int, help="Photos per batch.  [default: that of caprun]")
    parser.add_argument("--threads", type=int, help="CPU threads.  [default: all cores]")
    parser.add_argument("--rounds", type=int, default=5, help="Number of runs to compare.  [default: 5]")
    parser.add_argument("--run-of", type=int, default=320, help="Photos in each run.  [default: 320]")
    parser.add_argument("--scale", action="store_true", help="Measure 100, 1,000 and 10,000 photos instead.")
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.scale:
        scale([argument for argument in sys.argv[1:] if argument != "--scale"])
        return
    captioner = Captioner.load(arguments.bundle, device="cpu", threads=arguments.threads, many=True)
    size = arguments.batch_size or default_batch_size(captioner)
    photos = list_photos([str(arguments.photos)], io.BytesIO())
    if arguments.count:
        cost = run(captioner, list(itertools.islice(itertools.cycle(photos), arguments.count)), size)
        print(json.dumps({"wall": cost.wall, "cpu": cost.cpu, "peak": (peak_memory() or 0) / 1e6}))
        return
    compare(captioner, photos, size, arguments.rounds, arguments.run_of)


if __name__ == "__main__":
    main()
