"""Training against the field's usual way, on a CPU: the decoder's captions a second, the encoder's photos a second.

    python bench/training.py --data flickr8k              # all cores, the features of the default encoder
    python bench/training.py --data flickr8k --threads 1
    python bench/training.py --random                     # no dataset: random features, photos and captions

Decoder: one step of ours (forward, loss, backward, clipping, AdamW, moving average) against one of the loop that most
repositories have from sgrvinod's tutorial (`peers/tutorial_loop.py`), with the same weights, dropout, photos and
captions: ours takes N photos with all their captions, the peer as many captions, one a row. Features are loaded, and
for the peer repeated, before the clock starts; both count right words, as both trainings do. First they show, without
dropout, that they compute the same loss. The ratio grows with N: 16 is what `captioner train` has by default.

Encoder: the runner that fills the feature cache (ONNX Runtime) against the same network in eager PyTorch in
`inference_mode`, from uint8 photos to features, with nothing decoded, resized or written.

Both sides of a comparison take turns in one process, so that a slow moment of the machine hits both; a ratio is the
median of the turns' ratios.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from peers.tutorial_loop import Rows, TutorialDecoder, rows_of, train_step

from caprun.photos.preprocessing import load
from captioner.config import Config
from captioner.datasets import Example, load_dataset
from captioner.errors import CaptionerError
from captioner.models.caption_model import CaptionModel, build_caption_model
from captioner.models.checkpoint import image_spec
from captioner.text.build import build_tokenizer
from captioner.text.tokenizer import SPECIAL
from captioner.training.inputs import features
from captioner.training.inputs.batches import Batch, Batches, Step
from captioner.training.inputs.features import FeatureCache
from captioner.training.inputs.sources import CachedFeatures
from captioner.training.losses import caption_loss
from captioner.training.optimiser import Optimiser
from captioner.training.schedule import Rate

ENCODED = 16  # photos that the encoder is given at once, as the feature cache does
FULL_RATE = Rate(1.0, None)


class Data(NamedTuple):
    """What the decoder learns from, and whom it teaches."""

    model: CaptionModel
    source: CachedFeatures
    captions: list[list[list[int]]]  # of each photo, as ids

    def steps(self, photos: int, count: int) -> list[Step]:
        """As many steps, each of so many photos."""
        batches = Batches(self.source, self.captions, photos, SPECIAL.pad)
        return list(islice(batches.epoch(0, 0), count))


def real_data(config: Config, folder: Path, cache: Path, photos: int) -> Data:
    """As many photos of a dataset's training split, and a model for its vocabulary."""
    examples = load_dataset(folder).split("train")
    tokenizer = build_tokenizer(config.data, [caption for example in examples for caption in example.references])
    torch.manual_seed(0)
    model = build_caption_model(config, len(tokenizer.vocabulary), SPECIAL, config.model.encoder_weights)
    chosen = drawn(examples, photos)
    found = FeatureCache(cache, model.encoder, image_spec(config, model)).compute(
        [example.image for example in chosen], torch.device("cpu"), lambda line: print(line, file=sys.stderr)
    )
    captions = [[tokenizer.encode(caption) for caption in example.references] for example in chosen]
    return Data(model, CachedFeatures(found), captions)


def random_data(config: Config, photos: int) -> Data:
    """The same without a dataset: Flickr8k's number of pieces, captions a photo, and lengths, and no meaning."""
    pieces, each = 2540, 5
    torch.manual_seed(0)
    model = build_caption_model(config, pieces, SPECIAL)
    rng = np.random.default_rng(0)
    lengths = rng.normal(10.9, 3.8, (photos, each)).round().clip(2, config.data.max_length).astype(int)
    captions = [
        [[SPECIAL.start, *rng.integers(SPECIAL.unk + 1, pieces, length).tolist(), SPECIAL.end] for length in photo]
        for photo in lengths
    ]
    table = rng.exponential(size=(photos, model.encoder.regions, model.encoder.channels)).astype(np.float16)
    return Data(model, CachedFeatures(features.Features(np.arange(photos), table, {})), captions)


def drawn(examples: Sequence[Example], count: int) -> list[Example]:
    """As many of them, in random order."""
    order = np.random.default_rng(0).permutation(len(examples))[:count]
    return [examples[i] for i in order]


def our_step(model: CaptionModel, optimiser: Optimiser, step: Step, config: Config) -> float:
    """What `captioner.training.loop` does for each step; returns the loss."""
    (batch,) = step.batches
    with optimiser.autocast():
        teacher = model(batch.seen, batch.tokens)
    losses = caption_loss(teacher, config.train, step.words, step.captions)
    optimiser.backward(losses.total)
    optimiser.step(FULL_RATE)
    return losses.total.item()


