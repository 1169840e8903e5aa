"""Training stops early, lowers its learning rate, keeps the best epoch and clips gradients."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from captioner.config import SELF_CRITICAL, Stage
from captioner.errors import CaptionerError
from captioner.models.caption_model import CaptionModel
from captioner.models.checkpoint import BEST, LAST, load_checkpoint
from captioner.training import loop
from captioner.training.optimiser import Optimiser
from captioner.training.schedule import Rate
from captioner.training.validation import Validated, validate
from tests.captioner.conftest import Train
from tests.captioner.trees import differing


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns a function that makes validation return the given scores, one per epoch."""

    def tell(**series: Sequence[float]) -> None:
        rows: Iterator[dict[str, float]] = iter(
            [dict(zip(series, values, strict=True)) for values in zip(*series.values(), strict=True)]
        )

        def scripted(*arguments: Any) -> Validated:
            found = validate(*arguments)
            return Validated(found.scores | next(rows), found.captions)

        monkeypatch.setattr(loop, "validate", scripted)

    return tell


def state_of(output: Path) -> dict[str, Any]:
    return load_checkpoint(output / LAST).training["state"]


def test_training_stops_after_early_stop_epochs_without_improvement(train_shapes: Train, told, tmp_path):
    told(cider=[0.3, 0.5, 0.5, 0.4, 0.9])
    said = train_shapes(tmp_path, "train.epochs=5", "train.early_stop=2")
    assert state_of(tmp_path)["epoch"] == 4
    assert "stopped early: cider did not improve in 2 epochs" in said
    assert load_checkpoint(tmp_path / BEST).metrics["epoch"] == 3  # the later of two equal epochs


def test_a_run_that_stopped_early_resumes_with_more_patience(train_shapes: Train, told, tmp_path):
    told(cider=[0.5, 0.4, 0.9])
    train_shapes(tmp_path, "train.early_stop=1")
    stopped = load_checkpoint(tmp_path / LAST)
    assert stopped.training["state"]["epoch"] == 2
    train_shapes(tmp_path, resumed=stopped)
    assert state_of(tmp_path)["epoch"] == 2
    patient = stopped.config.__class__(
        stopped.config.data,
        stopped.config.model,
        type(stopped.config.train)(**{**vars(stopped.config.train), "early_stop": 2}),
        stopped.config.search,
    )
    train_shapes(tmp_path, resumed=type(stopped)(**{**vars(stopped), "config": patient}))
    assert state_of(tmp_path)["epoch"] == 3


def test_the_best_epoch_is_selected_by_the_configured_score(train_shapes: Train, told, tmp_path):
    told(cider=[0.3, 0.5, 0.4], bleu_4=[0.2, 0.1, 0.15])
    said = train_shapes(tmp_path, "train.select_by=bleu_4")
    assert load_checkpoint(tmp_path / BEST).metrics["epoch"] == 1
    assert any(line.startswith("best (bleu_4 0.200)") for line in said)


@pytest.mark.parametrize(
    ("watched", "series"),
    [("cider", {"cider": [0.5, 0.4, 0.4, 0.6, 0.1]}), ("dev_loss", {"dev_loss": [2.0, 2.1, 2.0, 1.9, 3.0]})],
)
def test_a_plateau_lowers_the_rate_and_an_improvement_keeps_it(train_shapes: Train, told, tmp_path, watched, series):
    told(**series)
    schedule = ("train.schedule=plateau", f"train.plateau_on={watched}", "train.plateau_patience=1")
    train_shapes(tmp_path, "train.epochs=5", "train.plateau_factor=0.1", "train.warm_up=0", *schedule)
    rates = [row["lr"] for row in state_of(tmp_path)["history"]]
    assert rates == pytest.approx([0.01, 0.01, 0.01, 0.001, 0.001])


def test_keep_epochs_keeps_a_checkpoint_of_every_epoch(train_shapes: Train, tmp_path):
    train_shapes(tmp_path, "train.epochs=2", "train.keep_epochs=true")
    kept = [load_checkpoint(tmp_path / f"epoch-{number:03d}.pt") for number in (1, 2)]
    assert [checkpoint.metrics["epoch"] for checkpoint in kept] == [1, 2]
    assert differing(dict(kept[0].model), dict(kept[1].model))


