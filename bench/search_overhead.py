"""Compares the time of the search with that of the decoder, one photo at a time.

    python bench/search_overhead.py                    # the packaged bundle, greedy and beam 3, one thread
    python bench/search_overhead.py --bans --rounds 50 --precision fp32

The time inside `Steps` is the decoder's. The time between two steps is the search's time per step. The time before the
first step and after the last is its time per caption; it includes reading the caption back. All figures are medians
over photos and rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from harness.command_line import command_line, jpeg_files, machine
from harness.tables import header, row

from caprun import Captioner, SearchOptions
from caprun.arrays import Ids
from caprun.photos.preprocessing import load
from caprun.search.decoding import search
from caprun.search.steps import StepOutput, Steps

BANS = {"min_length": 8, "no_repeat_ngram": 3, "no_repeat_word": 1, "bad_endings": ("a", "the", "with")}


class TimedSteps:
    """Records when each step begins and ends."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self.began: list[float] = []
        self.ended: list[float] = []

    def __call__(self, row: Ids, parent: Ids, token: Ids, k: int) -> StepOutput:
        """Runs one step; see `caprun.search.steps.Steps`."""
        self.began.append(time.perf_counter())
        output = self._steps(row, parent, token, k)
        self.ended.append(time.perf_counter())
        return output


class Cost(NamedTuple):
    """Median times in microseconds."""

    step: float
    """Decoder, per step."""
    between: float
    """Search, between two steps."""
    once: float
    """Search, per caption."""


def measure(captioner: Captioner, images: Sequence[npt.NDArray[np.uint8]], options: SearchOptions, rounds: int) -> Cost:
    """Times the search of every photo in every round, after a round of warm-up."""
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
    """Prints a row for each search."""
    parser = command_line(__doc__, "--photos", "--bundle", "--precision", "--threads")
    parser.add_argument("--rounds", type=int, default=20, help="Searches of each photo.  [default: 20]")
    parser.add_argument("--bans", action="store_true", help="Also measure bans, groups and sampling.")
    parser.add_argument(
        "--neutral", action="store_true", help="Also measure each search with neutral words, if the bundle has them."
    )
    arguments = parser.parse_args()
    captioner = Captioner.load(arguments.bundle, device="cpu", threads=arguments.threads, precision=arguments.precision)
    images = [load(path, captioner.spec.image) for path in jpeg_files(parser, arguments.photos)]
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
    print(f"{len(images)} photos, batch 1, {arguments.threads} thread(s), {machine(['numpy', 'onnxruntime'])}\n")
    print(header("search", "decoder, µs per step", "search, µs per step", "its share", "search, µs per caption"))
    for name, options in searches.items():
        cost = measure(captioner, images, options, arguments.rounds)
        share = cost.between / (cost.step + cost.between)
        print(row(name, f"{cost.step:.0f}", f"{cost.between:.0f}", f"{share:.1%}", f"{cost.once:.0f}"), flush=True)


if __name__ == "__main__":
    main()
