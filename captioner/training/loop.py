"""The training loop: steps, validation with free-running captions, and the checkpoints `best.pt` and `last.pt`.

Steps here minimise cross-entropy; `captioner.training.self_critical` maximises rewards.

A training that is killed at any step and resumed ends with the same weights, bit for bit, as an uninterrupted one:
random numbers depend on the seed and the number of the step, and `last.pt` holds everything else that a step needs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from caprun.batch.progress import Progress
from caprun.engine import Captioner
from captioner.backends.pytorch import ModelBackend, model_spec
from captioner.config import Config
from captioner.errors import CaptionerError
from captioner.evaluation.metrics import score_line
from captioner.models.caption_model import CaptionModel
from captioner.models.checkpoint import BEST, LAST, Checkpoint, save_checkpoint
from captioner.reports.run import RunReports
from captioner.training.inputs.batches import Batches, Step
from captioner.training.interruption import delayed_interruption
from captioner.training.losses import caption_loss
from captioner.training.optimiser import Optimiser
from captioner.training.processes import Processes
from captioner.training.schedule import Rate, rate_at
from captioner.training.validation import Validation, validate

_ZERO = 0.0005  # of a score that is printed as 0.000
_BASELINE_DECAY = 0.9  # Xu et al., 2015, equation 12


@dataclass
class TrainingState:
    """The progress of a training, as plain data for checkpoints."""

    epoch: int = 0
    """Complete epochs."""
    batch: int = 0
    """Steps done in the next epoch."""
    captions: int = 0
    """Captions in those steps; `words`, `nats` and `correct` are their words, cross-entropy and correct predictions."""
    words: int = 0
    nats: float = 0.0
    correct: float = 0.0
    reward: float = 0.0
    """In the self-critical stage, the sum of the rewards in those steps; `bad_endings` counts bad endings."""
    bad_endings: float = 0.0
    before: dict[str, float] = field(default_factory=dict)
    """In the self-critical stage, the scores of the initial model."""
    best: float | None = None
    """The value of `select_by` in the best epoch so far."""
    epochs_since_best: int = 0
    plateau_best: float | None = None
    plateau_epochs: int = 0
    """Epochs since `plateau_best` last improved or the rate was last lowered."""
    rate_scale: float = 1.0
    """The factor that the `plateau` schedule has reached."""
    baseline: float | None = None
    """For hard attention, the moving average of a caption's log-likelihood."""
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    """One row per epoch."""
    steps: list[tuple[float, ...]] = field(default_factory=list)
    """One row per step: the epoch, the step in it, and what `_note_step` returns."""


@dataclass(frozen=True)
class Task:
    """The inputs and outputs of a training."""

    config: Config
    batches: Batches
    """The training split."""
    validation: Validation
    output: Path
    """The folder for checkpoints and logs."""
    checkpoint: Checkpoint
    """Content of the checkpoints except weights and scores."""
    data: Mapping[str, str]
    """A digest per split; a training can only be resumed on the same data."""
    rehearsed: Sequence[str] = ()
    """The initial model's captions of the training photos, if some are rehearsed."""
    reports: RunReports | None = None
    """Records steps and epochs; only in the first process."""


