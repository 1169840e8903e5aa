"""This runtime and the field's captioners in one run: the same photos, one machine, JPEG file to caption, warm.

    python bench/peers.py                                        # examples/, one thread
    python bench/peers.py --photos DIR --limit 5 --rounds 3 --only caprun-fp32 eager

The peers: our weights in eager PyTorch, run as public repositories do it (`single_image.py`), and as the TorchScript
bundle that `captioner export` writes; sgrvinod's tutorial (`peers/sgrvinod.py`); Hugging Face's ViT-GPT2 and BLIP-base
(`peers/hugging_face.py`). The last three have random weights, which does not change how long a step takes, and are
held to as many steps as our caption of the photo has, END counted.

Each is a process of its own. They take turns, a block of all photos each, so that a slow moment of the machine does not
hit one alone; the first photo of a block is captioned once before, to warm the caches. A ratio is the median over
photos and rounds of the peer's time by ours, of the same photo in the same round. `--clock cpu` takes the processor's
time in place of the wall's, which depends less on what else a shared machine does. Peak memory is the process's own,
Python and its imports included. Install sizes are added up from the files of the distributions installed here and of
all that they require (`peers/install_size.py`); "without CUDA" leaves out NVIDIA's libraries, and PyTorch's for CUDA.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from peers.contenders import Contender, Sources, contenders
from peers.install_size import install_size
from peers.worker import Answer, Worker

from caprun.engine import packaged_bundle
from caprun.errors import CaprunError
from caprun.inference import hardware

ROOT = Path(__file__).parents[1]
BEAMS = (1, 3)

Times = Mapping[str, Sequence[float]]


def export_torchscript(checkpoint: Path, directory: Path) -> Path:
    """Have `captioner export` write the TorchScript bundle.

    Raises:
        SystemExit: it failed.
    """
    output = directory / "torchscript"
    command = [sys.executable, "-m", "captioner", "export", str(checkpoint), "--format", "torchscript"]
    done = subprocess.run([*command, "--output", str(output)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"TorchScript cannot be exported: {done.stderr.strip()}")
    return output


def race(
    workers: Sequence[Worker], photos: Sequence[str], beams: int, rounds: int, clock: str
) -> tuple[Times, Mapping[str, int]]:
    """Milliseconds of each contender for every photo of every round, and how many captions are ours.

    The first worker is ours, and says how many steps there are to do.
    """
    times: dict[str, list[float]] = {worker.name: [] for worker in workers}
    first = [workers[0].caption(photo, beams, 0).said for photo in photos]
    same: dict[str, int] = {}
    for turn in range(rounds):
        for worker in workers:
            worker.caption(photos[0], beams, first[0].steps)
            answers = [worker.caption(photo, beams, ours.steps) for photo, ours in zip(photos, first, strict=True)]
            times[worker.name] += [getattr(answer, clock) for answer in answers]
            if turn == 0:
                same[worker.name] = agreeing(answers, [said.text for said in first])
                check_lengths(worker.name, answers, [said.steps for said in first])
    return times, same


def agreeing(answers: Sequence[Answer], texts: Sequence[str | None]) -> int:
    """How many captions are these; -1 where there are none to compare, for the weights are random."""
    if answers[0].said.text is None:
        return -1
    return sum(answer.said.text == text for answer, text in zip(answers, texts, strict=True))


def check_lengths(name: str, answers: Sequence[Answer], steps: Sequence[int]) -> None:
    """Whoever has random weights must do as many steps as we.

    Raises:
        SystemExit: it does not, and would be measured doing something else.
    """
    if answers[0].said.text is None and [answer.said.steps for answer in answers] != list(steps):
        raise SystemExit(f"{name} was not held to our number of steps, {steps}.")


def speed_table(entrants: Mapping[str, Contender], times: Times, same: Mapping[str, int], photos: int) -> list[str]:
    """A row a contender: its time, and its ratio to each of our precisions."""
    ours = [name for name in times if name.startswith("caprun-")]
    bases = " | ".join(f"times {entrants[name].title}" for name in ours)
    lines = [f"| | ms a photo (quartiles) | {bases} | same captions |", f"| --- | --- |{' --- |' * len(ours)} --- |"]
    for name, taken in times.items():
        ratios = (statistics.median(b / a for a, b in zip(times[base], taken, strict=True)) for base in ours)
        low, middle, high = statistics.quantiles(taken, n=4)
        agreed = "random weights" if same[name] < 0 else f"{same[name]} of {photos}"
        shown = " | ".join(f"{ratio:.2f}" for ratio in ratios)
        lines.append(f"| {entrants[name].title} | {middle:.1f} ({low:.1f} to {high:.1f}) | {shown} | {agreed} |")
    return lines


def size_table(entrants: Mapping[str, Contender], workers: Sequence[Worker]) -> list[str]:
    """A row a contender: memory, and what its installation takes."""
    lines = [
        "| | peak memory, MB | installed, MB | without CUDA, MB | packages |",
        "| --- | --- | --- | --- | --- |",
    ]
    for worker in workers:
        entrant = entrants[worker.name]
        size = install_size(entrant.requirements, entrant.folders)
        own = "ours, " if entrant.folders else ""
        lines.append(
            f"| {entrant.title} | {worker.peak_memory() / 1e6:.0f} | {size.total / 1e6:.0f} "
            f"| {(size.total - size.cuda) / 1e6:.0f} | {own}{', '.join(entrant.requirements)} |"
        )
    return lines


def machine() -> str:
    """What was measured on, and with what."""
    found = []
    for name in ("onnxruntime", "onnxruntime-gpu", "torch", "torchvision", "transformers"):
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    cpu = hardware.cpu()
    cores = f"{hardware.cores().usable:g} cores"
    has = ", ".join(cpu.features) or platform.machine()
    return f"{cpu.name} ({has}), {cores}, Python {platform.python_version()}, {', '.join(found)}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=ROOT / "examples", help="folder of .jpg files")
    parser.add_argument("--limit", type=int, help="the first so many of them")
    parser.add_argument("--bundle", type=Path, help="the packaged one by default")
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "weights" / "checkpoints" / "everyday_lite2.pt")
    parser.add_argument("--torchscript", type=Path, help="TorchScript bundle; by default it is exported first")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: where others use the machine")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some of the contenders")
    arguments = parser.parse_args()
    photos = sorted(str(path.resolve()) for path in arguments.photos.glob("*.jpg"))[: arguments.limit]
    if not photos:
        parser.error(f"there are no .jpg files in {arguments.photos}")
    if len(photos) * arguments.rounds < 2:
        parser.error("quartiles need two photos or two rounds")
    try:
        bundle = (arguments.bundle or packaged_bundle()).resolve()
        entrants = contenders(bundle)
    except CaprunError as error:
        raise SystemExit(str(error)) from None
    unknown = sorted(set(arguments.only or ()) - set(entrants))
    if unknown:
        parser.error(f"{unknown[0]} is none of {', '.join(entrants)}")
    first, *others = entrants
    names = [first, *(name for name in others if not arguments.only or name in arguments.only)]
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        script = arguments.torchscript
        if script is None and "torchscript" in names:
            script = export_torchscript(arguments.checkpoint, scratch)
        sources = Sources(bundle, arguments.checkpoint.resolve(), (script or scratch).resolve())
        print(f"{len(photos)} photos, {arguments.threads} thread(s), {arguments.rounds} rounds, {arguments.clock} time")
        print(machine())
        # one is built after the other: half of them fill the memory with random numbers meanwhile
        workers = [stack.enter_context(Worker(name, sources, arguments.threads)) for name in names]
        for beams in BEAMS:
            times, same = race(workers, photos, beams, arguments.rounds, arguments.clock)
            lines = speed_table(entrants, times, same, len(photos))
            print(f"\n{'greedy' if beams == 1 else f'beam {beams}'}:", *lines, sep="\n", flush=True)
        print("", *size_table(entrants, workers), sep="\n")


if __name__ == "__main__":
    main()
