"""Runs a training from its options to its checkpoints: data, vocabulary, features, model, loop."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from caprun.bundle.writing import describe_file
from caprun.photos.preprocessing import ImageSpec, load
from captioner.config import Config
from captioner.datasets import Dataset, Example
from captioner.datasets.example import in_short
from captioner.datasets.inspection import cut_captions
from captioner.datasets.joining import split_sizes
from captioner.errors import CaptionerError
from captioner.evaluation import meteor
from captioner.evaluation.rewards import CaptionRewards
from captioner.models.caption_model import CaptionModel
from captioner.models.checkpoint import BEST, LAST, Checkpoint, checkpoint_file, image_spec, load_checkpoint
from captioner.output_files import locked_folder
from captioner.reports.run import RunReports
from captioner.text.metric_words import tokenize
from captioner.text.scripts import counted, scripts_of
from captioner.text.tokenizer import SPECIAL, Tokenizer
from captioner.training.inputs.batches import Batches, Source
from captioner.training.inputs.features import FeatureCache, Features, content_keys
from captioner.training.inputs.sources import CachedFeatures, PhotoFiles, report_unreadable, unreadable_photos
from captioner.training.inputs.views import is_mirrored, may_be_mirrored
from captioner.training.loop import Task, Trainer
from captioner.training.processes import Processes
from captioner.training.rehearsal import drawn, own_captions
from captioner.training.self_critical import SelfCriticalTrainer
from captioner.training.start import Start, initial_model, initial_tokenizer
from captioner.training.validation import PHOTOS, Validation, validate

_SHOWN = 10  # new words
_SAMPLES = 16  # validation photos in a checkpoint, for the verification of its export

Say = Callable[[str], None]
Splits = dict[str, list[Example]]


@dataclass(frozen=True)
class Job:
    """The options of `captioner train`."""

    dataset: Dataset
    config: Config
    output: Path
    cache: Path
    command: str
    processes: Processes = field(default_factory=Processes)
    allow_missing: bool = False
    resumed: Checkpoint | None = None
    """The checkpoint to resume; its model and vocabulary are used unchanged."""
    init: Path | None = None
    """The checkpoint with the initial model and vocabulary; not used when a training is resumed."""
    new_vocabulary: bool = False
    """Keeps only the encoder of `init`; vocabulary and decoder are new."""


def check_selection(select_by: str, dev: Sequence[Example]) -> None:
    """Checks that the epochs have the score that selects the best one.

    Raises:
        CaptionerError: it is the score of a dataset without dev photos, or there are dev photos of only one dataset.
    """
    _, at, name = select_by.partition("@")
    there = dict.fromkeys(example.dataset for example in dev)
    if at and (name not in there or len(there) < 2):
        names = f"those of {', '.join(there)}" if any(there) else "those of one dataset"
        raise CaptionerError(
            f"train.select_by is {select_by}, which needs dev photos of {name} and of another dataset; "
            f"this training has {names}."
        )


def train(job: Job, say: Say) -> None:
    """Trains a model and writes `best.pt`, `last.pt` and the reports to the job's output folder.

    Raises:
        CaptionerError: the data are invalid, weights are unavailable, or a file cannot be written.
        KeyboardInterrupt: a signal arrived; `last.pt` holds every finished step.
    """
    began = time.monotonic()
    config, processes = job.config, job.processes
    start, old = _start(job), _rehearsed_shares(job)
    for line in job.dataset.summary():
        say(line)
    splits = {name: drawn(job.dataset.split(name), old, config.train.seed) for name in ("train", "dev")}
    check_selection(config.train.select_by, splits["dev"])
    captions = [caption for example in splits["train"] for caption in example.references]
    if len(scripts := scripts_of(captions)) > 1:
        say(f"warning: the training captions are in several scripts: {counted(scripts)}")
    growing = [c for e in splits["train"] if e.dataset not in job.dataset.mixed_in for c in e.references]
    tokenizer = initial_tokenizer(config, start, captions, growing)
    config = replace(config, data=tokenizer.config)  # with the tokenizer that was chosen
    job, unknown = replace(job, config=config), tokenizer.unknown_share(captions)
    size, kind = len(tokenizer.vocabulary), config.data.tokenizer
    say(f"vocabulary: {size} pieces ({kind}); {unknown:.1%} of the pieces in training captions are unknown")
    for fault, seen in cut_captions(splits["train"], tokenizer).items():
        say(f"warning: {in_short(fault, seen)}")
    if start is not None and not start.new_vocabulary:
        new = tokenizer.vocabulary.pieces[len(start.checkpoint.vocabulary) :]
        if new:
            say(f"new words ({len(new)}): {', '.join(new[:_SHOWN])}{', ...' * (len(new) > _SHOWN)}")

    torch.manual_seed(config.train.seed)
    model = initial_model(config, start, tokenizer.vocabulary)
    learnt = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    say(f"model: {config.model.encoder}, {config.model.decoder} decoder; {learnt / 1e6:.1f} M parameters are trained")

    with locked_folder(job.output) if processes.first else nullcontext(), ExitStack() as stack:
        spec = image_spec(config, model)
        model.to(processes.device)  # before its stem is, which is a part of it
        sources, splits = _sources(model, spec, splits, old, job, say)
        check_selection(config.train.select_by, splits["dev"])  # some photos may be unreadable
        kept = Checkpoint(
            config,
            tokenizer.vocabulary,
            SPECIAL,
            {},
            _samples(splits["dev"], spec),
            {},
            _provenance(job, start),
            tokenizer.state,
        )
        own = _own_captions(model, kept, sources["train"], splits["train"], job, say) if old else []
        for row, caption in enumerate(own):
            if splits["train"][row].dataset in old:
                splits["train"][row] = replace(splits["train"][row], references=(caption,))
        task = replace(_task(job, kept, sources, splits, tokenizer, old), rehearsed=own)
        if (unit := task.validation.protocol["segmentation"]) != "words":
            say(f"scores: by {unit}, because some scripts have no spaces between words")
        if processes.first:
            reports = stack.enter_context(closing(RunReports(job.output, config, splits["dev"], say)))
            validation = replace(task.validation, meteor=meteor.find_meteor(say))
            task = replace(task, validation=validation, reports=reports)
        trainer = _trainer(model, task, processes, say, splits["train"])
        _go_on(trainer, job, say)
        trainer.state.seconds += time.monotonic() - began  # such as the features
        if task.reports is not None:
            task.reports.open(trainer.state.steps, trainer.state.history, model)
        trainer.run()
        _report(trainer, say)
    say(f"best ({config.train.select_by} {trainer.state.best:.3f}): {job.output / BEST}")
    say(f"last: {job.output / LAST}")


def _rehearsed_shares(job: Job) -> dict[str, float]:
    """Returns the share of photos to draw from each rehearsed dataset, by name.

    Raises:
        CaptionerError: there is no trained model to rehearse.
    """
    if not job.config.train.rehearse:
        return {}
    if job.resumed is None and (job.init is None or job.new_vocabulary):
        raise CaptionerError(
            "train.rehearse=true rehearses a trained model's captions; name its checkpoint with --init, and leave out "
            "--new-vocabulary."
        )
    return job.dataset.mixed_in


def _own_captions(
    model: CaptionModel, kept: Checkpoint, source: Source, examples: Sequence[Example], job: Job, say: Say
) -> list[str]:
    """Returns the initial model's captions of the training photos; a resumed training reads them from its checkpoint.

    Raises:
        CaptionerError: the training is resumed with other photos.
    """
    if job.resumed is not None and job.resumed.training is not None:
        with _explained(job):
            captions: list[str] = job.resumed.training["rehearsed"]
            count = len(captions)
        if count != len(examples):
            raise CaptionerError(f"The run in {job.output} was started with other photos; resume it with its dataset.")
        return captions
    say("rehearsal: in datasets with a weight below 1, the initial model's captions replace the references")
    return own_captions(model, kept, source, examples, job.processes)


def _task(
    job: Job,
    kept: Checkpoint,
    sources: dict[str, Source],
    splits: Splits,
    tokenizer: Tokenizer,
    rehearsed: Collection[str],
) -> Task:
    """Returns the task without reports and METEOR; `rehearsed` names the rehearsed datasets."""
    train, processes = job.config.train, job.processes

    def batches(split: str, size: int, **further: Any) -> Batches:
        captions = [[tokenizer.encode(caption) for caption in example.references] for example in splits[split]]
        rank, count = processes.rank, processes.count
        return Batches(sources[split], captions, size, SPECIAL.pad, rank=rank, count=count, **further)

    weights = {**job.dataset.weights, **dict.fromkeys(rehearsed, 1.0)}
    shown = [weights[example.dataset] for example in splits["train"]]
    learnt = batches("train", train.batch_size, parts=train.accumulate, balance=train.balance, shown=shown)
    validation = Validation(batches("dev", PHOTOS), splits["dev"], kept)
    data = {"train": _digest(splits["train"], learnt), "dev": _digest(splits["dev"], validation.batches)}
    return Task(job.config, learnt, validation, job.output, kept, data)


def _start(job: Job) -> Start | None:
    """Returns the checkpoint that the training starts from, if any.

    Raises:
        CaptionerError: the stage needs a checkpoint and there is none, or it cannot be read.
    """
    if job.resumed is not None:
        return Start(job.resumed)
    if job.init is not None:
        return Start(load_checkpoint(job.init), checkpoint_file(job.init), job.new_vocabulary)
    if job.config.train.stage == "self-critical":
        raise CaptionerError("The self-critical stage starts from a trained model; name its checkpoint with --init.")
    return None


def _trainer(model: CaptionModel, task: Task, processes: Processes, say: Say, examples: Sequence[Example]) -> Trainer:
    """Returns the trainer of the configured stage; `examples` is the training split."""
    if task.config.train.stage == "cross-entropy":
        return Trainer(model, task, processes, say)
    references = [[tokenize(reference) for reference in example.references] for example in examples]
    rewards = CaptionRewards(references, task.checkpoint.vocabulary, task.config.self_critical.bad_endings)
    return SelfCriticalTrainer(model, task, processes, say, rewards)


@contextmanager
def _explained(job: Job) -> Iterator[None]:
    """Reports in one sentence that the state of the training to resume cannot be read in the block."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CaptionerError(
            f"{job.output / LAST} cannot be resumed; its state is incomplete or from another run ({reason})."
        ) from error


