"""Compares training on a CPU with the usual way: captions per second of the decoder, photos per second of the encoder.

    python bench/training.py --data flickr8k              # all cores, the features of the default encoder
    python bench/training.py --data flickr8k --threads 1
    python bench/training.py --random                     # no dataset: random features, photos and captions

Decoder: a step of `captioner train` (forward, loss, backward, clipping, AdamW, moving average) against one of
sgrvinod's tutorial (`peers/tutorial_loop.py`), with the same weights, dropout, photos and captions. Our step uses
N photos with all their captions; the peer uses the same captions, one per row. Features are loaded, and repeated for
the peer, before the clock starts. Both count correct words, as both trainings do. Without dropout, both must compute
the same loss. The ratio grows with N; `captioner train` uses 16 by default.

Encoder: the runner that fills the feature cache (ONNX Runtime) against the same network in eager PyTorch in
`inference_mode`, from uint8 photos to features, without decoding, resizing or writing.

The sides of a comparison take turns in one process. A ratio is the median of the turns' ratios.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from harness.command_line import command_line, machine
from harness.tables import header, row
from harness.turns import in_turns, ratios, seconds, with_quartiles
from peers.tutorial_loop import Rows, TutorialDecoder, rows_of, train_step

from caprun.inference import hardware
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

ENCODED = 16  # batch size of the encoder, as in the feature cache
FULL_RATE = Rate(1.0, None)


class Data(NamedTuple):
    """A model and the training data of its decoder."""

    model: CaptionModel
    source: CachedFeatures
    captions: list[list[list[int]]]  # ids, by photo and caption

    def steps(self, photos: int, count: int) -> list[Step]:
        """Returns `count` steps of `photos` photos each."""
        batches = Batches(self.source, self.captions, photos, SPECIAL.pad)
        return list(islice(batches.epoch(0, 0), count))


def real_data(config: Config, folder: Path, cache: Path, photos: int) -> Data:
    """Draws training photos of a dataset, and builds a model for its vocabulary."""
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
    """Makes random features and captions, with the vocabulary size, captions per photo and lengths of Flickr8k."""
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
    """Draws examples in random order."""
    order = np.random.default_rng(0).permutation(len(examples))[:count]
    return [examples[i] for i in order]


def our_step(model: CaptionModel, optimiser: Optimiser, step: Step, config: Config) -> float:
    """Trains on a step as `captioner.training.loop` does; returns the loss."""
    (batch,) = step.batches
    with optimiser.autocast():
        teacher = model(batch.seen, batch.tokens)
    losses = caption_loss(teacher, config.train, step.words, step.captions)
    optimiser.backward(losses.total)
    optimiser.step(FULL_RATE)
    return losses.total.item()


def check_losses(model: CaptionModel, peer: TutorialDecoder, step: Step, rows: Rows, config: Config) -> str:
    """Compares the losses without dropout, and describes them.

    Raises:
        SystemExit: the losses differ.
    """
    (batch,) = step.batches
    model.eval(), peer.eval()
    with torch.no_grad():
        ours = caption_loss(model(batch.seen, batch.tokens), config.train, step.words, step.captions).total.item()
        theirs = peer.loss(rows, config.train.label_smoothing, config.train.attention_penalty)[0].item()
    model.train(), peer.train()
    if abs(ours - theirs) > 1e-4:
        raise SystemExit(f"Error: The losses differ: {ours:.6f} here, {theirs:.6f} in the tutorial's loop.")
    return f"the same loss without dropout: {ours:.5f} here, {theirs:.5f} in the tutorial's loop"


def rate_row(name: str, items: Sequence[int], times: Sequence[float], peer: Sequence[float]) -> str:
    """Formats a row: items per second, milliseconds per turn, and the ratio to the peer with its quartiles."""
    rate = statistics.median(n / t for n, t in zip(items, times, strict=True))
    spread = "" if times is peer else with_quartiles(ratios(peer, times))
    return row(name, f"{rate:.0f}", f"{1000 * statistics.median(times):.0f}", spread)


def compare_decoders(model: CaptionModel, steps: Sequence[Step], config: Config, rounds: int) -> list[str]:
    """Times ours in fp32 and bf16 and the peer in fp32, step by step in turns."""
    peer = TutorialDecoder(model)
    rows = [rows_of(batch.seen, batch.tokens, SPECIAL.pad) for batch in map(only, steps)]
    lines = [check_losses(model, peer, steps[0], rows[0], config), ""]
    adam = torch.optim.Adam((p for p in peer.parameters() if p.requires_grad), lr=config.train.lr)
    half = replace(config, train=replace(config.train, precision="bf16"))
    full_precision, half_precision = Optimiser(model, config.train, 1), Optimiser(model, half.train, 1)
    sides = {
        "fp32": lambda i: seconds(lambda: our_step(model, full_precision, steps[i], config)),
        "bf16": lambda i: seconds(lambda: our_step(model, half_precision, steps[i], half)),
        "peer": lambda i: seconds(lambda: train_step(peer, adam, rows[i], config.train.label_smoothing)),
    }
    order = [*range(len(steps))]
    in_turns(sides, order)  # warm-up
    times = in_turns(sides, order * rounds)
    captions = [step.captions for step in steps] * rounds
    return [
        *lines,
        header("decoder training", "captions/s", "ms per step", "ratio (quartiles)"),
        rate_row("the tutorial's loop, fp32", captions, times["peer"], times["peer"]),
        rate_row("captioner, fp32", captions, times["fp32"], times["peer"]),
        rate_row("captioner, bf16 (the peer is fp32)", captions, times["bf16"], times["peer"]),
    ]


def only(step: Step) -> Batch:
    """Returns the only batch of a step."""
    (batch,) = step.batches
    return batch


def compare_encoders(model: CaptionModel, images: np.ndarray, rounds: int) -> list[str]:
    """Times the feature cache's runner and eager PyTorch, batch by batch in turns."""
    encoder = model.encoder
    cached = features._runner(encoder, encoder.size, torch.device("cpu"))

    @torch.inference_mode()
    def eager(photos: np.ndarray) -> np.ndarray:
        return encoder(torch.from_numpy(photos)).numpy()

    batches = [images[i : i + ENCODED] for i in range(0, len(images), ENCODED)]
    difference = max(float(np.abs(cached(batch) - eager(batch)).max()) for batch in batches)  # also the warm-up
    sides = {
        "cached": lambda batch: seconds(lambda: cached(batch)),
        "eager": lambda batch: seconds(lambda: eager(batch)),
    }
    times = in_turns(sides, batches * rounds)
    photos = [len(batch) for batch in batches] * rounds
    return [
        f"largest difference of the features: {difference:.1e}",
        "",
        header(f"{encoder.name}, batches of {ENCODED}", "photos/s", "ms per batch", "ratio (quartiles)"),
        rate_row("eager PyTorch", photos, times["eager"], times["eager"]),
        rate_row("the feature cache's runner", photos, times["cached"], times["eager"]),
    ]


