"""A training from its command line to its checkpoints: data, vocabulary, features, model, loop."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from caprun.image import ImageSpec, load
from caprun.vocabulary import Vocabulary
from captioner.config import Config
from captioner.datasets import Dataset, Example
from captioner.errors import CaptionerError
from captioner.models.caption_model import CaptionModel
from captioner.models.encoder import build_encoder
from captioner.text.words import SPECIAL, WordTokenizer, build_vocabulary
from captioner.training.batches import Batches, View
from captioner.training.checkpoint import Checkpoint, build_model, image_spec
from captioner.training.features import FeatureCache, Features
from captioner.training.loop import BEST, LAST, State, Trainer, Validation
from captioner.training.views import is_mirrored, may_be_mirrored

_SAMPLES = 16  # validation photos that a checkpoint carries, for its export to prove itself on


@dataclass(frozen=True)
class Job:
    """What `captioner train` was asked to do."""

    dataset: Dataset
    config: Config
    output: Path
    cache: Path
    device: torch.device
    command: str
    allow_missing: bool = False
    resumed: Checkpoint | None = None
    """The checkpoint to go on from; its model and vocabulary are used as they are."""


def train(job: Job, say: Callable[[str], None]) -> State:
    """Train, and leave `best.pt`, `last.pt` and `log.csv` in the job's output folder.

    Raises:
        CaptionerError: bad data, weights that cannot be had, or a disk that cannot be written.
    """
    config = job.config
    for line in job.dataset.summary():
        say(line)
    splits = {name: job.dataset.split(name) for name in ("train", "dev")}
    captions = [caption for example in splits["train"] for caption in example.references]
    vocabulary = job.resumed.vocabulary if job.resumed else build_vocabulary(captions, config.data.min_count)
    tokenizer = WordTokenizer(vocabulary, config.data.max_length)
    unknown = tokenizer.unknown_share(captions)
    say(f"vocabulary: {len(vocabulary)} pieces, {unknown:.1%} of the training words unknown to it")

    torch.manual_seed(config.train.seed)
    model = _model(job, vocabulary)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.encoder.parameters())
    say(f"model: {config.model.encoder}, {frozen / 1e6:.1f} M parameters, frozen; decoder {trainable / 1e6:.1f} M")

    _prepare(job.output)
    spec = image_spec(config, model)
    features, splits = _features(FeatureCache(job.cache, model.encoder, spec), splits, job, say)
    views = _views(splits["train"], model, spec, job, say)
    model.to(job.device)

    def batches(split: str, views: Sequence[View] = ()) -> Batches:
        ids = [[tokenizer.encode(caption) for caption in example.references] for example in splits[split]]
        return Batches(features[split], ids, config.train.batch_size, SPECIAL.pad, views)

    dev = splits["dev"]
    trainer = Trainer(
        model,
        config,
        vocabulary,
        SPECIAL,
        batches("train", views),
        Validation(
            batches("dev"),
            features["dev"],
            [example.references for example in dev],
            {"split": "dev", "photos": len(dev), "references": sum(len(e.references) for e in dev), "captions": "free"},
        ),
        _samples(dev, spec),
        _provenance(job),
        job.output,
        say,
    )
    if job.resumed is not None:
        assert job.resumed.training is not None
        trainer.resume(job.resumed.training)
        say(f"resumed: {trainer.state.epoch} of {config.train.epochs} epochs are done")
    state = trainer.run()
    say(f"best (CIDEr {state.best_cider:.3f}): {job.output / BEST}")
    say(f"last: {job.output / LAST}")
    return state


def _prepare(output: Path) -> None:
    """Find out now, and not after the first epoch, whether checkpoints can be written."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise CaptionerError(
            f"The folder {output} cannot be written: {error.strerror}; name another --output."
        ) from error


def _model(job: Job, vocabulary: Vocabulary) -> CaptionModel:
    if job.resumed is not None:
        return build_model(job.resumed)
    model, data = job.config.model, job.config.data
    encoder = build_encoder(model.encoder, (data.image_size, data.image_size), model.encoder_weights)
    return CaptionModel(encoder, model, len(vocabulary), SPECIAL)


def _features(
    cache: FeatureCache, splits: dict[str, list[Example]], job: Job, say: Callable[[str], None]
) -> tuple[dict[str, Features], dict[str, list[Example]]]:
    """Features of the photos that can be read, and those photos."""
    photos = [example.image for examples in splits.values() for example in examples]
    found = cache.compute(photos, job.device, say)
    if found.unreadable:
        shown = " ".join(found.unreadable[:3])
        if not job.allow_missing:
            raise CaptionerError(
                f"{len(found.unreadable)} photos cannot be read: {shown} "
                "Mend them, or go on without them with --allow-missing."
            )
        say(f"warning: {len(found.unreadable)} photos left out: {shown}")
    features, readable, first = {}, {}, 0
    for name, examples in splits.items():
        rows = found.rows[first : first + len(examples)]
        first += len(examples)
        features[name] = Features(rows[rows >= 0], found.table, ())
        readable[name] = [example for example, row in zip(examples, rows, strict=True) if row >= 0]
        if not readable[name]:
            raise CaptionerError(f"None of the photos in split {name!r} can be read.")
    return features, readable


def _views(
    examples: Sequence[Example], model: CaptionModel, spec: ImageSpec, job: Job, say: Callable[[str], None]
) -> list[View]:
    """The further views of the training photos that the configuration asks for."""
    photos = [example.image for example in examples]
    mirrors = [may_be_mirrored(example.references, job.config.data.sided_words) for example in examples]
    views = []
    for number in range(1, job.config.data.views):
        cache = FeatureCache(job.cache, model.encoder, spec, number)
        allowed = np.array(mirrors) if is_mirrored(number) else np.ones(len(examples), bool)
        seen = cache.compute(photos, job.device, say)
        views.append(View(seen, allowed & (seen.rows >= 0)))
    return views


def _samples(examples: Sequence[Example], spec: ImageSpec) -> torch.Tensor:
    chosen = np.linspace(0, len(examples) - 1, min(_SAMPLES, len(examples))).astype(int)
    return torch.from_numpy(np.stack([load(examples[i].image, spec) for i in chosen]))


def _provenance(job: Job) -> dict[str, Any]:
    counts = {name: len(job.dataset.split(name)) for name in ("train", "dev")}
    return {
        "command": job.command,
        "dataset": job.dataset.format,
        "photos": counts,
        "device": str(job.device),
        "threads": torch.get_num_threads(),
        "versions": {
            "captioner": version("captioner"),
            "torch": str(torch.__version__),  # a class of its own otherwise, which no checkpoint may hold
            "python": platform.python_version(),
        },
    }