def _go_on(trainer: Trainer, job: Job, say: Say) -> None:
    if job.resumed is None:
        return
    assert job.resumed.training is not None, "the command checks this"
    with _explained(job):
        trainer.resume(job.resumed.training)
    done = trainer.state
    say(f"resumed: {done.epoch} of {job.config.train.epochs} epochs and {done.batch} steps of the next are done")
    if done.epoch and job.processes.first and not (job.output / BEST).exists():
        raise CaptionerError(f"{job.output / BEST} is missing; put it back next to {LAST}, or start a new run.")
    threads = job.resumed.provenance.get("threads")
    if threads != torch.get_num_threads() and job.processes.device.type == "cpu":
        say(
            f"warning: training began with {threads} threads and continues with {torch.get_num_threads()}, so sums may "
            "round differently"
        )


def _report(trainer: Trainer, say: Say) -> None:
    """Writes the report of the best epoch."""
    task, processes = trainer.task, trainer.processes
    best = processes.from_first(load_checkpoint(task.output / BEST) if processes.first else None)
    assert best is not None
    model = trainer.optimiser.averaged
    model.load_state_dict(dict(best.model))
    validated = validate(model, task.validation, processes)
    if task.reports is not None:
        captioner = trainer.captioner()
        captions = [captioner.vocabulary.text(caption.ids) for caption in validated.captions]
        say(f"report: {task.reports.finish(captioner, captions, best.metrics)}")


