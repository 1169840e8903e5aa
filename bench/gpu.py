"""Photos a second on a GPU, from uint8 arrays to captions: this runtime against PyTorch in fp16, eager and compiled.

    python bench/gpu.py                                          # examples/, batches of 1, 32 and 256
    python bench/gpu.py --photos DIR --rounds 20
    python bench/gpu.py --device cpu --batch 1 4 --rounds 2      # tries the code where there is no GPU, all in fp32

The peer is no straw man: batched beam search that stays on the device, fp16 weights, channels-last convolutions, keys
computed once, and `torch.compile` of the encoder and of a step (`peers/batched_search.py`). Everybody starts from a
NumPy array on the host and ends with captions on the host; photos are decoded and resized before, and repeated, shifted
sideways, where there are fewer than a batch has. All take turns, batch by batch, in one process; a ratio is the
median of the turns' ratios. Captions are compared with those of PyTorch in fp32 without TF32, and it is said how many
differ; in fp32, near-ties alone should.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from peers.batched_search import BatchedCaptioner

from caprun import Captioner, SearchOptions
from caprun.bundle.reading import read_bundle
from caprun.engine import packaged_bundle
from caprun.errors import CaprunError
from caprun.photos.preprocessing import load
from captioner.models.caption_model import CaptionModel
from captioner.models.checkpoint import build_model, load_checkpoint

ROOT = Path(__file__).parents[1]
BEAMS = (1, 3)
EAGER, COMPILED = "PyTorch eager", "torch.compile"

Images = npt.NDArray[np.uint8]
Caption = Callable[[Images, SearchOptions], list[str]]


def our_captioners(bundle: Path, device: str) -> dict[str, Caption]:
    """One for each precision of the bundle that makes sense on a GPU."""
    found: dict[str, Caption] = {}
    for name in read_bundle(bundle).manifest.precisions:
        if name in ("fp32", "fp16"):
            captioner = Captioner.load(bundle, device=device, precision=name)
            found[f"caprun, {name}"] = lambda images, options, captioner=captioner: [
                caption.text for caption in captioner.caption_arrays(images, options)
            ]
    return found


def torch_captioner(
    checkpoint_path: Path, device: str, dtype: torch.dtype, *, compiled: bool = False
) -> tuple[Caption, SearchOptions]:
    """PyTorch's, and the checkpoint's own options of the search."""
    checkpoint = load_checkpoint(checkpoint_path)
    model: CaptionModel = build_model(checkpoint).eval().to(device)
    captioner = BatchedCaptioner(model, dtype, compiled=compiled)
    text = checkpoint.vocabulary.text
    return lambda images, options: [text(ids) for ids in captioner.caption(images, options)], checkpoint.config.search


def batches_of(photos: Sequence[Path], size: int, count: int, bundle: Path) -> list[Images]:
    """As many batches, no two photos in them alike; at least one batch."""
    spec = read_bundle(bundle).manifest.image
    loaded = [load(photo, spec) for photo in photos]
    images = (np.roll(loaded[i % len(loaded)], 5 * (i // len(loaded)), axis=1) for i in range(size * count))
    every = np.stack(list(images))
    return [every[i : i + size] for i in range(0, len(every), size)]


def race(
    captioners: Mapping[str, Caption], batches: Sequence[Images], options: SearchOptions, rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[str]]]:
    """Seconds of every batch, and the captions, of each."""
    times: dict[str, list[float]] = {name: [] for name in captioners}
    said = {name: [text for batch in batches for text in run(batch, options)] for name, run in captioners.items()}
    for turn in range(rounds):
        batch = batches[turn % len(batches)]
        for name, run in captioners.items():
            began = time.perf_counter()
            run(batch, options)
            times[name].append(time.perf_counter() - began)
    return times, said


def table(times: Mapping[str, Sequence[float]], size: int, differing: Mapping[str, str]) -> list[str]:
    """A row a captioner: photos/s, how many times as fast as the two peers, and captions that are others."""
    lines = []
    for name, taken in times.items():
        high, middle, low = (size / t for t in statistics.quantiles(taken, n=4))
        ratios = (
            statistics.median(b / a for a, b in zip(taken, times[peer], strict=True)) if peer in times else None
            for peer in (EAGER, COMPILED)
        )
        shown = " | ".join("" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
        lines.append(f"| {name} | {middle:.1f} ({low:.1f} to {high:.1f}) | {shown} | {differing[name]} |")
    return lines


def main() -> None:
    """Print a table for every batch size and search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=ROOT / "examples", help="folder of .jpg files")
    parser.add_argument("--bundle", type=Path, help="the packaged one by default")
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "weights" / "checkpoints" / "everyday_lite2.pt")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out, which takes minutes")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("PyTorch finds no CUDA GPU here, so there is nothing to measure; --device cpu tries the code.")
    if arguments.rounds < 2 or min(arguments.batch) < 1:
        parser.error("--rounds takes 2 or more, and --batch 1 or more")
    photos = sorted(arguments.photos.glob("*.jpg"))
    if not photos:
        parser.error(f"there are no .jpg files in {arguments.photos}")
    bundle, device = arguments.bundle or packaged_bundle(), arguments.device
    # the best for the peer, whose shapes never change; and the truth for the captions that all are compared with
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = True, False
    dtype = torch.float16 if device == "cuda" else torch.float32  # CPUs only emulate fp16
    try:
        captioners = our_captioners(bundle, device)
        reference, search = torch_captioner(arguments.checkpoint, device, torch.float32)
        captioners[EAGER], _ = torch_captioner(arguments.checkpoint, device, dtype)
        if not arguments.no_compile:
            captioners[COMPILED], _ = torch_captioner(arguments.checkpoint, device, dtype, compiled=True)
    except CaprunError as error:
        raise SystemExit(str(error)) from None
    where = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU, for want of a GPU"
    versions = f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"
    print(f"{where}; PyTorch in {str(dtype).removeprefix('torch.')}; {versions}; {arguments.rounds} rounds")
    for size in arguments.batch:
        batches = batches_of(photos, size, max(1, min(arguments.rounds, 64 // size)), bundle)
        for beams in BEAMS:
            options = replace(search, beam_size=beams)
            times, said = race(captioners, batches, options, arguments.rounds)
            true = [text for batch in batches for text in reference(batch, options)]
            differing = {
                name: f"{sum(a != b for a, b in zip(texts, true, strict=True))} of {len(true)}"
                for name, texts in said.items()
            }
            print(f"\nbatches of {size}, {'greedy' if beams == 1 else f'beam {beams}'}:")
            print("| | photos/s (quartiles) | times as fast as eager | as compiled | captions unlike fp32 PyTorch's |")
            print("| --- | --- | --- | --- | --- |", *table(times, size, differing), sep="\n", flush=True)


if __name__ == "__main__":
    main()
