"""The training loop: steps, validation by free-running captions, `best` and `last` kept.

What a step learns is cross-entropy here; `captioner.training.self_critical` has another.

A training that is killed at any step and resumed ends with the same weights, bit for bit, as one that was not: what is
random is drawn from the seed and the step's number, and the rest of what a step depends on is in `last.pt`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caprun.engine import Captioner
from captioner.backends.pytorch import ModelBackend, model_spec
from captioner.config import Config
from captioner.errors import CaptionerError
from captioner.evaluation.metrics import keys_by_dataset
from captioner.models.caption_model import CaptionModel
from captioner.models.checkpoint import BEST, LAST, Checkpoint, save_checkpoint
from captioner.progress import Progress
from captioner.reports.run import RunReports
from captioner.training.inputs.batches import Batches, Step
from captioner.training.interruption import Interruption
from captioner.training.losses import caption_loss
from captioner.training.optimiser import Optimiser
from captioner.training.processes import Processes
from captioner.training.schedule import rate_at
from captioner.training.validation import Validation, validate

_BASELINE_DECAY = 0.9  # Xu et al., 2015, equation 12


@dataclass
class State:
    """Where a training stands; plain data, so that a checkpoint can hold it."""

    epoch: int = 0
    """Whole epochs that are done."""
    batch: int = 0
    """Steps of the next that are done."""
    captions: int = 0
    """Captions in those steps; `words`, `nats` and `correct`: their words, what these cost, and how many were right."""
    words: int = 0
    nats: float = 0.0
    correct: float = 0.0
    reward: float = 0.0
    """In the self-critical stage, what the captions of those steps are worth together; `bad_endings`: how many of them
    end badly."""
    bad_endings: float = 0.0
    before: dict[str, float] = field(default_factory=dict)
    """In that stage, the scores of the model it began with."""
    best: float | None = None
    """What `select_by` was in the best epoch so far."""
    epochs_since_best: int = 0
    plateau_best: float | None = None
    plateau_epochs: int = 0
    """Epochs since the plateau's value was best, or the rate last fell."""
    rate_scale: float = 1.0
    """What `plateau` has come down to."""
    baseline: float | None = None
    """Hard attention's moving average of a caption's log-likelihood."""
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    """A row an epoch."""


@dataclass(frozen=True)
class Task:
    """What a training works on."""

    config: Config
    batches: Batches
    """The training split."""
    validation: Validation
    output: Path
    """The folder for checkpoints and logs."""
    checkpoint: Checkpoint
    """What its checkpoints hold besides weights and scores."""
    data: Mapping[str, str]
    """A digest a split: a training is resumed on the data it began with."""
    reports: RunReports | None = None
    """Told of every step and epoch; in the first process alone."""


