"""The self-critical stage: captions are drawn from the model, and those worth more than its others become likelier.

Rennie et al., "Self-critical Sequence Training for Image Captioning" (2017), equation 7, with the mean of a photo's
other samples as the baseline (Luo, "A Better Variant of Self-Critical Sequence Training", 2020).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from caprun.arrays import Float64Array
from caprun.bundle.vocabulary import Vocabulary
from captioner.config.self_critical import SelfCriticalConfig
from captioner.evaluation.rewards import CaptionRewards
from captioner.models.caption_model import CaptionModel
from captioner.models.decoder import Teacher
from captioner.training.batches import Batch, Step
from captioner.training.loop import State, Task, Trainer, goodness
from captioner.training.processes import Processes
from captioner.training.sampling import Drawn, sample
from captioner.training.validation import validate

_GUARDED = {"cider": 1, "bleu_4": 1, "bad_endings": -1}
"""What the stage must not make worse: dev scores, and 1 where more is better."""


class Stopwatch:
    """Adds up how long each part of a step takes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Count what happens within as this part's."""
        began = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - began

    def shares(self) -> str:
        """Such as `drawing 40%, scoring 1%, learning 59%`."""
        total = sum(self.seconds.values()) or 1.0
        return ", ".join(f"{part} {taken / total:.0%}" for part, taken in self.seconds.items())


class SelfCriticalTrainer(Trainer):
    """Trains a model that can caption already.

    Args:
        model, task, processes, say: see `Trainer`.
        rewards: of captions of the training split.
    """

    told: tuple[str, ...] = ("reward", "cider", "bleu_4", "words", "bad_endings")

    def __init__(
        self,
        model: CaptionModel,
        task: Task,
        processes: Processes,
        say: Callable[[str], None],
        rewards: CaptionRewards,
    ) -> None:
        super().__init__(model, task, processes, say)
        self.settings = task.config.self_critical
        self._rewards = rewards
        self._bad_endings = bad_ending_ids(task.checkpoint.vocabulary, self.settings)
        self.watch = Stopwatch()

    def run(self) -> State:
        """See `Trainer.run`; first the model that the stage begins with is scored, to be compared with at the end.

        Raises:
            CaptionerError, KeyboardInterrupt: see `Trainer.run`.
        """
        if not self.state.before:
            self.model.eval()
            self.state.before = validate(self.model, self.task.validation, self.processes).scores
        shown = "  ".join(f"{name} {self.state.before[name]:.3f}" for name in self.told[1:])
        self.say(f"before: {shown}")
        state = super().run()
        by = self.train_config.select_by
        best = max(state.history, key=lambda row: (goodness(by, row[by]), row["epoch"]))
        worse = [
            f"{name} went from {before:.3f} to {best[name]:.3f}"
            for name, sign in _GUARDED.items()
            if sign * round(best[name] - (before := state.before[name]), 3) < 0
        ]
        if worse:
            self.say(f"warning: on dev the best epoch is worse than the model this began with: {', '.join(worse)}")
        return state

    def _backward(self, step: Step) -> list[float]:
        settings, device = self.settings, self.processes.device
        captions = step.photos * settings.samples
        sums = np.zeros(4)
        for number, batch in enumerate(step.batches, 1):
            seen = batch.seen.to(device)
            if not self.model.encoder.tuned:
                with torch.no_grad(), self.watch.measure("drawing"):
                    seen = self.model.features(seen)
            drawn, reward, baseline = self._explore(seen, batch)
            with self.watch.measure("learning"):
                advantage = torch.from_numpy(reward - baseline).to(device, torch.float32)
                self.model.train(settings.dropout != "off")
                with self.processes.gathering(self.shared_model, number == len(step.batches)):
                    with self.optimiser.autocast():
                        teacher = self.shared_model(seen, drawn.tokens)
                    loss = self_critical_loss(teacher, self.model.unsaid, advantage, settings.temperature, captions)
                    # DistributedDataParallel takes the mean over processes
                    self.optimiser.backward(loss * self.processes.count)
                loss_now = loss.item()
            sums += [loss_now, reward.sum(), int(drawn.lengths.sum() - drawn.ended.sum()), self._ending_badly(drawn)]
        found: list[float] = sums.tolist()
        return found

    def _explore(self, seen: Tensor, batch: Batch) -> tuple[Drawn, Float64Array, Float64Array]:
        """Draw captions of some photos; what they are worth and what they are compared with, (photos, samples)."""
        settings, most = self.settings, self.task.config.search.max_length
        greedy = None
        with torch.no_grad(), self.watch.measure("drawing"), self.optimiser.autocast():
            self.model.train(settings.dropout == "on")
            features = self.model.features(seen)
            drawn = sample(self.model, self.model.start(features), settings.samples, most, settings.temperature)
            if settings.baseline == "greedy":
                self.model.eval()
                greedy = sample(self.model, self.model.start(features), 1, most, 0.0)
        with self.watch.measure("scoring"):
            reward = self._worth(drawn, batch.photos)
            others = others_mean(reward) if greedy is None else self._worth(greedy, batch.photos)
        return drawn, reward, others

    def _worth(self, drawn: Drawn, photos: npt.NDArray[np.int64]) -> Float64Array:
        ended = drawn.ended.flatten().cpu().numpy()
        lengths = (drawn.lengths - drawn.ended.long()).flatten().tolist()
        tokens = drawn.tokens.flatten(0, 1).tolist()
        captions = [said[1 : 1 + length] for said, length in zip(tokens, lengths, strict=True)]
        samples = drawn.tokens.shape[1]
        found = self._rewards.score(np.repeat(photos, samples), captions, ended)
        settings = self.settings
        worth: Float64Array = (
            settings.cider * found.cider + settings.bleu_4 * found.bleu_4 - settings.length * found.longer**2
        )
        return worth.reshape(-1, samples)

    def _ending_badly(self, drawn: Drawn) -> int:
        words = drawn.lengths - drawn.ended.long()  # START is before the first, and no bad ending
        last = drawn.tokens.gather(2, words.unsqueeze(2)).squeeze(2)
        return int(torch.isin(last, self._bad_endings.to(last.device)).sum())

    def _note_step(self, step: Step, found: Sequence[float]) -> tuple[float, ...]:
        state, (reward, words, bad_endings) = self.state, found
        captions = step.photos * self.settings.samples
        state.captions, state.words = state.captions + captions, state.words + round(words)
        state.reward, state.bad_endings = state.reward + reward, state.bad_endings + bad_endings
        return reward / captions, words / captions, bad_endings / captions

    def _captions_an_epoch(self) -> int:
        return self.task.batches.showings * self.settings.samples

    def _shown(self) -> str:
        found = self._learnt()
        return (
            f"reward {found['reward']:.3f}, {found['sample_words']:.1f} words, "
            f"{found['sample_bad_endings']:.1%} end badly; {self.watch.shares()}"
        )

    def _learnt(self) -> dict[str, float]:
        state = self.state
        return {
            "reward": state.reward / state.captions,
            "sample_words": state.words / state.captions,
            "sample_bad_endings": state.bad_endings / state.captions,
        }