@pytest.mark.parametrize(
    "setting",
    [
        "train.optimizer=adam",
        "train.schedule=cosine",
        "train.clip_value=0.001",
        "train.clip_norm=0.01",
        "train.scheduled_sampling=1",
        "model.decoder=rnetvi",
        "data.augment=true",
        "model.fine_tune=3",
        "model.regions=1",
    ],
)
def test_every_setting_changes_the_weights_and_learns(train_shapes: Train, trained: Path, tmp_path, setting):
    rnetvi = ("model.projection=16",) if "rnetvi" in setting else ()
    train_shapes(tmp_path, setting, *rnetvi)
    first, second = load_checkpoint(trained / LAST).model, load_checkpoint(tmp_path / LAST).model
    assert not torch.equal(first["decoder.embedding.weight"], second["decoder.embedding.weight"])
    losses = [row["train_loss"] for row in state_of(tmp_path)["history"]]
    assert losses[-1] < losses[0]


def test_the_only_epoch_has_the_whole_share_of_scheduled_sampling(train_shapes: Train, tmp_path, monkeypatch):
    shares: list[float] = []
    forward = CaptionModel.forward

    def recorded(self, seen, tokens, sampling=0.0):
        shares.append(sampling)
        return forward(self, seen, tokens, sampling)

    monkeypatch.setattr(CaptionModel, "forward", recorded)
    train_shapes(tmp_path, "train.epochs=1", "train.scheduled_sampling=0.5")
    assert 0.5 in shares


def test_accumulated_parts_have_the_losses_of_the_whole_step(train_shapes: Train, tmp_path):
    alike = ("model.dropout=0", "model.word_dropout=0", "train.epochs=1")
    train_shapes(tmp_path / "whole", *alike)
    train_shapes(tmp_path / "parts", *alike, "train.accumulate=3")
    whole, parts = (state_of(tmp_path / name)["history"][0] for name in ("whole", "parts"))
    assert parts["train_loss"] == pytest.approx(whole["train_loss"], rel=1e-4)
    assert parts["dev_loss"] == pytest.approx(whole["dev_loss"], rel=1e-3)


@pytest.mark.parametrize(("first", "kept"), [(3, False), (4, True)])
def test_an_encoder_learns_from_the_fine_tuned_stage_on_at_its_own_rate(
    train_shapes: Train, trained: Path, tmp_path, first: int, kept: bool
):
    said = train_shapes(tmp_path, f"model.fine_tune={first}", "train.epochs=1")
    # the frozen part's output is cached if it is no larger than the photo
    assert any(line.startswith("features:") and "columns" in line for line in said) == kept
    before, after = load_checkpoint(trained / LAST).model, load_checkpoint(tmp_path / LAST).model
    changed = differing(*({k: v for k, v in m.items() if k.startswith("encoder.")} for m in (before, after)))
    assert changed
    assert len(changed) < sum(key.startswith("encoder.") for key in after)
    assert not any("running_" in name for name in changed)  # the statistics of batch norms are frozen
    rates = [group["lr"] for group in load_checkpoint(tmp_path / LAST).training["optimiser"]["adam"]["param_groups"]]
    assert rates[1] == pytest.approx(rates[0] * 1e-4 / 0.01)


def test_fp16_on_a_cpu_is_refused_in_one_line(train_shapes: Train, tmp_path):
    with pytest.raises(CaptionerError, match=r"^train\.precision=fp16 needs a GPU; on a CPU choose bf16 or fp32\.$"):
        train_shapes(tmp_path, "train.precision=fp16")