def main() -> None:
    """Prints a table for each comparison."""
    parser = command_line(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="Folder of captioned photos, in any format that captioner reads.")
    source.add_argument("--random", action="store_true", help="Use random features, photos and captions.")
    cache = Path.home() / ".cache" / "captioner"
    parser.add_argument("--cache", type=Path, default=cache, help="Feature cache.  [default: ~/.cache/captioner]")
    parser.add_argument("--threads", type=int, help="CPU threads of the decoders.  [default: all cores]")
    parser.add_argument(
        "--photos", type=int, nargs="+", default=[16, 32], help="Photos per step, with all captions.  [default: 16 32]"
    )
    parser.add_argument("--steps", type=int, default=8, help="Number of different steps.  [default: 8]")
    parser.add_argument("--rounds", type=int, default=3, help="Number of times each step runs.  [default: 3]")
    parser.add_argument("--only", choices=["decoder", "encoder"], help="Run only this comparison.  [default: both]")
    arguments = parser.parse_args()
    if arguments.steps * arguments.rounds < 2:
        parser.error("Quartiles need two steps or two rounds; raise --rounds.")
    cores = max(1, int(hardware.cores().usable))
    config = Config()
    try:
        photos = arguments.steps * max(arguments.photos)
        if arguments.random:
            data = random_data(config, photos)
        else:
            data = real_data(config, arguments.data, arguments.cache, photos)
    except CaptionerError as error:
        raise SystemExit(f"Error: {error}") from None
    threads = arguments.threads or cores
    print(machine(["torch", "onnxruntime"]))
    for size in () if arguments.only == "encoder" else arguments.photos:
        torch.set_num_threads(threads)
        steps = data.steps(size, arguments.steps)
        captions, words = (sum(counts) for counts in zip(*((s.captions, s.words) for s in steps), strict=True))
        print(
            f"\n{len(steps)} steps of {size} photos, {captions} captions of {words / captions:.1f} words with END; "
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