def others_mean(reward: Float64Array) -> Float64Array:
    """Of each of a photo's samples, the mean reward of its others; (photos, samples), two samples at least."""
    others: Float64Array = (reward.sum(1, keepdims=True) - reward) / (reward.shape[1] - 1)
    return others


def self_critical_loss(
    teacher: Teacher, unsaid: Tensor, advantage: Tensor, temperature: float, captions: int
) -> Tensor:
    """What has the gradient of the expected reward, negated (Williams, 1992; Rennie et al., 2017, equation 7).

    Args:
        teacher: what the model says to the captions that were drawn.
        unsaid: (vocabulary,), -inf for what is never drawn.
        advantage: (photos, samples), reward minus baseline.
        temperature: at which they were drawn.
        captions: in the whole step, over all processes and accumulated parts: what the sum over captions is divided by.

    Returns:
        A scalar; its value says nothing, its gradient is unbiased if the captions were drawn from this very model.
    """
    log_prob = functional.log_softmax((teacher.logits.float() + unsaid) / temperature, dim=1)
    said = log_prob.gather(1, teacher.targets[:, None]).squeeze(1)
    return -(advantage.flatten()[teacher.caption] * said).sum() / captions


def bad_ending_ids(vocabulary: Vocabulary, settings: SelfCriticalConfig) -> Tensor:
    """Ids of the pieces that are a whole word no caption should end with, int64."""
    bad = {vocabulary.joining.word_start + word for word in settings.bad_endings}
    return torch.tensor([index for index, piece in enumerate(vocabulary.pieces) if piece in bad], dtype=torch.int64)