def test_a_cpu_without_bf16_trains_in_fp32_and_reports_it(train_shapes: Train, trained: Path, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    said = train_shapes(tmp_path, "train.precision=bf16")
    assert any(line.startswith("train.precision=bf16 would be slow on this CPU") for line in said)
    assert not differing(load_checkpoint(tmp_path / LAST).model, load_checkpoint(trained / LAST).model)


def test_the_averaged_model_shares_all_but_the_trained_weights(checkpoint):
    from captioner.models.checkpoint import build_model

    model = build_model(checkpoint)
    optimiser = Optimiser(model, checkpoint.config.train, 1)
    own = {name: value.data_ptr() for name, value in [*model.named_parameters(), *model.named_buffers()]}
    averaged = optimiser.averaged
    for name, value in [*averaged.named_parameters(), *averaged.named_buffers()]:
        assert (value.data_ptr() == own[name]) == (name not in optimiser.parameters), name


@pytest.mark.parametrize(
    ("stage", "steps", "share"),
    [("cross-entropy", 1, 2 / 11), ("self-critical", 1, 1 / 3), ("self-critical", 10**6, 0.9)],
)
def test_only_a_self_critical_average_keeps_a_share_of_the_initial_model(checkpoint, stage: Stage, steps, share):
    from captioner.models.checkpoint import build_model

    optimiser = Optimiser(build_model(checkpoint), replace(SELF_CRITICAL, stage=stage, average=0.9), steps)
    before = {name: p.detach().clone() for name, p in optimiser.parameters.items()}
    for parameter in optimiser.parameters.values():
        parameter.grad = torch.ones_like(parameter)
    assert optimiser.step(Rate(1.0, None))
    averaged = dict(optimiser.averaged.named_parameters())
    for name, parameter in optimiser.parameters.items():
        torch.testing.assert_close(averaged[name], share * before[name] + (1 - share) * parameter)


def test_a_gradient_that_is_not_finite_stops_training_with_finite_weights(train_shapes, tmp_path, monkeypatch):
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, loss: torch.Tensor) -> torch.Tensor:
            return loss.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * torch.inf

    taken: list[Optimiser] = []
    backward, step = Optimiser.backward, Optimiser.step
    monkeypatch.setattr(Optimiser, "backward", lambda self, loss: backward(self, Broken.apply(loss)))
    monkeypatch.setattr(Optimiser, "step", lambda self, rate: (taken.append(self), step(self, rate))[1])
    with pytest.raises(CaptionerError, match=r"^The loss or its gradient is NaN or infinite at step 0; lower --lr\."):
        train_shapes(tmp_path)
    assert all(torch.isfinite(p).all() for p in taken[0].parameters.values())


def test_a_checkpoint_saved_within_an_epoch_has_no_scores(train_shapes: Train, tmp_path, monkeypatch):
    learn = loop.Trainer._learn
    monkeypatch.setattr(loop.Trainer, "_learn", lambda *given: learn(*given) or given[0].optimiser.steps == 7)
    with pytest.raises(KeyboardInterrupt):
        train_shapes(tmp_path)
    last = load_checkpoint(tmp_path / LAST)
    assert (last.training["state"]["epoch"], last.training["state"]["batch"]) == (1, 2)
    assert last.metrics == {}


def test_resuming_needs_best_pt_and_warns_of_a_changed_thread_count(train_shapes: Train, trained: Path, tmp_path):
    last = load_checkpoint(trained / LAST)
    begun = {**last.provenance, "command": "captioner train --lr 1", "threads": 7}
    resumed = type(last)(**{**vars(last), "provenance": begun})
    with pytest.raises(CaptionerError, match=r"best\.pt is missing; put it back next to last\.pt"):
        train_shapes(tmp_path, resumed=resumed)
    shutil.copy(trained / BEST, tmp_path)
    (tmp_path / ".last.pt-1234").write_text("half of a checkpoint")
    said = train_shapes(tmp_path, resumed=resumed)
    assert any(line.startswith("warning: training began with 7 threads and continues with 1") for line in said)
    assert not (tmp_path / ".last.pt-1234").exists()
    told = [line for line in said if line.startswith("resumed:")]
    assert told == ["resumed: 3 of 3 epochs and 0 steps of the next are done"]


@pytest.mark.parametrize(
    ("ciders", "losses", "warned"),
    [
        ([0, 0.0001], [3, 2], True),
        ([0.2, 0, 0.0004], [3, 2, 1], True),
        ([0, 0], [3, 3], False),
        ([0, 0.0006], [3, 2], False),
        ([0], [3], False),
        ([0, 0, 0], [3, 2, 1], False),  # warned before
    ],
)
def test_scores_of_zero_for_two_epochs_with_a_falling_loss_warn_once(ciders, losses, warned):
    rows = [{"cider": cider, "bleu_4": 0, "dev_loss": loss} for cider, loss in zip(ciders, losses, strict=True)]
    assert loop.without_meaning(rows) is warned


def test_training_warns_that_scores_of_zero_mean_nothing(train_shapes: Train, told, tmp_path):
    told(cider=[0.0, 0.0, 0.0], bleu_4=[0.0, 0.0, 0.0], dev_loss=[3.0, 2.0, 1.0])
    said = train_shapes(tmp_path, "train.epochs=3")
    [warning] = [line for line in said if line.startswith("warning: CIDEr and BLEU-4 were 0")]
    assert said.index(warning) == 1 + next(i for i, line in enumerate(said) if line.startswith("epoch 2/3"))
