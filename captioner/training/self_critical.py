"""The self-critical stage: it draws captions from the model and raises the probability of those with high rewards.

Rennie et al., "Self-critical Sequence Training for Image Captioning" (2017), equation 7, with the mean of a photo's
other samples as the baseline (Luo, "A Better Variant of Self-Critical Sequence Training", 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from caprun.arrays import Float64Array
from captioner.evaluation.rewards import CaptionRewards
from captioner.models.caption_model import CaptionModel
from captioner.models.decoder import Teacher
from captioner.training.inputs.batches import Batch, Step
from captioner.training.loop import Task, Trainer, TrainingState, goodness
from captioner.training.processes import Processes
from captioner.training.sampling import Drawn, drawable, sample
from captioner.training.validation import validate

_GUARDED = {"cider": 1, "bleu_4": 1, "bad_endings": -1}
"""Dev scores that the stage should not make worse; 1 if higher is better, -1 if lower is."""


class SelfCriticalTrainer(Trainer):
    """Trains a model that can already caption.

    Args:
        model, task, processes, say: see `Trainer`.
        rewards: scores captions of the training split.
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

    def run(self) -> TrainingState:
        """Scores the initial model, trains as `Trainer.run` does, and warns about scores that got worse.

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
            self.say(f"warning: the best epoch is worse on dev than the initial model: {', '.join(worse)}")
        return state

    def _backward(self, step: Step) -> list[float]:
        settings, device = self.settings, self.processes.device
        captions = step.photos * settings.samples
        sums = np.zeros(4)
        for number, batch in enumerate(step.batches, 1):
            seen = batch.seen.to(device)
            if not self.model.encoder.tuned:
                with torch.no_grad():
                    seen = self.model.features(seen)
            drawn, reward, baseline, bad_endings = self._explore(seen, batch)
            advantage = torch.from_numpy(reward - baseline).to(device, torch.float32)
            self.model.train(settings.dropout != "off")
            with self.processes.gathering(self.shared_model, number == len(step.batches)):
                with self.optimiser.autocast():
                    teacher = self.shared_model(seen, drawn.tokens)
                unsaid = drawable(self.model)
                loss = self_critical_loss(teacher, unsaid, advantage, settings.temperature, captions)
                # DistributedDataParallel averages over processes
                self.optimiser.backward(loss * self.processes.count)
            sums += [loss.item(), reward.sum(), int(drawn.lengths.sum() - drawn.ended.sum()), bad_endings]
        found: list[float] = sums.tolist()
        return found

    def _explore(self, seen: Tensor, batch: Batch) -> tuple[Drawn, Float64Array, Float64Array, int]:
        """Draws captions of photos.

        Returns:
            The captions, their rewards and baselines, both (photos, samples), and the number of bad endings.
        """
        settings, most = self.settings, self.task.config.search.max_length
        greedy = None
        with torch.no_grad(), self.optimiser.autocast():
            self.model.train(settings.dropout == "on")
            features = self.model.features(seen)
            drawn = sample(self.model, self.model.start(features), settings.samples, most, settings.temperature)
            if settings.baseline == "greedy":
                self.model.eval()
                greedy = sample(self.model, self.model.start(features), 1, most, 0.0)
        reward, bad_endings = self._worth(drawn, batch.photos)
        others = others_mean(reward) if greedy is None else self._worth(greedy, batch.photos)[0]
        return drawn, reward, others, bad_endings

    def _worth(self, drawn: Drawn, photos: npt.NDArray[np.int64]) -> tuple[Float64Array, int]:
        """Returns the reward of each caption, (photos, samples), and the number of bad endings."""
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
        return worth.reshape(-1, samples), int(found.ends_badly.sum())

    def _note_step(self, step: Step, found: Sequence[float]) -> tuple[float, ...]:
        state, (reward, words, bad_endings) = self.state, found
        captions = step.photos * self.settings.samples
        state.captions, state.words = state.captions + captions, state.words + round(words)
        state.reward, state.bad_endings = state.reward + reward, state.bad_endings + bad_endings
        return reward / captions, words / captions, bad_endings / captions

    def _captions_an_epoch(self) -> int:
        return self.task.batches.showings * self.settings.samples

    def _learnt(self) -> dict[str, float]:
        state = self.state
        return {
            "reward": state.reward / state.captions,
            "sample_words": state.words / state.captions,
            "sample_bad_endings": state.bad_endings / state.captions,
        }


def others_mean(reward: Float64Array) -> Float64Array:
    """Returns for each sample the mean reward of the photo's other samples.

    Args:
        reward: float64 (photos, samples), with at least two samples.
    """
    others: Float64Array = (reward.sum(1, keepdims=True) - reward) / (reward.shape[1] - 1)
    return others


def self_critical_loss(
    teacher: Teacher, unsaid: Tensor, advantage: Tensor, temperature: float, captions: int
) -> Tensor:
    """Computes a loss with the gradient of the negated expected reward.

    See Williams (1992) and equation 7 in Rennie et al. (2017).

    Args:
        teacher: the model's predictions for the drawn captions.
        unsaid: (vocabulary,), -inf for pieces that are never drawn.
        advantage: (photos, samples), reward minus baseline.
        temperature: the temperature of the draws.
        captions: number of captions in the complete step, over all processes and parts; the sum is divided by it.

    Returns:
        A scalar whose value has no meaning; its gradient is unbiased if the captions were drawn from this model.
    """
    log_prob = functional.log_softmax((teacher.logits.float() + unsaid) / temperature, dim=1)
    said = log_prob.gather(1, teacher.targets[:, None]).squeeze(1)
    return -(advantage.flatten()[teacher.caption] * said).sum() / captions
