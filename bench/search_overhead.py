"""What the search costs beside the decoder: the share of NumPy work in a step, one photo at a time.

    python bench/search_overhead.py                    # the packaged bundle, greedy and beam 3, one thread
    python bench/search_overhead.py --bans --rounds 50

The time inside `Steps` is the decoder's, binding of inputs and outputs among it; what else passes in `search` is the
search's own, reading the captions back at the end among it. Medians over photos and rounds of the time a step.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime

from caprun import Captioner, SearchOptions
from caprun.decoding import Ids, StepOutput, Steps, search
from caprun.image import load

ROOT = Path(__file__).parents[1]
BANS = {"min_length": 8, "no_repeat_ngram": 3, "no_repeat_word": 1, "bad_endings": ("a", "the", "with")}


class TimedSteps:
    """Steps that count themselves and the time that they take."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self.count, self.seconds = 0, 0.0

    def __call__(self, row: Ids, parent: Ids, token: Ids, k: int) -> StepOutput:
        """See `caprun.decoding.Steps`."""
        began = time.perf_counter()
        output = self._steps(row, parent, token, k)
        self.seconds += time.perf_counter() - began
        self.count += 1
        return output


def measure(captioner: Captioner, images: list[np.ndarray], options: SearchOptions, rounds: int) -> tuple[float, float]:
    """Microseconds a step in the decoder and in the search, medians."""
    special = captioner.spec.special
    inside, outside = [], []
    for turn in range(rounds + 1):
        for image in images:
            steps = TimedSteps(captioner.backend.encode(image[None]))
            began = time.perf_counter()
            search(steps, 1, special.start, special.end, options, vocabulary=captioner.vocabulary)
            whole = time.perf_counter() - began
            if turn:  # the first warms up
                inside.append(1e6 * steps.seconds / steps.count)
                outside.append(1e6 * (whole - steps.seconds) / steps.count)
    return statistics.median(inside), statistics.median(outside)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=ROOT / "examples", help="folder of .jpg files")
    parser.add_argument("--bundle", type=Path, default=None, help="the packaged one by default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--bans", action="store_true", help="also with bans, in groups, and sampling")
    arguments = parser.parse_args()
    captioner = Captioner.load(arguments.bundle, device="cpu", threads=arguments.threads)
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
    print(
        f"{len(images)} photos, batch 1, {arguments.threads} thread(s), {platform.machine()}, NumPy {np.__version__}, "
        f"onnxruntime {onnxruntime.__version__}"
    )
    print("| search | decoder, µs a step | search, µs a step | search's share |\n| --- | --- | --- | --- |")
    for name, options in searches.items():
        inside, outside = measure(captioner, images, options, arguments.rounds)
        print(f"| {name} | {inside:.0f} | {outside:.0f} | {outside / (inside + outside):.1%} |", flush=True)


if __name__ == "__main__":
    main()
