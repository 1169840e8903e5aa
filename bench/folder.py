"""Many photos, files to rows: what the folder run takes, against what its stages take alone.

    python bench/folder.py --photos DIR                # the ratio to the bound
    python bench/folder.py --photos DIR --scale        # cost and memory at 100, 1,000 and 10,000 photos

Each stage is timed alone on one core, in the batches of the run: reading a photo (JPEG decoding, resizing), the
encoder, the decoder's steps with their search. Their sum, divided by the cores, is the least that the run could take.
Stages and run take turns, so that a slow moment of the machine hits both. Beside wall time stands processor time, which
hardly depends on what else the machine does: how much more work the run is than its stages.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from caprun import Captioner
from caprun.batch.listing import Listed, list_photos
from caprun.commands.many_photos import plan_output, write_captions
from caprun.engine import default_batch_size
from caprun.inference.hardware import peak_memory
from caprun.photos.preprocessing import load
from caprun.search.steps import Steps

SCALE = (100, 1_000, 10_000)


class Cost(NamedTuple):
    """Milliseconds a photo."""

    wall: float
    cpu: float


class TimedEncoder:
    """A backend that adds up what the encoder takes."""

    def __init__(self, backend: Any) -> None:
        self._backend, self.device = backend, backend.device
        self.wall = self.cpu = 0.0

    def encode(self, images: npt.NDArray[np.uint8], *, alpha: bool = False) -> Steps:
        """See `caprun.engine.Backend`."""
        steps, cost = timed(lambda: self._backend.encode(images, alpha=alpha), len(images))
        self.wall += cost.wall * len(images)
        self.cpu += cost.cpu * len(images)
        return steps  # type: ignore[no-any-return]


def timed(work: Callable[[], Any], photos: int) -> tuple[Any, Cost]:
    """What the work returns, and what it takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, Cost(1000 * (time.perf_counter() - wall) / photos, 1000 * (time.process_time() - cpu) / photos)


def stages(captioner: Captioner, paths: list[str], size: int) -> dict[str, Cost]:
    """Each stage alone, on one core."""
    images, reading = timed(lambda: np.stack([load(path, captioner.spec.image) for path in paths]), len(paths))
    encoder = TimedEncoder(captioner.backend)
    watched = Captioner(captioner.spec, captioner.vocabulary, encoder)
    batches = [images[first : first + size] for first in range(0, len(images), size)]
    _, both = timed(lambda: [watched.caption_arrays(batch) for batch in batches], len(paths))
    encoding = Cost(encoder.wall / len(paths), encoder.cpu / len(paths))
    return {"read": reading, "encoder": encoding, "decoder": Cost(both.wall - encoding.wall, both.cpu - encoding.cpu)}


def run(captioner: Captioner, photos: list[Listed], size: int) -> Cost:
    """The folder run, its file included; the model is loaded already."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        output = plan_output(f"{folder}/captions.jsonl", photos)
        options = captioner.spec.search
        _, cost = timed(
            lambda: write_captions(captioner, photos, options, output, batch_size=size, decoders=None, overwrite=False),
            len(photos),
        )
    return cost


def compare(captioner: Captioner, photos: list[Listed], size: int, rounds: int, runs_of: int) -> None:
    """Print the stages, the run, and the ratio of its bound to it."""
    paths = [photo.path for photo in photos]
    many = list(itertools.islice(itertools.cycle(photos), runs_of))
    stages(captioner, paths, size), run(captioner, photos, size)  # warm-up
    alone, whole = [], []
    for _ in range(rounds):
        alone.append(stages(captioner, paths, size))
        whole.append(run(captioner, many, size))
    cores = captioner.workers
    print(f"{len(paths)} photos, batches of {size}, {cores} worker(s), medians of {rounds} rounds, ms a photo")
    print("| | wall | processor |\n| --- | --- | --- |")
    for stage in alone[0]:
        costs = [costs[stage] for costs in alone]
        print(f"| {stage}, alone on one core | {middle(costs, 0):.2f} | {middle(costs, 1):.2f} |")
    bounds = [Cost(*(sum(costs) / cores for costs in zip(*turn.values(), strict=True))) for turn in alone]
    print(f"| bound: their sum / {cores} | {middle(bounds, 0):.2f} | {middle(bounds, 1):.2f} |")
    shares = [Cost(cost.wall, cost.cpu / cores) for cost in whole]
    print(f"| run of {runs_of:,} photos | {middle(shares, 0):.2f} | {middle(shares, 1):.2f} |")
    ratios = [Cost(b.wall / w.wall, b.cpu / w.cpu) for b, w in zip(bounds, shares, strict=True)]
    print(f"| bound / run | {middle(ratios, 0):.2f} | {middle(ratios, 1):.2f} |")


def middle(costs: list[Cost], which: int) -> float:
    """The median of wall or processor time."""
    return statistics.median(cost[which] for cost in costs)


def scale(arguments: list[str]) -> None:
    """Print cost and peak memory by the number of photos, each in a process of its own."""
    print("| photos | ms a photo | processor, ms a photo | peak memory, MB |\n| --- | --- | --- | --- |")
    for count in SCALE:
        command = [sys.executable, __file__, *arguments, "--count", str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        print(f"| {count:,} | {found['wall']:.2f} | {found['cpu']:.2f} | {found['peak']:.0f} |", flush=True)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos, repeated as often as needed")
    parser.add_argument("--bundle", help="the packaged one by default")
    parser.add_argument("--batch-size", type=int, help="the run's own by default")
    parser.add_argument("--threads", type=int, help="all cores by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--run-of", type=int, default=320, help="photos in a run that is compared")
    parser.add_argument("--scale", action="store_true")
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.scale:
        scale([argument for argument in sys.argv[1:] if argument != "--scale"])
        return
    loaded = Captioner.load(arguments.bundle, device="cpu", threads=arguments.threads, many=True)
    captioner = loaded.for_many()
    size = arguments.batch_size or default_batch_size(captioner)
    photos = list_photos([str(arguments.photos)], io.BytesIO())
    if arguments.count:
        cost = run(captioner, list(itertools.islice(itertools.cycle(photos), arguments.count)), size)
        print(json.dumps({"wall": cost.wall, "cpu": cost.cpu, "peak": (peak_memory() or 0) / 1e6}))
        return
    compare(captioner, photos, size, arguments.rounds, arguments.run_of)


if __name__ == "__main__":
    main()
