"""What the search costs beside the decoder, one photo at a time: the NumPy work between two steps, and once a caption.

    python bench/search_overhead.py                    # the packaged bundle, greedy and beam 3, one thread
    python bench/search_overhead.py --bans --rounds 50 --precision fp32

The time inside `Steps` is the decoder's. What passes between the end of one step and the beginning of the next is the
search's, a step; what passes before the first and after the last, reading the caption back among it, is its own once a
caption. Medians over photos and rounds.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime

from caprun import Captioner, SearchOptions
from caprun.arrays import Ids
from caprun.photos.preprocessing import load
from caprun.search.decoding import search
from caprun.search.steps import StepOutput, Steps

ROOT = Path(__file__).parents[1]
BANS = {"min_length": 8, "no_repeat_ngram": 3, "no_repeat_word": 1, "bad_endings": ("a", "the", "with")}


class TimedSteps:
    """Steps that note when each begins and ends."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self.began: list[float] = []
        self.ended: list[float] = []

    def __call__(self, row: Ids, parent: Ids, token: Ids, k: int) -> StepOutput:
        """See `caprun.search.steps.Steps`."""
        self.began.append(time.perf_counter())
        output = self._steps(row, parent, token, k)
        self.ended.append(time.perf_counter())
        return output


class Cost(NamedTuple):
    """Microseconds, medians."""

    step: float
    """In the decoder."""
    between: float
    """In the search, between two steps."""
    once: float
    """In the search, a caption."""


def measure(captioner: Captioner, images: list[np.ndarray], options: SearchOptions, rounds: int) -> Cost:
    """Time the search of every photo so many times, after one to warm up."""
    special = captioner.spec.special
    inside, between, once = [], [], []
    for turn in range(rounds + 1):
        for image in images:
            steps = TimedSteps(captioner.backend.encode(image[None]))
            began = time.perf_counter()
            search(
                steps,
                1,
                special.start,
                special.end,
                options,
                vocabulary=captioner.vocabulary,
                neutral=captioner.neutral if options.neutral else None,
            )
            ended = time.perf_counter()
            if turn:
                inside += [end - start for start, end in zip(steps.began, steps.ended, strict=True)]
                between += [start - end for end, start in zip(steps.ended[:-1], steps.began[1:], strict=True)]
                once.append(steps.began[0] - began + ended - steps.ended[-1])
    return Cost(*(1e6 * statistics.median(times) for times in (inside, between, once)))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=ROOT / "examples", help="folder of .jpg files")
    parser.add_argument("--bundle", type=Path, default=None, help="the packaged one by default")
    parser.add_argument("--precision", help="of the bundle; the fastest by default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--bans", action="store_true", help="also with bans, in groups, and sampling")
    parser.add_argument("--neutral", action="store_true", help="each also with neutral words, if the bundle has them")
    arguments = parser.parse_args()
    captioner = Captioner.load(arguments.bundle, device="cpu", threads=arguments.threads, precision=arguments.precision)
    images = [load(path, captioner.spec.image) for path in sorted(arguments.photos.glob("*.jpg"))]
    plain = captioner.spec.search.plain
    searches = {"greedy": plain(1), "beam 3": plain(3)}
    if arguments.bans:
        searches |= {
            "greedy, bans": replace(plain(1), **BANS),
            "beam 3, bans": replace(plain(3), **BANS),
            "3 groups of 1": replace(plain(3), groups=3),
            "sampled, top-k 50": replace(plain(1), temperature=1.0, top_k=50),
            "sampled, top-p 0.9": replace(plain(1), temperature=1.0, top_p=0.9),
        }
    if arguments.neutral:
        searches |= {f"{name}, neutral": replace(options, neutral=True) for name, options in searches.items()}
    print(
        f"{len(images)} photos, batch 1, {arguments.threads} thread(s), {platform.machine()}, NumPy {np.__version__}, "
        f"onnxruntime {onnxruntime.__version__}"
    )
    print("| search | decoder, µs a step | search, µs a step | its share of a step | search, µs once a caption |")
    print("| --- | --- | --- | --- | --- |")
    for name, options in searches.items():
        cost = measure(captioner, images, options, arguments.rounds)
        share = cost.between / (cost.step + cost.between)
        print(f"| {name} | {cost.step:.0f} | {cost.between:.0f} | {share:.1%} | {cost.once:.0f} |", flush=True)


if __name__ == "__main__":
    main()
