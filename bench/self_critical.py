"""Measures the parts of a self-critical training step on a CPU: drawing captions, scoring them, learning from them.

    python bench/self_critical.py --init CHECKPOINT --data flickr8k
    python bench/self_critical.py --init CHECKPOINT --data flickr8k --threads 1 --samples 10 --precision bf16

The steps are those of `captioner train --stage self-critical`, on photos of the training split. The rewards index all
references of that split, as in training, because the cost of scoring depends on their number. The same CIDEr-D,
computed caption by caption with `captioner.evaluation.cider`, stands beside the reward.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from harness.command_line import command_line, machine
from harness.tables import header, row

from captioner.config import load_second_config, parse_settings
from captioner.datasets import load_dataset
from captioner.evaluation.cider import Cider
from captioner.evaluation.ngrams import sentence
from captioner.evaluation.rewards import CaptionRewards
from captioner.models.checkpoint import build_model, image_spec, load_checkpoint
from captioner.text.build import restore_tokenizer
from captioner.text.metric_words import tokenize
from captioner.text.tokenizer import SPECIAL
from captioner.training.inputs.batches import Batches
from captioner.training.inputs.features import FeatureCache
from captioner.training.inputs.sources import CachedFeatures
from captioner.training.optimiser import Optimiser
from captioner.training.sampling import sample
from captioner.training.schedule import Rate
from captioner.training.self_critical import others_mean, self_critical_loss


def main() -> None:
    """Prints a row for each part of a step."""
    parser = command_line(__doc__)
    parser.add_argument("--init", type=Path, required=True, help="Checkpoint to start from; its encoder stays frozen.")
    parser.add_argument("--data", type=Path, required=True, help="Folder of captioned photos.")
    cache_folder = Path.home() / ".cache" / "captioner"
    parser.add_argument(
        "--cache", type=Path, default=cache_folder, help="Feature cache.  [default: ~/.cache/captioner]"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads.  [default: all cores]")
    parser.add_argument("--batch-size", type=int, default=16, help="Photos per step.  [default: 16]")
    parser.add_argument("--samples", type=int, default=5, help="Captions drawn per photo.  [default: 5]")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="Precision.  [default: fp32]")
    parser.add_argument("--steps", type=int, default=12, help="Steps; the first is not counted.  [default: 12]")
    options = parser.parse_args()
    if options.steps < 2:
        parser.error("--steps takes 2 or more, because the first is not counted.")
    torch.set_num_threads(options.threads)

    first = load_checkpoint(options.init)
    settings = [
        "train.stage=self-critical",
        f"train.precision={options.precision}",
        "model.fine_tune=-1",
        f"self_critical.samples={options.samples}",
    ]
    config = load_second_config(parse_settings(settings), first.config)
    model = build_model(replace(first, config=config))
    examples = load_dataset(options.data).split("train")
    words = [[tokenize(reference) for reference in example.references] for example in examples]
    began = time.perf_counter()
    rewards = CaptionRewards(words, first.vocabulary)
    built = time.perf_counter() - began
    cider = Cider([[sentence([*one, "<end>"]) for one in photo] for photo in words])

    count = min(options.steps * options.batch_size, len(examples))
    cache = FeatureCache(options.cache, model.encoder, image_spec(config, model))
    found = cache.compute([example.image for example in examples[:count]], torch.device("cpu"), _say)
    tokenizer = restore_tokenizer(config.data, first.vocabulary, first.tokenizer)
    captions = [[tokenizer.encode(one) for one in example.references] for example in examples[:count]]
    batches = Batches(CachedFeatures(found), captions, options.batch_size, SPECIAL.pad)
    optimiser = Optimiser(model, config.train, 1)
    taken: dict[str, list[float]] = {}
    torch.manual_seed(0)
    for step in islice(batches.epoch(0, 0), options.steps):
        (batch,) = step.batches
        times = [time.perf_counter()]
        with torch.no_grad(), optimiser.autocast():
            drawn = sample(model, model.start(batch.seen), options.samples, config.search.max_length, 1.0)
        times.append(time.perf_counter())
        ended = drawn.ended.flatten().numpy()
        lengths = (drawn.lengths - drawn.ended.long()).flatten().tolist()
        ids = [tokens[1 : 1 + n] for tokens, n in zip(drawn.tokens.flatten(0, 1).tolist(), lengths, strict=True)]
        photos = np.repeat(batch.photos, options.samples)
        reward = rewards.score(photos, ids, ended).cider.reshape(-1, options.samples)
        times.append(time.perf_counter())
        model.train()  # with dropout, as in training
        with optimiser.autocast():
            teacher = model(batch.seen, drawn.tokens)
        advantage = torch.from_numpy(reward - others_mean(reward)).float()
        loss = self_critical_loss(teacher, model.unsaid, advantage, 1.0, reward.size)
        optimiser.backward(loss)
        model.eval()
        optimiser.step(Rate(0.0, None))  # the weights stay those of the checkpoint
        times.append(time.perf_counter())
        expected = [
            cider.scores(
                [sentence(_words(one, first.vocabulary.pieces, end))], [sentence([*r, "<end>"]) for r in words[p]]
            )[0]
            for p, one, end in zip(photos.tolist(), ids, ended.tolist(), strict=True)
        ]
        times.append(time.perf_counter())
        if abs(reward.flatten() - expected).max() > 1e-9:
            raise SystemExit("Error: The rewards differ from those of captioner.evaluation.cider.")
        for part, seconds in zip(("drawing", "scoring", "learning", "one by one"), np.diff(times), strict=True):
            taken.setdefault(part, []).append(float(seconds))
    medians = {part: statistics.median(seconds[1:]) for part, seconds in taken.items()}
    one_by_one = medians.pop("one by one")
    print(machine(["torch"]))
    print(f"{options.batch_size} photos x {options.samples} samples, {options.threads} threads, {options.precision}")
    print(f"references indexed in {built:.1f} s\n")
    print(header("part of a step", "ms (median)", "share"))
    for part, seconds in medians.items():
        print(row(part, f"{1000 * seconds:.1f}", f"{seconds / sum(medians.values()):.1%}"))
    print(row("(scoring one by one instead)", f"{1000 * one_by_one:.1f}", ""))


def _words(ids: list[int], pieces: tuple[str, ...], ended: bool) -> list[str]:
    return [pieces[index] for index in ids] + ["<end>"] * ended


def _say(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    main()