class Trainer:
    """Trains a model with cross-entropy.

    Args:
        model: the model, on the device of the training.
        task: inputs and outputs.
        processes: the processes that train together.
        say: prints a line.

    Raises:
        CaptionerError: there are more processes than photos in a step.
    """

    told: tuple[str, ...] = ("train_loss", "dev_loss", "bleu_4", "cider")
    """The scores printed after each epoch."""

    def __init__(self, model: CaptionModel, task: Task, processes: Processes, say: Callable[[str], None]) -> None:
        self.model, self.task, self.processes, self.say = model, task, processes, say
        self.train_config = task.config.train
        if task.batches.fewest < processes.count:
            raise CaptionerError(
                f"The smallest step has {task.batches.fewest} photos for {processes.count} processes; raise "
                "--batch-size, or start fewer processes."
            )
        self.optimiser = Optimiser(model, self.train_config, self.train_config.epochs * len(task.batches))
        if self.optimiser.precision != self.train_config.precision:
            say("train.precision=bf16 would be slow on this CPU, which has neither AVX512-BF16 nor AMX; using fp32.")
        self.shared_model = processes.wrap(model)
        self.state = TrainingState()

    @property
    def finished(self) -> bool:
        """True if the last epoch is done, or training has stopped early."""
        train = self.train_config
        patient = not train.early_stop or self.state.epochs_since_best < train.early_stop
        return self.state.epoch >= train.epochs or not patient

    def run(self) -> TrainingState:
        """Trains from the current state to the last epoch, or until `early_stop` epochs bring no better score.

        Raises:
            CaptionerError: the loss is NaN or infinite, or a checkpoint cannot be written.
            KeyboardInterrupt: a signal arrived; `last.pt` holds every finished step.
        """
        with delayed_interruption(self.say) as interrupted:
            while not self.finished:
                began = time.monotonic()
                self._train_epoch(interrupted)
                row = self._end_epoch(began)
                scores = score_line(row, self.told)
                self.say(f"epoch {self.state.epoch}/{self.train_config.epochs}: {scores}  ({row['seconds']:.0f} s)")
                if without_meaning(self.state.history):
                    self.say(
                        "warning: CIDEr and BLEU-4 were 0 in two epochs while the loss fell, so they do not tell good "
                        "captions from bad ones. Check with `captioner data` whether captions share words as scores "
                        "count them, or select epochs by loss with --set train.select_by=dev_loss."
                    )
            # no step follows the last validation to check for a signal
            if self.processes.sums([float(interrupted.is_set())])[0] > 0:
                raise KeyboardInterrupt
        if self.state.epoch < self.train_config.epochs:
            self.say(
                f"stopped early: {self.train_config.select_by} did not improve in {self.state.epochs_since_best} epochs"
            )
        return self.state

    def _train_epoch(self, interrupted: threading.Event) -> None:
        train, state = self.train_config, self.state
        self.model.train()
        saved = time.monotonic()
        began = state.seconds, saved
        steps = self.task.batches.epoch(train.seed, state.epoch, state.batch)
        name, captions = f"epoch {state.epoch + 1}/{train.epochs}", self._captions_an_epoch()
        with Progress(name, captions, "captions", done=state.captions, quiet=not self.processes.first) as progress:
            for step in steps:
                done = state.captions
                asked_to_stop = self._learn(step, interrupted.is_set())
                progress.advance(state.captions - done, self._shown())
                state.seconds = began[0] + time.monotonic() - began[1]
                if asked_to_stop:
                    self._save_last()
                    self.processes.from_first(None)  # torchrun kills the others when a process exits
                    raise KeyboardInterrupt
                # processes measure time independently, and only the first one writes
                if self.processes.first and time.monotonic() - saved > 60 * train.save_minutes:
                    self._save_last()
                    saved = time.monotonic()
        if self.processes.first and time.monotonic() - saved > 60 * min(1.0, train.save_minutes):
            self._save_last()  # validation can take long

    def _learn(self, step: Step, interrupted: bool) -> bool:
        """Runs one step; returns whether any process received a signal."""
        train, state = self.train_config, self.state
        # the seed depends on the step number, so a resumed training draws the same random numbers
        torch.manual_seed(_seed(train.seed, self.optimiser.steps, self.processes.rank))
        loss, *found, asked = self.processes.sums([*self._backward(step), float(interrupted)])
        rate = self._rate(self.optimiser.steps)
        if not np.isfinite(loss) or not self.optimiser.step(rate):
            if self.task.reports is not None:
                self.task.reports.write_tables()  # the steps before it show the cause
            last = f" The last checkpoint is in {self.task.output}." if (self.task.output / LAST).exists() else ""
            raise CaptionerError(
                f"The loss or its gradient is NaN or infinite at step {self.optimiser.steps}; lower --lr.{last}"
            )
        state.batch += 1
        state.steps.append((float(state.epoch + 1), float(state.batch), *self._note_step(step, found)))
        if self.task.reports is not None:
            self.task.reports.step(state.steps[-1])
        return asked > 0

    def _backward(self, step: Step) -> list[float]:
        """Computes the gradient of a step; returns the loss and the sums for `_note_step`."""
        train, state, device = self.train_config, self.state, self.processes.device
        sampling = train.scheduled_sampling * (state.epoch / (train.epochs - 1) if train.epochs > 1 else 1)
        nats, correct, total = (torch.zeros((), device=device) for _ in range(3))
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
                # DistributedDataParallel averages over processes, but the loss is already divided by the words of all
                self.optimiser.backward(losses.total * self.processes.count)
            nats, correct, total = nats + losses.nats, correct + losses.correct, total + losses.total.detach()
        sums: list[float] = torch.stack([total, nats, correct]).tolist()
        return sums

    def _note_step(self, step: Step, found: Sequence[float]) -> tuple[float, ...]:
        """Adds the sums of `_backward` over all processes to the state; returns the values of a step."""
        state, (nats, correct) = self.state, found
        state.captions, state.words = state.captions + step.captions, state.words + step.words
        state.nats, state.correct = state.nats + nats, state.correct + correct
        mean = -nats / step.captions
        old = mean if state.baseline is None else state.baseline
        state.baseline = _BASELINE_DECAY * old + (1 - _BASELINE_DECAY) * mean
        return nats / step.words, correct / step.words

    def _captions_an_epoch(self) -> int:
        return self.task.batches.captions

    def _shown(self) -> str:
        """Returns the note next to an epoch's progress."""
        name, value = next(iter(self._learnt().items()))
        return f"{name.removeprefix('train_')} {value:.3f}"

    def _rate(self, step: int) -> Rate:
        return rate_at(step, self.train_config, self.optimiser.total_steps, self.state.rate_scale)

    def _learnt(self) -> dict[str, float]:
        """Returns the training scores of an epoch."""
        state = self.state
        return {"train_loss": state.nats / state.words, "train_accuracy": state.correct / state.words}

    def _end_epoch(self, began: float) -> dict[str, float]:
        state, train = self.state, self.train_config
        validating = time.monotonic()
        found = validate(self.optimiser.averaged, self.task.validation, self.processes).scores
        state.epoch, state.batch = state.epoch + 1, 0
        now = time.monotonic()
        state.seconds += now - validating
        row = {
            "epoch": float(state.epoch),
            **self._learnt(),
            **found,
            "seconds": now - began,
            "lr": train.lr * self._rate(self.optimiser.steps - 1).factor,
        }
        if self.task.reports is not None:
            self.task.reports.epoch(row, self.captioner())
        state.captions, state.words = 0, 0
        state.nats = state.correct = state.reward = state.bad_endings = 0.0
        state.history.append(row)
        best = self._note_score(row)
        self._watch_plateau(row)
        if self.processes.first:
            checkpoint = self._checkpoint(row)
            if best:
                save_checkpoint(self.task.output / BEST, checkpoint)
            if train.keep_epochs:
                save_checkpoint(self.task.output / f"epoch-{state.epoch:03d}.pt", checkpoint)
            self._save_last()
        return row

    def _note_score(self, row: Mapping[str, float]) -> bool:
        """Records an epoch's score; returns whether it equals or beats the best so far."""
        state, name = self.state, self.train_config.select_by
        before, now = state.best, row[name]
        better = before is None or goodness(name, now) > goodness(name, before)
        state.epochs_since_best = 0 if better else state.epochs_since_best + 1
        state.best = now if better else before
        # the latest of equal epochs is kept: CIDEr is 0 until a caption matches, and always 0 for a single photo
        return better or now == before

    def _watch_plateau(self, row: Mapping[str, float]) -> None:
        """Lowers the rate if the watched value has not improved for more than `plateau_patience` epochs."""
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
        """Returns the averaged model as the runtime's captioner."""
        kept, model = self.task.checkpoint, self.optimiser.averaged
        return Captioner(model_spec(kept, model, self.task.output.name), kept.vocabulary, ModelBackend(model))

    def _checkpoint(self, row: Mapping[str, float]) -> Checkpoint:
        """Returns a checkpoint with the averaged weights, which are the ones that were scored."""
        made = self.task.checkpoint
        metrics = {**self.task.validation.protocol, **row, "epoch": self.state.epoch}
        provenance = {**made.provenance, "train_seconds": round(self.state.seconds)}
        weights = self.optimiser.averaged.state_dict()
        return replace(made, model=weights, metrics=metrics if row else {}, provenance=provenance)

    def _save_last(self) -> None:
        if not self.processes.first:
            return
        scored = bool(self.state.history) and not self.state.batch  # otherwise the scores would belong to other weights
        row = self.state.history[-1] if scored else {}
        training = {
            "data": dict(self.task.data),
            "rehearsed": list(self.task.rehearsed),
            "processes": self.processes.count,
            "optimiser": self.optimiser.state(),
            # a tensor, because reading a million rows from a pickle takes long
            "state": {**vars(self.state), "steps": torch.tensor(self.state.steps, dtype=torch.float64)},
            "total_steps": self.optimiser.total_steps,
        }
        save_checkpoint(self.task.output / LAST, replace(self._checkpoint(row), training=training))
        if self.task.reports is not None:
            self.task.reports.write_tables()

    def resume(self, training: Mapping[str, Any]) -> None:
        """Restores the state of a training.

        Args:
            training: `Checkpoint.training` of `last.pt`.

        Raises:
            CaptionerError: the data or the number of processes has changed.
        """
        if training["data"] != self.task.data:
            raise CaptionerError(
                f"The run in {self.task.output} was started with other photos or captions; resume it with its dataset."
            )
        if training["processes"] != self.processes.count:
            raise CaptionerError(
                f"The run in {self.task.output} was started with {training['processes']} processes, not "
                f"{self.processes.count}; start the same number."
            )
        self.optimiser.restore(training["optimiser"])
        # checkpoints of version 0.1 have no steps
        state: dict[str, Any] = {"steps": torch.empty(0), **training["state"]}
        self.state = TrainingState(**{**state, "steps": [tuple(row) for row in state["steps"].tolist()]})
        # keeps the length of the warm-up if the number of epochs has changed
        self.optimiser.total_steps = training["total_steps"]


def without_meaning(history: Sequence[Mapping[str, float]]) -> bool:
    """Returns whether CIDEr and BLEU-4 have now been 0 in exactly two epochs, in which the dev loss fell."""
    zero = [max(row["cider"], row["bleu_4"]) < _ZERO for row in history[-3:]]
    return zero[-2:] == [True, True] and zero != [True] * 3 and history[-1]["dev_loss"] < history[-2]["dev_loss"]


def goodness(name: str, value: float) -> float:
    """Returns a value that is larger for a better epoch."""
    return -value if name == "dev_loss" else value


def _seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> np.uint64(1))
