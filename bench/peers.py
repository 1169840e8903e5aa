"""Compares the speed of other captioners with this runtime, from JPEG file to caption, warm, on the same photos.

    python bench/peers.py                                        # examples/, one thread
    python bench/peers.py --photos DIR --limit 5 --rounds 3 --only caprun-fp32 eager

The peers are our weights in eager PyTorch, run as public repositories do (`peers/eager.py`), and as the TorchScript
bundle of `captioner export`; sgrvinod's tutorial (`peers/sgrvinod.py`); and Hugging Face's ViT-GPT2 and BLIP-base
(`peers/hugging_face.py`). The last three have random weights, which do not change the time of a step. They take as many
steps as our caption of the photo has pieces, END included. All search without bans.

Each contender runs in its own process. They take turns, each with a block of all photos, after captioning the first
photo of the block once as warm-up. A ratio is the median over photos and rounds of the contender's time divided by ours
for the same photo in the same round. `--clock cpu` measures CPU time, which depends less on other load than wall time.
Peak memory is that of the process, including Python and its imports. An install size is the total size of the files in
the distributions that a contender requires, as installed here (`peers/install_size.py`); "without CUDA" excludes
NVIDIA's libraries and PyTorch's CUDA libraries.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from harness.command_line import command_line, jpeg_files, machine
from harness.tables import header, row
from harness.turns import in_turns, ratios, with_quartiles
from peers.contenders import Captioned, Contender, Sources, contenders
from peers.install_size import install_size
from peers.worker import Answer, Worker

from caprun.engine import packaged_bundle
from caprun.errors import CaprunError

BEAMS = (1, 3)

Times = Mapping[str, Sequence[float]]


def export_torchscript(checkpoint: Path, directory: Path) -> Path:
    """Exports the TorchScript bundle with `captioner export`.

    Raises:
        SystemExit: the export failed.
    """
    output = directory / "torchscript"
    command = [sys.executable, "-m", "captioner", "export", str(checkpoint), "--format", "torchscript"]
    done = subprocess.run([*command, "--output", str(output)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"Error: {checkpoint} cannot be exported to TorchScript: {done.stderr.strip()}")
    return output


def race(
    workers: Sequence[Worker], photos: Sequence[str], beams: int, rounds: int, clock: str
) -> tuple[Times, Mapping[str, int]]:
    """Returns the milliseconds of each contender for every photo of every round, and its captions that equal ours.

    The first worker is ours and determines the number of steps of each photo.
    """
    ours = [workers[0].caption(photo, beams, 0).caption for photo in photos]

    def block(worker: Worker, _: int) -> list[Answer]:
        worker.caption(photos[0], beams, ours[0].steps)  # warm-up
        return [worker.caption(photo, beams, one.steps) for photo, one in zip(photos, ours, strict=True)]

    blocks = in_turns({worker.name: partial(block, worker) for worker in workers}, range(rounds))
    times = {
        name: [getattr(answer, clock) for answers in found for answer in answers] for name, found in blocks.items()
    }
    return times, {
        name: agreeing(name, [answer.caption for answer in found[0]], ours) for name, found in blocks.items()
    }


def agreeing(name: str, found: Sequence[Captioned], ours: Sequence[Captioned]) -> int:
    """Counts the captions that equal ours; -1 for random weights.

    Raises:
        SystemExit: a contender with random weights took a different number of steps.
    """
    if found[0].text is not None:
        return sum(one.text == other.text for one, other in zip(found, ours, strict=True))
    if [one.steps for one in found] != [one.steps for one in ours]:
        raise SystemExit(f"Error: {name} took a different number of steps than our captions have.")
    return -1


def speed_table(entrants: Mapping[str, Contender], times: Times, same: Mapping[str, int], photos: int) -> list[str]:
    """Formats a row for each contender: its time, and its ratio to each of our precisions."""
    ours = [name for name in times if name.startswith("caprun-")]
    bases = [f"times {entrants[name].title}" for name in ours]
    lines = [header("", "ms per photo (quartiles)", *bases, "same captions")]
    for name, taken in times.items():
        shown = [f"{statistics.median(ratios(taken, times[base])):.2f}" for base in ours]
        agreed = "random weights" if same[name] < 0 else f"{same[name]} of {photos}"
        lines.append(row(entrants[name].title, with_quartiles(taken, 1), *shown, agreed))
    return lines


def size_table(entrants: Mapping[str, Contender], workers: Sequence[Worker]) -> list[str]:
    """Formats a row for each contender: its peak memory and the size of its installation."""
    lines = [header("", "peak memory, MB", "installed, MB", "without CUDA, MB", "packages")]
    for worker in workers:
        entrant = entrants[worker.name]
        size = install_size(entrant.requirements, entrant.folders)
        sizes = (worker.peak_memory(), size.total, size.total - size.cuda)
        packages = ", ".join(["ours"] * bool(entrant.folders) + [*entrant.requirements])
        lines.append(row(entrant.title, *(f"{one / 1e6:.0f}" for one in sizes), packages))
    return lines


def main() -> None:
    """Prints a table of times for each search, and one of sizes."""
    parser = command_line(__doc__, "--photos", "--bundle", "--checkpoint", "--threads")
    parser.add_argument("--limit", type=int, help="Number of photos.  [default: all]")
    parser.add_argument(
        "--torchscript", type=Path, help="TorchScript bundle of the checkpoint.  [default: exported first]"
    )
    parser.add_argument("--rounds", type=int, default=5, help="Blocks of each contender.  [default: 5]")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="Time to measure.  [default: wall]")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="Names of contenders.  [default: all]")
    arguments = parser.parse_args()
    photos = [str(path) for path in jpeg_files(parser, arguments.photos)][: arguments.limit]
    if len(photos) * arguments.rounds < 2:
        parser.error("Quartiles need two photos or two rounds; raise --rounds or --limit.")
    try:
        bundle = (arguments.bundle or packaged_bundle()).resolve()
        entrants = contenders(bundle)
    except CaprunError as error:
        raise SystemExit(f"Error: {error}") from None
    unknown = sorted(set(arguments.only or ()) - set(entrants))
    if unknown:
        parser.error(f"--only {unknown[0]} is not a contender; choose from {', '.join(entrants)}.")
    first, *others = entrants
    names = [first, *(name for name in others if not arguments.only or name in arguments.only)]
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        script = arguments.torchscript
        if script is None and "torchscript" in names:
            script = export_torchscript(arguments.checkpoint, scratch)
        sources = Sources(bundle, arguments.checkpoint.resolve(), (script or scratch).resolve())
        print(f"{len(photos)} photos, {arguments.threads} thread(s), {arguments.rounds} rounds, {arguments.clock} time")
        print(machine(["onnxruntime", "onnxruntime-gpu", "torch", "torchvision", "transformers"]))
        # built one after the other, because building random weights keeps the CPU busy
        workers = [stack.enter_context(Worker(name, sources, arguments.threads)) for name in names]
        for beams in BEAMS:
            times, same = race(workers, photos, beams, arguments.rounds, arguments.clock)
            lines = speed_table(entrants, times, same, len(photos))
            print(f"\n{'greedy' if beams == 1 else f'beam {beams}'}:", *lines, sep="\n", flush=True)
        print("", *size_table(entrants, workers), sep="\n")


if __name__ == "__main__":
    main()
