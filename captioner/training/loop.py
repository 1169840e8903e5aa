"""The training loop: epochs over cached features, validation by free-running captions, `best` and `last` kept."""

from __future__ import annotations

import copy
import csv
import io
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from caprun.vocabulary import Special, Vocabulary
from captioner.config import Config
from captioner.errors import CaptionerError
from captioner.evaluation.decoding import caption_features
from captioner.evaluation.metrics import score
from captioner.models.caption_model import CaptionModel
from captioner.progress import Progress
from captioner.training.batches import Batches
from captioner.training.checkpoint import Checkpoint, save_checkpoint
from captioner.training.features import Features
from captioner.training.losses import caption_loss

BEST, LAST, LOG = "best.pt", "last.pt", "log.csv"


@dataclass
class Validation:
    """What the model is validated on."""

    batches: Batches
    features: Features
    references: list[tuple[str, ...]]
    protocol: Mapping[str, Any]
    """Said beside every score: split, photos, references."""


@dataclass
class State:
    """Where a training stands; plain data and tensors, so that a checkpoint can hold it."""

    epoch: int = 0
    best_cider: float = -1.0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


class Trainer:
    """Trains one model.

    Args:
        model: with a frozen encoder, on the device where it trains.
        config: how.
        vocabulary, special: what its captions are made of.
        batches: the training split.
        validation: the validation split.
        samples: uint8 photos that its checkpoints carry.
        provenance: what its checkpoints say of their origin.
        output: the folder for checkpoints and log.
        say: prints a line.
    """

    def __init__(
        self,
        model: CaptionModel,
        config: Config,
        vocabulary: Vocabulary,
        special: Special,
        batches: Batches,
        validation: Validation,
        samples: Tensor,
        provenance: Mapping[str, Any],
        output: Path,
        say: Callable[[str], None],
    ) -> None:
        self.model, self.config = model, config
        self.vocabulary, self.special = vocabulary, special
        self.batches, self.validation = batches, validation
        self.samples, self.provenance = samples, provenance
        self.output, self.say = output, say
        self.state = State()
        train = config.train
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=train.lr, weight_decay=train.weight_decay)
        total = train.epochs * len(batches) + 1
        # rising for less than a step is a division by zero
        warm_up = max(train.warm_up, 2 / total)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, train.lr, total_steps=total, pct_start=warm_up
        )
        self.steps = 0
        self.averaged = [parameter.detach().clone() for parameter in self.parameters]

    def run(self) -> State:
        """Train until the last epoch, from wherever the state stands.

        Raises:
            CaptionerError: the loss is no longer a number, or a checkpoint cannot be written.
        """
        while self.state.epoch < self.config.train.epochs:
            began = time.monotonic()
            train_loss = self._train_epoch()
            self.state.epoch += 1
            row = self._validate_and_keep(train_loss, began)
            scores = "  ".join(f"{name} {row[name]:.3f}" for name in ("train_loss", "dev_loss", "bleu_4", "cider"))
            self.say(f"epoch {self.state.epoch}/{self.config.train.epochs}: {scores}  ({row['seconds']:.0f} s)")
        return self.state

    def _train_epoch(self) -> float:
        train = self.config.train
        device = self.model.unsaid.device
        self.model.train()
        words, nats = 0, 0.0
        total = len(self.batches)
        with Progress(f"epoch {self.state.epoch + 1}/{train.epochs}", total, "batches") as progress:
            for batch in self.batches.shuffled(train.seed, self.state.epoch):
                with torch.autocast(device.type, torch.bfloat16, enabled=train.precision == "bf16"):
                    teacher = self.model(batch.features.to(device), batch.tokens.to(device))
                losses = caption_loss(teacher, train.label_smoothing, train.attention_penalty)
                if not torch.isfinite(losses.total):
                    raise CaptionerError(
                        f"The loss is no longer a number at step {self.steps}; lower --lr. "
                        f"Checkpoints of the epochs before are in {self.output}."
                    )
                self.optimizer.zero_grad()
                losses.total.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(self.parameters, train.clip_norm)
                self.optimizer.step()
                self.schedule.step()
                self.steps += 1
                self._average()
                words += len(teacher.targets)
                nats += losses.cross_entropy.item() * len(teacher.targets)
                progress.advance(1, f"loss {nats / words:.3f}")
        return nats / words

    @torch.no_grad()
    def _average(self) -> None:
        # a young average forgets faster, or it would remember the initialisation
        decay = min(self.config.train.average, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.averaged, list[Tensor](self.parameters), 1 - decay)

    def _validate_and_keep(self, train_loss: float, began: float) -> dict[str, float]:
        raw = copy.deepcopy(self.model.state_dict())
        with torch.no_grad():
            for parameter, average in zip(self.parameters, self.averaged, strict=True):
                parameter.copy_(average)
        self.model.eval()
        row = {"epoch": float(self.state.epoch), "train_loss": train_loss} | self.validate()
        self.state.seconds += time.monotonic() - began
        row["seconds"] = time.monotonic() - began
        row["lr"] = float(self.schedule.get_last_lr()[0])
        self.state.history.append(row)
        self._keep(row, raw)
        self.model.load_state_dict(raw)
        return row

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Teacher-forced loss, and scores of free-running captions, over the whole validation split."""
        device = self.model.unsaid.device
        words, nats = 0, 0.0
        for batch in self.validation.batches.in_order():
            teacher = self.model(batch.features.to(device), batch.tokens.to(device))
            words += len(teacher.targets)
            nats += caption_loss(teacher, 0.0, 0.0).cross_entropy.item() * len(teacher.targets)
        hypotheses = caption_features(self.model, self.validation.features, self.special, self.config.search)
        captions = [self.vocabulary.text(hypothesis.ids) for hypothesis in hypotheses]
        return {"dev_loss": nats / words} | score(captions, self.validation.references).as_dict()

    def _keep(self, row: Mapping[str, float], raw: Mapping[str, Tensor]) -> None:
        metrics = {**self.validation.protocol, **row, "epoch": self.state.epoch}
        # the later of equals: CIDEr is 0 for as long as nothing matches, and always where only one photo is scored
        best = row["cider"] >= self.state.best_cider
        if best:
            self.state.best_cider = row["cider"]
        checkpoint = Checkpoint(
            self.config,
            self.vocabulary,
            self.special,
            self.model.state_dict(),
            self.samples,
            metrics,
            {**self.provenance, "train_seconds": round(self.state.seconds)},
        )
        if best:
            save_checkpoint(self.output / BEST, checkpoint)
        training = {
            "model": dict(raw),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "averaged": self.averaged,
            "steps": self.steps,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state() if self.model.unsaid.is_cuda else None,
            **vars(self.state),
        }
        save_checkpoint(self.output / LAST, Checkpoint(**{**vars(checkpoint), "training": training}))
        write_log(self.output / LOG, self.state.history)

    def resume(self, training: Mapping[str, Any]) -> None:
        """Go on from what `last.pt` holds.

        Raises:
            CaptionerError: the training split is not as large as it was.
        """
        if training["schedule"]["total_steps"] != self.schedule.total_steps:
            raise CaptionerError(
                f"The training in {self.output} was of another number of photos; go on with the dataset it began with."
            )
        self.model.load_state_dict(training["model"])
        self.optimizer.load_state_dict(training["optimizer"])
        self.schedule.load_state_dict(training["schedule"])
        for average, saved in zip(self.averaged, training["averaged"], strict=True):
            average.copy_(saved)
        self.steps = training["steps"]
        torch.set_rng_state(training["random"])
        if training.get("random_cuda") is not None and self.model.unsaid.is_cuda:
            torch.cuda.set_rng_state(training["random_cuda"])
        self.state = State(**{key: training[key] for key in vars(State())})


def write_log(path: Path, history: list[dict[str, float]]) -> None:
    """One CSV row an epoch; written anew from the history each time, so that no epoch is in it twice."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: f"{value:.6g}" for key, value in row.items()} for row in history)
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_text(text.getvalue(), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise CaptionerError(f"The log {path} cannot be written: {error.strerror}.") from error
