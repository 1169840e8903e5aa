"""Trains a model on a few photos of a kind for which it has no words, and measures what it learns and what it keeps.

    python bench/few_photos.py --init CHECKPOINT --everyday everyday --data flickr8k

CHECKPOINT was trained only on --data. A photo of --everyday is of the kind if most of its captions match --kind, by
default animals other than dogs. Of the training photos of the kind, --photos are put into a folder like a user's own,
each next to a text file with its captions. The folder is `mine/train/`, so a tenth of them is used for dev and none for
test. All other photos of the kind with five or more captions are held out. Then

    captioner train --init CHECKPOINT --data FOLDER=8 --data flickr8k=0.2 --output RUN

runs with an empty cache, and its total time is measured; options after `--` are appended. Before and after training,
beam search in PyTorch captions the held-out photos and the dev photos of --data; scores are x100. A new word is a word
for which CHECKPOINT has no piece.
"""

from __future__ import annotations

import random
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from harness.command_line import command_line, machine
from harness.tables import header, row

from captioner.backends.loading import load_captioner
from captioner.datasets import Example, load_dataset
from captioner.evaluation.report import Evaluation, evaluate
from captioner.models.checkpoint import load_checkpoint
from captioner.text.metric_words import tokenize

KINDS = {
    "animals": "zebras?|giraffes?|elephants?|cats?|kittens?|cows?|cattle|sheep|bears?|lambs?|goats?",
    "food": "sandwich(es)?|broccoli|bananas?|pizzas?|cakes?|donuts?|doughnuts?|carrots?|vegetables?|salad|meat|cheese|"
    "rice|apples?|oranges?|hot ?dogs?|fruits?|soup|bread|noodles|dessert",
}
HELD_OUT = 5  # captions of a held-out photo, as many as dev photos have
EXAMPLES = 6


def main() -> None:
    """Prints a row before training and one after it."""
    parser = command_line(__doc__)
    parser.add_argument("--init", type=Path, required=True, help="Checkpoint trained only on --data.")
    parser.add_argument("--everyday", type=Path, required=True, help="Captioned photos, some of which are of the kind.")
    parser.add_argument("--data", type=Path, required=True, help="Captioned photos that the checkpoint was trained on.")
    words = "animals, food, or a regular expression for words of the kind.  [default: animals]"
    parser.add_argument("--kind", default="animals", help=words)
    parser.add_argument("--photos", type=int, default=150, help="Number of own photos.  [default: 150]")
    parser.add_argument("--weights", nargs=2, default=("8", "0.2"), help="Weights of own and --data.  [default: 8 0.2]")
    parser.add_argument("--seed", type=int, default=0, help="Seed for drawing the own photos.  [default: 0]")
    parser.add_argument("further", nargs="*", help="Further options of `captioner train`.")
    options = parser.parse_args()

    kind = [
        example
        for example in load_dataset(options.everyday).examples
        if is_of(example, KINDS.get(options.kind, options.kind))
    ]
    train = [example for example in kind if example.split == "train"]
    if len(train) <= options.photos:
        parser.error(
            f"--everyday has {len(train)} training photos of the kind; lower --photos, or name another --kind."
        )
    random.Random(options.seed).shuffle(train)
    own = train[: options.photos]
    held_out = [e for e in kind if e not in own and len(e.references) >= HELD_OUT]
    dev = load_dataset(options.data).split("dev")
    known = set(load_checkpoint(options.init).vocabulary.pieces)
    print(f"{len(own)} own photos, {len(held_out)} held out, {len(dev)} dev photos; {machine(['torch'])}\n")
    print(header("", "held out: CIDEr", "BLEU-4", "captions with new words", "new words", "dev: CIDEr", "BLEU-4"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_own(folder / "mine" / "train", own)
        before = show("before", options.init, held_out, dev, known)
        mine, old = options.weights
        sources = ["--data", f"{folder / 'mine'}={mine}", *(["--data", f"{options.data}={old}"] * (old != "0"))]
        trained = ["--init", str(options.init), *sources, *options.further, "--output", str(folder / "after")]
        command = ["captioner", "train", *trained]
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", *command, "--cache", str(folder / "cache")], check=True)
        minutes = (time.monotonic() - began) / 60
        after = show("after", folder / "after", held_out, dev, known)
        print(f"`{shlex.join(command)}`: {minutes:.1f} minutes", flush=True)
    print()
    print(header("photo", "before", "after"))
    for example, old_caption, new_caption in list(zip(held_out, before.captions, after.captions, strict=True))[
        :EXAMPLES
    ]:
        print(row(example.image.name, old_caption.text, new_caption.text))


def is_of(example: Example, kind: str) -> bool:
    """Returns whether most captions of a photo have a word of the kind."""
    pattern = re.compile(rf"\b({kind})\b", re.IGNORECASE)
    return 2 * sum(pattern.search(caption) is not None for caption in example.references) > len(example.references)


def write_own(folder: Path, examples: Sequence[Example]) -> None:
    """Writes a folder of links to photos, each beside a text file with its captions."""
    folder.mkdir(parents=True)
    for example in examples:
        stem = example.image.stem
        while (folder / f"{stem}.txt").exists():  # a photo of another folder, or with another extension, has this name
            stem += "_"
        (folder / f"{stem}{example.image.suffix}").symlink_to(example.image.resolve())
        (folder / f"{stem}.txt").write_text("\n".join(example.references), encoding="utf-8")


def show(
    name: str, model: Path, held_out: Sequence[Example], dev: Sequence[Example], known: Collection[str]
) -> Evaluation:
    """Prints the scores of a model, and returns its captions of the held-out photos."""
    captioner = load_captioner(model, "cpu")
    found, old = (
        evaluate(captioner, examples, captioner.spec.search, "dev", allow_missing=False, say=print)
        for examples in (held_out, dev)
    )
    new = [set(tokenize(caption.text)) - set(known) for caption in found.captions]
    scores = [f"{100 * one.metrics[score]:.1f}" for one in (found, old) for score in ("cider", "bleu_4")]
    said = sum(map(bool, new)) / len(new)
    print(row(name, *scores[:2], f"{said:.0%}", len(set().union(*new)), *scores[2:]), flush=True)
    return found


if __name__ == "__main__":
    main()