def _sources(
    model: CaptionModel, spec: ImageSpec, splits: Splits, rehearsed: Collection[str], job: Job, say: Say
) -> tuple[dict[str, Source], Splits]:
    """Returns the source of each split's photos, and the splits without unreadable photos."""
    data = job.config.data
    photos = [example.image for examples in splits.values() for example in examples]

    def mirrored(examples: Sequence[Example]) -> list[bool]:
        return [may_be_mirrored(example.references, data.sided_words) for example in examples]

    if data.augment or model.encoder.stem() is None:
        splits = _readable(splits, unreadable_photos(photos, quiet=not job.processes.first), job, say)

        def files(examples: Sequence[Example]) -> Source:
            images = [example.image for example in examples]
            varies = [example.dataset not in rehearsed for example in examples]
            mirror = mirrored(examples)
            return PhotoFiles(images, spec, mirror, augmented=data.augment, views=data.views, varies=varies)

        return {name: files(examples) for name, examples in splits.items()}, splits
    keys = dict(zip(photos, content_keys(photos), strict=True))
    found = _cached(keys, model, spec, 0, job, say)
    rows = dict(zip(keys, found.rows, strict=True))
    splits = _readable(splits, found.unreadable, job, say)
    train, dev = (
        Features(np.array([rows[example.image] for example in splits[name]]), found.table, {})
        for name in ("train", "dev")
    )
    views = []
    # see the argument `varies` of PhotoFiles
    learnt = np.array([example.dataset not in rehearsed for example in splits["train"]])
    varied = [example for example in splits["train"] if example.dataset not in rehearsed]
    for number in range(1, data.views):
        seen = _cached({e.image: keys[e.image] for e in varied}, model, spec, number, job, say)
        may_be_shown = np.array(mirrored(varied)) if is_mirrored(number) else True
        shown = np.full(len(learnt), -1)
        shown[learnt] = np.where(may_be_shown, seen.rows, -1)
        views.append(replace(seen, rows=shown))
    return {"train": CachedFeatures(train, views), "dev": CachedFeatures(dev)}, splits