def check_losses(model: CaptionModel, peer: TutorialDecoder, step: Step, rows: Rows, config: Config) -> str:
    """Without dropout both losses must be one number.

    Raises:
        SystemExit: they are not, and there is nothing to compare.
    """
    (batch,) = step.batches
    model.eval(), peer.eval()
    with torch.no_grad():
        ours = caption_loss(model(batch.seen, batch.tokens), config.train, step.words, step.captions).total.item()
        theirs = peer.loss(rows, config.train.label_smoothing, config.train.attention_penalty)[0].item()
    model.train(), peer.train()
    if abs(ours - theirs) > 1e-4:
        raise SystemExit(f"The losses differ: {ours:.6f} here, {theirs:.6f} in the tutorial's loop.")
    return f"the same loss without dropout: {ours:.5f} here, {theirs:.5f} in the tutorial's loop"


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def row(name: str, items: Sequence[int], times: Sequence[float], peer: Sequence[float]) -> str:
    """A row of the table: items a second, how long one turn took, and the ratio with its quartiles."""
    rate = statistics.median(n / t for n, t in zip(items, times, strict=True))
    ratios = [b / a for a, b in zip(times, peer, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    spread = "" if times is peer else f"{middle:.2f} ({low:.2f} to {high:.2f})"
    return f"| {name} | {rate:.0f} | {1000 * statistics.median(times):.0f} | {spread} |"


def compare_decoders(model: CaptionModel, steps: Sequence[Step], config: Config, rounds: int) -> list[str]:
    """Time ours in fp32 and bf16 and the peer in fp32, step by step in turns."""
    peer = TutorialDecoder(model)
    rows = [rows_of(batch.seen, batch.tokens, SPECIAL.pad) for batch in map(only, steps)]
    lines = [check_losses(model, peer, steps[0], rows[0], config), ""]
    adam = torch.optim.Adam((p for p in peer.parameters() if p.requires_grad), lr=config.train.lr)
    half = replace(config, train=replace(config.train, precision="bf16"))
    full_precision, half_precision = Optimiser(model, config.train), Optimiser(model, half.train)
    captions: list[int] = []
    times: tuple[list[float], list[float], list[float]] = ([], [], [])
    for turn in range(rounds + 1):
        for step, repeated in zip(steps, rows, strict=True):
            works = (
                lambda step=step: our_step(model, full_precision, step, config),
                lambda step=step: our_step(model, half_precision, step, half),
                lambda repeated=repeated: train_step(peer, adam, repeated, config.train.label_smoothing),
            )
            for taken, work in zip(times, works, strict=True):
                taken.append(seconds(work))
            captions.append(step.captions)
        if turn == 0:  # warm-up
            captions.clear()
            for taken in times:
                taken.clear()
    peer_times = times[2]
    return [
        *lines,
        "| decoder training | captions/s | ms a step | ratio (quartiles) |\n| --- | --- | --- | --- |",
        row("the tutorial's loop, fp32", captions, peer_times, peer_times),
        row("captioner, fp32", captions, times[0], peer_times),
        row("captioner, bf16 (the peer is fp32)", captions, times[1], peer_times),
    ]


def only(step: Step) -> Batch:
    """A step's batch, where it is computed in one part."""
    (batch,) = step.batches
    return batch


def compare_encoders(model: CaptionModel, images: np.ndarray, rounds: int) -> list[str]:
    """Time the feature cache's runner and eager PyTorch, batch by batch in turns."""
    encoder = model.encoder
    cached = features._runner(encoder, encoder.size, torch.device("cpu"))

    @torch.inference_mode()
    def eager(photos: np.ndarray) -> np.ndarray:
        return encoder(torch.from_numpy(photos)).numpy()

    batches = [images[i : i + ENCODED] for i in range(0, len(images), ENCODED)]
    difference = max(float(np.abs(cached(batch) - eager(batch)).max()) for batch in batches)  # a warm-up, too
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for batch in batches:
            times[0].append(seconds(lambda batch=batch: cached(batch)))
            times[1].append(seconds(lambda batch=batch: eager(batch)))
    photos = [len(batch) for _ in range(rounds) for batch in batches]
    return [
        f"the same features: largest difference {difference:.1e}",
        "",
        f"| {encoder.name}, batches of {ENCODED} | photos/s | ms a batch | ratio (quartiles) |",
        "| --- | --- | --- | --- |",
        row("eager PyTorch", photos, times[1], times[1]),
        row("the feature cache's runner", photos, times[0], times[1]),
    ]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="folder of Flickr8k, or of any dataset that captioner reads")
    source.add_argument("--random", action="store_true", help="random features, photos and captions")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "captioner", help="of features")
    parser.add_argument("--threads", type=int, help="all cores by default; the encoders always have them all")
    parser.add_argument(
        "--photos", type=int, nargs="+", default=[16, 32], help="photos a step, each with all its captions (16 and 32)"
    )
    parser.add_argument("--steps", type=int, default=8, help="different steps")
    parser.add_argument("--rounds", type=int, default=3, help="times that each of them is done")
    parser.add_argument("--only", choices=["decoder", "encoder"], help="one of the two comparisons")
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    config = Config()
    try:
        photos = arguments.steps * max(arguments.photos)
        if arguments.random:
            data = random_data(config, photos)
        else:
            data = real_data(config, arguments.data, arguments.cache, photos)
    except CaptionerError as error:
        raise SystemExit(str(error)) from None
    threads = arguments.threads or cores
    print(f"{platform.machine()}, {cores} cores, torch {torch.__version__}")
    for size in () if arguments.only == "encoder" else arguments.photos:
        torch.set_num_threads(threads)
        steps = data.steps(size, arguments.steps)
        captions, words = (sum(counts) for counts in zip(*((s.captions, s.words) for s in steps), strict=True))
        print(
            f"\n{len(steps)} steps of {size} photos, {captions} captions of {words / captions:.1f} words, END counted; "
            f"{threads} thread(s); {arguments.rounds} rounds"
        )
        print("\n".join(compare_decoders(data.model, steps, config, arguments.rounds)), flush=True)
    if arguments.only != "decoder":
        torch.set_num_threads(cores)
        if arguments.random:
            shape = (4 * ENCODED, *data.model.encoder.size, 3)
            images = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
        else:
            chosen = drawn(load_dataset(arguments.data).split("train"), 4 * ENCODED)
            images = np.stack([load(example.image, image_spec(config, data.model)) for example in chosen])
        print(f"\n{len(images)} photos; {cores} thread(s); {arguments.rounds} rounds")
        print("\n".join(compare_encoders(data.model, images, arguments.rounds)), flush=True)


if __name__ == "__main__":
    main()