class Trainer:
    """Trains one model by cross-entropy.

    Args:
        model: on the device where it trains.
        task: on what.
        processes: who else trains it.
        say: prints a line.

    Raises:
        CaptionerError: there are more processes than photos in a step.
    """

    told: tuple[str, ...] = ("train_loss", "dev_loss", "bleu_4", "cider")
    """What is said of an epoch."""

    def __init__(self, model: CaptionModel, task: Task, processes: Processes, say: Callable[[str], None]) -> None:
        self.model, self.task, self.processes, self.say = model, task, processes, say
        self.train_config = task.config.train
        if task.batches.fewest < processes.count:
            raise CaptionerError(
                f"A step has as few as {task.batches.fewest} photos and there are {processes.count} processes; raise "
                "--batch-size, or start fewer processes."
            )
        self.optimiser = Optimiser(model, self.train_config)
        self.shared_model = processes.wrap(model)
        self.state = State()
        self.total_steps = self.train_config.epochs * len(task.batches)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        train = self.train_config
        patient = not train.early_stop or self.state.epochs_since_best < train.early_stop
        return self.state.epoch >= train.epochs or not patient

    def run(self) -> State:
        """Train until the last epoch, or until no epoch has been better for long, from wherever the state stands.

        Raises:
            CaptionerError: the loss is no longer a number, or a checkpoint cannot be written.
            KeyboardInterrupt: it was asked to stop; `last.pt` holds every step done.
        """
        with Interruption(self.say) as interruption:
            while not self.finished:
                began = time.monotonic()
                self._train_epoch(interruption)
                row = self._end_epoch(began)
                names = [*self.told, *keys_by_dataset(row)]
                scores = "  ".join(f"{name} {row[name]:.3f}" for name in names)
                self.say(f"epoch {self.state.epoch}/{self.train_config.epochs}: {scores}  ({row['seconds']:.0f} s)")
            # in the last validation, after which no step asks; what comes after a training is not to begin
            if self.processes.sums([float(interruption.requested)])[0] > 0:
                raise KeyboardInterrupt
        if self.state.epoch < self.train_config.epochs:
            self.say(
                f"stopped early: no better {self.train_config.select_by} for {self.state.epochs_since_best} epochs"
            )
        return self.state

    def _train_epoch(self, interruption: Interruption) -> None:
        train, state = self.train_config, self.state
        self.model.train()
        saved = time.monotonic()
        began = state.seconds, saved
        steps = self.task.batches.epoch(train.seed, state.epoch, state.batch)
        name, captions = f"epoch {state.epoch + 1}/{train.epochs}", self._captions_an_epoch()
        with Progress(name, captions, "captions", done=state.captions, quiet=not self.processes.first) as progress:
            for step in steps:
                done = state.captions
                asked_to_stop = self._learn(step, interruption.requested)
                progress.advance(state.captions - done, self._shown())
                state.seconds = began[0] + time.monotonic() - began[1]
                if asked_to_stop:
                    self._save_last()
                    self.processes.from_first(None)  # whoever leaves first would have the others killed
                    raise KeyboardInterrupt
                # every process counts its own time, and the first alone writes
                if self.processes.first and time.monotonic() - saved > 60 * train.save_minutes:
                    self._save_last()
                    saved = time.monotonic()
        if self.processes.first and time.monotonic() - saved > 60 * min(1.0, train.save_minutes):
            self._save_last()  # validation may take long

    def _learn(self, step: Step, interrupted: bool) -> bool:
        """One step; returns whether any of the processes was asked to stop."""
        train, state = self.train_config, self.state
        # drawn anew from its number, a step is random in the same way whether or not there were others in this process
        torch.manual_seed(_seed(train.seed, self.optimiser.steps, self.processes.rank))
        loss, *found, asked = self.processes.sums([*self._backward(step), float(interrupted)])
        rate = rate_at(self.optimiser.steps, train, self.total_steps, state.rate_scale)
        if not np.isfinite(loss) or not self.optimiser.step(rate):
            raise CaptionerError(
                f"The loss or its gradient is no longer a number at step {self.optimiser.steps}; lower --lr. "
                f"What was learnt until the last checkpoint is in {self.task.output}."
            )
        state.batch += 1
        shown = self._note_step(step, found)
        if self.task.reports is not None:
            self.task.reports.step(state.epoch + 1, state.batch, *shown)
        return asked > 0

    def _backward(self, step: Step) -> list[float]:
        """Leave a step's gradient with the optimiser; returns the loss, and sums for `_note_step`."""
        train, state, device = self.train_config, self.state, self.processes.device
        sampling = train.scheduled_sampling * state.epoch / max(1, train.epochs - 1)
        nats, correct, likelihood, total = (torch.zeros((), device=device) for _ in range(4))
        for number, batch in enumerate(step.batches, 1):
            with self.processes.gathering(self.shared_model, number == len(step.batches)):
                with self.optimiser.autocast():
                    teacher = self.shared_model(batch.seen.to(device), batch.tokens.to(device), sampling)
                losses = caption_loss(
                    teacher,
                    train,
                    step.weighted_words,
                    step.weighted_captions,
                    state.baseline or 0.0,
                    batch.weights.to(device),
                )
                # DistributedDataParallel takes the mean over processes, and the loss is divided by all their words
                self.optimiser.backward(losses.total * self.processes.count)
            nats, correct = nats + losses.nats, correct + losses.correct
            likelihood, total = likelihood + losses.log_likelihood, total + losses.total.detach()
        sums: list[float] = torch.stack([total, nats, correct, likelihood]).tolist()
        return sums

    def _note_step(self, step: Step, found: Sequence[float]) -> tuple[float, ...]:
        """Add up what `_backward` found, of all processes; returns what a row of the reports' table says of it."""
        state, (nats, correct, likelihood) = self.state, found
        state.captions, state.words = state.captions + step.captions, state.words + step.words
        state.nats, state.correct = state.nats + nats, state.correct + correct
        mean = likelihood / step.captions
        old = mean if state.baseline is None else state.baseline
        state.baseline = _BASELINE_DECAY * old + (1 - _BASELINE_DECAY) * mean
        return nats / step.words, correct / step.words

    def _captions_an_epoch(self) -> int:
        return self.task.batches.captions

    def _shown(self) -> str:
        """What is said beside an epoch's progress."""
        return f"loss {self.state.nats / self.state.words:.3f}"

    def _learnt(self) -> dict[str, float]:
        """What an epoch's steps came to."""
        state = self.state
        return {"train_loss": state.nats / state.words, "train_accuracy": state.correct / state.words}

    def _end_epoch(self, began: float) -> dict[str, float]:
        state, train = self.state, self.train_config
        validating = time.monotonic()
        with self.optimiser.average_in_place():
            self.model.eval()
            found = validate(self.model, self.task.validation, self.processes).scores
            state.epoch, state.batch = state.epoch + 1, 0
            now = time.monotonic()
            state.seconds += now - validating
            row = {
                "epoch": float(state.epoch),
                **self._learnt(),
                **found,
                "seconds": now - began,
                "lr": train.lr * rate_at(self.optimiser.steps - 1, train, self.total_steps, state.rate_scale).factor,
            }
            if self.task.reports is not None:
                self.task.reports.epoch(row, self.captioner())
        state.captions, state.words = 0, 0
        state.nats = state.correct = state.reward = state.bad_endings = 0.0
        state.history.append(row)
        best = self._note_score(row)
        self._watch_plateau(row)
        if self.processes.first:
            self._keep(row, best=best)
        return row

    def _note_score(self, row: Mapping[str, float]) -> bool:
        """Whether the epoch is the best so far, or as good as the best."""
        state, name = self.state, self.train_config.select_by
        before, now = state.best, row[name]
        better = before is None or goodness(name, now) > goodness(name, before)
        state.epochs_since_best = 0 if better else state.epochs_since_best + 1
        state.best = now if better else before
        # the later of equals: CIDEr is 0 for as long as nothing matches, and always where one photo is scored
        return better or now == before

    def _watch_plateau(self, row: Mapping[str, float]) -> None:
        """Lower the rate where the watched value has not got better for longer than the configuration bears."""
        train, state = self.train_config, self.state
        if train.schedule != "plateau":
            return
        value = goodness(train.plateau_on, row[train.plateau_on])
        if state.plateau_best is None or value > state.plateau_best:
            state.plateau_best, state.plateau_epochs = value, 0
            return
        state.plateau_epochs += 1
        if state.plateau_epochs > train.plateau_patience:
            state.rate_scale *= train.plateau_factor
            state.plateau_epochs = 0

    def captioner(self) -> Captioner:
        """The model as it is now."""
        kept = self.task.checkpoint
        spec = model_spec(kept, self.model, self.task.output.name)
        return Captioner(spec, kept.vocabulary, ModelBackend(self.model))

    def _checkpoint(self, row: Mapping[str, float]) -> Checkpoint:
        """With the averaged weights, which are those that were scored."""
        made = self.task.checkpoint
        metrics = {**self.task.validation.protocol, **row, "epoch": self.state.epoch}
        weights: dict[str, Tensor] = {**self.model.state_dict(), **self.optimiser.averaged}
        # what is tied has two names in a state dict and one among the parameters
        tied = {name: self.optimiser.averaged[first] for name, first in _tied(self.model).items()}
        provenance = {**made.provenance, "train_seconds": round(self.state.seconds)}
        return Checkpoint(
            **{
                **vars(made),
                "model": weights | tied,
                "metrics": metrics if row else {},
                "provenance": provenance,
            }
        )

    def _keep(self, row: Mapping[str, float], *, best: bool) -> None:
        checkpoint = self._checkpoint(row)
        if best:
            save_checkpoint(self.task.output / BEST, checkpoint)
        if self.train_config.keep_epochs:
            save_checkpoint(self.task.output / f"epoch-{self.state.epoch:03d}.pt", checkpoint)
        self._save_last()

    def _save_last(self) -> None:
        if not self.processes.first:
            return
        if self.task.reports is not None:
            # what stands after a checkpoint in the tables is cut off by who resumes; what is before it must be there
            self.task.reports.flush()
        scored = bool(self.state.history) and not self.state.batch  # otherwise its scores would be of other weights
        row = self.state.history[-1] if scored else {}
        training = {"optimiser": self.optimiser.state(), "state": vars(self.state), "total_steps": self.total_steps}
        checkpoint = Checkpoint(**{**vars(self._checkpoint(row)), "training": {**self._identity(), **training}})
        save_checkpoint(self.task.output / LAST, checkpoint)

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a resumed training to be the same training."""
        return {"data": dict(self.task.data), "processes": self.processes.count}

    def resume(self, training: Mapping[str, Any]) -> None:
        """Go on from what `last.pt` holds.

        Raises:
            CaptionerError: the training split or the number of processes is not what it was.
        """
        if "optimiser" not in training:
            raise CaptionerError(
                f"The training in {self.task.output} is of an older captioner and cannot be resumed; begin another."
            )
        if training["data"] != self.task.data:
            raise CaptionerError(
                f"The training in {self.task.output} was of other photos or captions; go on with the dataset it began "
                "with."
            )
        if training["processes"] != self.processes.count:
            raise CaptionerError(
                f"The training in {self.task.output} was of {training['processes']} processes and this is one of "
                f"{self.processes.count}; start as many."
            )
        self.optimiser.restore(training["optimiser"])
        self.state = State(**training["state"])
        # the warm-up stays as long as it was, whatever number of epochs is asked for now
        self.total_steps = training["total_steps"]


def goodness(name: str, value: float) -> float:
    """What is larger for a better epoch."""
    return -value if name == "dev_loss" else value


def _seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _tied(model: CaptionModel) -> dict[str, str]:
    """Names in the state dict of parameters that come under another name too -> that name."""
    first: dict[int, str] = {}
    tied = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad and first.setdefault(id(parameter), name) != name:
            tied[name] = first[id(parameter)]
    return tied