def _cached(keys: Mapping[Path, str], model: CaptionModel, spec: ImageSpec, view: int, job: Job, say: Say) -> Features:
    """Returns the features of a view; the first process computes them, and the others read its cache."""
    cache = FeatureCache(job.cache, model.encoder, spec, view)
    photos, digests = list(keys), list(keys.values())
    found = cache.compute(photos, job.processes.device, say, digests) if job.processes.first else None
    job.processes.from_first(None)
    return found or cache.compute(photos, job.processes.device, say, digests)


def _readable(splits: Splits, problems: Mapping[Path, str], job: Job, say: Say) -> Splits:
    """Returns the splits without unreadable photos, or raises a CaptionerError if they must all be readable."""
    report_unreadable(list(problems.values()), say, allow_missing=job.allow_missing)
    readable = {name: [e for e in examples if e.image not in problems] for name, examples in splits.items()}
    for name, examples in readable.items():
        if not examples:
            raise CaptionerError(f"None of the photos in split {name!r} can be read.")
    return readable


def _digest(examples: Sequence[Example], batches: Batches) -> str:
    """Returns a digest of the photos' names and captions, which identifies a split."""
    names = "\n".join(example.image.name for example in examples)
    return hashlib.sha256(f"{batches.digest}\n{names}".encode(errors="surrogateescape")).hexdigest()


def _samples(examples: Sequence[Example], spec: ImageSpec) -> torch.Tensor:
    chosen = np.linspace(0, len(examples) - 1, min(_SAMPLES, len(examples))).astype(int)
    return torch.from_numpy(np.stack([load(examples[i].image, spec) for i in chosen]))


def _provenance(job: Job, start: Start | None) -> dict[str, Any]:
    if job.resumed is not None:
        return dict(job.resumed.provenance)  # provenance describes how a training began
    data, sizes, first = job.config.data, split_sizes(job.dataset), {}
    datasets = [
        {"name": part.name, "format": part.format, "weight": part.weight, "photos": sizes[part.name]}
        for part in job.dataset.parts
    ]
    if start is not None and start.file is not None:
        known, digest = start.checkpoint, describe_file(start.file).sha256
        kept = {"kept": "encoder"} if start.new_vocabulary else {}
        first = {"init": {**known.provenance, "checkpoint_sha256": digest, "scores": known.scores, **kept}}
    return first | {
        "command": job.command,
        "dataset": job.dataset.format,
        **({"datasets": datasets} if datasets else {}),
        "photos": {name: len(job.dataset.split(name)) for name in ("train", "dev")},
        "splits": list(data.splits),
        "split_seed": data.split_seed,
        "device": str(job.processes.device),
        "processes": job.processes.count,
        "threads": torch.get_num_threads(),
        "versions": {
            "captioner": version("captioner"),
            "torch": str(torch.__version__),  # a plain string, because checkpoints hold no other classes
            "python": platform.python_version(),
        },
    }
