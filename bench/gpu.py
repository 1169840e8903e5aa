"""Measures photos per second on a GPU, from uint8 arrays to captions, against PyTorch in fp16, eager and compiled.

    python bench/gpu.py                                          # examples/, batches of 1, 32 and 256
    python bench/gpu.py --photos DIR --rounds 20
    python bench/gpu.py --device cpu --batch 1 4 --rounds 2      # tries the code where there is no GPU, all in fp32

The peer is batched beam search that stays on the device, with fp16 weights, channels-last convolutions, keys computed
once, and `torch.compile` of the encoder and of a step (`peers/batched_search.py`). Every side starts from a NumPy array
on the host and ends with captions on the host. Photos are decoded and resized beforehand. If a batch needs more photos
than there are, they are repeated, shifted sideways. The sides take turns, batch by batch, in one process. Captions are
compared with those of PyTorch in fp32 without TF32; in fp32, only near-ties should differ.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from harness.command_line import command_line, jpeg_files, machine
from harness.plain_search import without_bans
from harness.tables import header, row
from harness.turns import in_turns, ratios, seconds, with_quartiles
from peers.batched_search import BatchedCaptioner

from caprun import Captioner, SearchOptions
from caprun.bundle.reading import read_bundle
from caprun.engine import packaged_bundle
from caprun.errors import CaprunError
from caprun.photos.preprocessing import load
from captioner.models.caption_model import CaptionModel
from captioner.models.checkpoint import build_model, load_checkpoint

BEAMS = (1, 3)
EAGER, COMPILED = "PyTorch eager", "torch.compile"

Images = npt.NDArray[np.uint8]
Caption = Callable[[Images, SearchOptions], list[str]]


def our_captioners(bundle: Path, device: str) -> dict[str, Caption]:
    """Loads the bundle in fp32 and, if available, in fp16."""
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
    """Builds a captioner in PyTorch, and returns it with the search options of its checkpoint."""
    checkpoint = load_checkpoint(checkpoint_path)
    model: CaptionModel = build_model(checkpoint).eval().to(device)
    captioner = BatchedCaptioner(model, dtype, compiled=compiled)
    text = checkpoint.vocabulary.text
    return lambda images, options: [text(ids) for ids in captioner.caption(images, options)], checkpoint.config.search


def batches_of(photos: Sequence[Path], size: int, count: int, bundle: Path) -> list[Images]:
    """Returns `count` batches of `size` photos, all different."""
    spec = read_bundle(bundle).manifest.image
    loaded = [load(photo, spec) for photo in photos]
    images = (np.roll(loaded[i % len(loaded)], 5 * (i // len(loaded)), axis=1) for i in range(size * count))
    every = np.stack(list(images))
    return [every[i : i + size] for i in range(0, len(every), size)]


def race(
    captioners: Mapping[str, Caption], batches: Sequence[Images], options: SearchOptions, rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[str]]]:
    """Returns the seconds of each side for every round, and its captions of all batches."""
    # also the warm-up
    captions = {name: [text for batch in batches for text in run(batch, options)] for name, run in captioners.items()}
    sides = {name: lambda batch, run=run: seconds(lambda: run(batch, options)) for name, run in captioners.items()}
    return in_turns(sides, [batches[turn % len(batches)] for turn in range(rounds)]), captions


def table(times: Mapping[str, Sequence[float]], size: int, differing: Mapping[str, str]) -> list[str]:
    """Formats a row for each side: its photos per second, its ratios to the two peers, and the captions that differ."""
    return [
        row(
            name,
            with_quartiles((size / t for t in taken), 1),
            *(
                f"{statistics.median(ratios(times[peer], taken)):.2f}" if peer in times else ""
                for peer in (EAGER, COMPILED)
            ),
            differing[name],
        )
        for name, taken in times.items()
    ]


def main() -> None:
    """Prints a table for every batch size and search."""
    parser = command_line(__doc__, "--photos", "--bundle", "--checkpoint")
    parser.add_argument(
        "--device", choices=["cuda", "cpu"], default="cuda", help="Device of every side.  [default: cuda]"
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32, 256], help="Batch sizes.  [default: 1 32 256]")
    parser.add_argument("--rounds", type=int, default=15, help="Batches of each size; 2 or more.  [default: 15]")
    parser.add_argument("--no-compile", action="store_true", help="Leave out torch.compile, which takes minutes.")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("Error: PyTorch finds no CUDA GPU here; --device cpu tries the code without one.")
    if arguments.rounds < 2 or min(arguments.batch) < 1:
        parser.error("--rounds must be 2 or more, and --batch 1 or more.")
    photos = jpeg_files(parser, arguments.photos)
    bundle, device = arguments.bundle or packaged_bundle(), arguments.device
    # cuDNN may choose the fastest algorithms, as shapes never change; TF32 would blur the reference captions
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = True, False
    dtype = torch.float16 if device == "cuda" else torch.float32  # CPUs only emulate fp16
    try:
        captioners = our_captioners(bundle, device)
        reference, search = torch_captioner(arguments.checkpoint, device, torch.float32)
        captioners[EAGER], _ = torch_captioner(arguments.checkpoint, device, dtype)
        if not arguments.no_compile:
            captioners[COMPILED], _ = torch_captioner(arguments.checkpoint, device, dtype, compiled=True)
    except CaprunError as error:
        raise SystemExit(f"Error: {error}") from None
    where = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    versions = machine(["torch", "onnxruntime", "onnxruntime-gpu"])
    print(f"{where}; PyTorch in {str(dtype).removeprefix('torch.')}; {versions}; {arguments.rounds} rounds")
    for size in arguments.batch:
        batches = batches_of(photos, size, max(1, min(arguments.rounds, 64 // size)), bundle)
        for beams in BEAMS:
            options = without_bans(search, beams)
            times, captions = race(captioners, batches, options, arguments.rounds)
            expected = [text for batch in batches for text in reference(batch, options)]
            differing = {
                name: f"{sum(a != b for a, b in zip(texts, expected, strict=True))} of {len(expected)}"
                for name, texts in captions.items()
            }
            print(f"\nbatches of {size}, {'greedy' if beams == 1 else f'beam {beams}'}:")
            print(header("", "photos/s (quartiles)", "times eager", "times compiled", "captions unlike PyTorch fp32"))
            print(*table(times, size, differing), sep="\n", flush=True)


if __name__ == "__main__":
    main()
