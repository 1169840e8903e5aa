"""Self-critical training learns, resumes, and refuses invalid input as documented."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from captioner.cli import main
from captioner.config import Config, SelfCriticalConfig, load_config, load_second_config, parse_settings
from captioner.datasets import load_dataset
from captioner.errors import CaptionerError
from captioner.models.caption_model import CaptionModel
from captioner.models.checkpoint import BEST, LAST, Checkpoint, load_checkpoint
from captioner.training import loop, self_critical
from captioner.training.optimiser import Optimiser
from captioner.training.sampling import sample
from captioner.training.self_critical import others_mean
from captioner.training.train import Job, train
from tests.captioner.training.test_training import sighted_weights
from tests.captioner.trees import differing

Second = Callable[..., list[str]]
STAGE = "train.stage=self-critical"


@pytest.fixture(scope="module")
def second(shapes: Path, cache: Path, trained: Path) -> Second:
    """Returns a function that trains the stage on the shapes, from `trained` or another checkpoint, or resumes it."""

    def run(output: Path, *settings: str, resumed: Checkpoint | None = None, init: Path = trained / LAST) -> list[str]:
        first = load_checkpoint(init).config
        small = ("train.epochs=2", "train.batch_size=4")
        config = resumed.config if resumed else load_second_config(parse_settings([STAGE, *small, *settings]), first)
        said: list[str] = []
        job = Job(
            load_dataset(shapes), config, output, cache, "the tests", resumed=resumed, init=None if resumed else init
        )
        train(job, said.append)
        return said

    return run


@pytest.fixture(scope="module")
def learnt(second: Second, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a finished stage; do not write to it."""
    output = tmp_path_factory.mktemp("second")
    second(output)
    return output


# --- Learning


def test_the_advantages_of_a_photos_captions_sum_to_zero():
    reward = np.random.default_rng(0).random((4, 5))
    advantage = reward - others_mean(reward)
    assert np.abs(advantage.sum(1)).max() < 1e-12
    assert advantage[0, 0] == pytest.approx(reward[0, 0] - reward[0, 1:].mean())


@pytest.fixture(scope="module")
def sighted(train_shapes: Any, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a checkpoint that captions different photos differently, but not yet correctly."""
    output = tmp_path_factory.mktemp("sighted")
    weights = sighted_weights(load_dataset(shapes).split("train"), output / "weights.pth")
    nothing = ("model.dropout=0", "model.word_dropout=0", "train.label_smoothing=0", "train.average=0.5")
    train_shapes(output, "train.epochs=14", "train.lr=0.02", f"model.encoder_weights={weights}", *nothing)
    return output / LAST


def test_the_reward_rises(second, sighted, tmp_path):
    fast = ("train.epochs=8", "train.lr=0.005", "train.average=0.5", "self_critical.samples=10")
    said = second(tmp_path, *fast, init=sighted)
    rewards = [row["reward"] for row in load_checkpoint(tmp_path / LAST).training["state"]["history"]]
    assert rewards[-1] > rewards[0] + 1
    assert any(line.startswith("before: cider ") for line in said)


PLAIN = ("train.epochs=1", "train.schedule=constant", "train.clip_norm=0")


@pytest.fixture(scope="module")
def plainly_learnt(second: Second, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a stage with a constant rate and unclipped gradients; do not write to it."""
    output = tmp_path_factory.mktemp("plain")
    second(output, *PLAIN)
    return output


@pytest.mark.parametrize(
    "setting",
    ["samples=3", "temperature=0.6", "baseline=greedy", "bleu_4=5", "length=0", "cider=3", "dropout=off", "dropout=on"],
)
def test_every_setting_changes_the_weights(second, plainly_learnt, tmp_path, setting):
    second(tmp_path, *PLAIN, f"self_critical.{setting}")
    first, other = load_checkpoint(plainly_learnt / LAST).model, load_checkpoint(tmp_path / LAST).model
    assert differing(dict(first), dict(other))


@pytest.mark.parametrize(
    ("dropout", "drawing", "learning"), [("off", False, False), ("learning", False, True), ("on", True, True)]
)
def test_dropout_is_active_where_the_setting_names_it(second, tmp_path, monkeypatch, dropout, drawing, learning):
    modes: dict[str, set[bool]] = {"drawing": set(), "learning": set()}
    teach = CaptionModel.forward

    def draw(model: CaptionModel, *arguments: Any) -> Any:
        modes["drawing"].add(model.training)
        return sample(model, *arguments)

    def learn(model: CaptionModel, *arguments: Any) -> Any:
        if torch.is_grad_enabled():  # not in validation
            modes["learning"].add(model.training)
        return teach(model, *arguments)

    monkeypatch.setattr(self_critical, "sample", draw)
    monkeypatch.setattr(CaptionModel, "forward", learn)
    second(tmp_path, "train.epochs=1", f"self_critical.dropout={dropout}")
    assert modes == {"drawing": {drawing}, "learning": {learning}}


def test_a_frozen_encoder_stays_unchanged_and_a_fine_tuned_one_learns(second, trained, learnt, tmp_path):
    def changed(run: Path) -> list[str]:
        before, after = load_checkpoint(trained / LAST).model, load_checkpoint(run / LAST).model
        return [name for name in differing(dict(before), dict(after)) if name.startswith("/encoder")]

    assert changed(learnt) == []
    second(tmp_path, "model.fine_tune=3", "train.epochs=1", "train.encoder_lr=0.01")
    assert changed(tmp_path)


# --- The stage as a training run


def test_a_stage_writes_what_training_writes_and_records_its_start(learnt, trained):
    best, last = load_checkpoint(learnt / BEST), load_checkpoint(learnt / LAST)
    assert best.config.train.stage == "self-critical"
    assert best.provenance["init"]["command"] == "the tests"
    assert len(best.provenance["init"]["checkpoint_sha256"]) == 64
    assert best.vocabulary == load_checkpoint(trained / LAST).vocabulary
    row = last.training["state"]["history"][-1]
    assert row.keys() >= {"reward", "sample_words", "sample_bad_endings", "cider", "words", "bad_endings", "dev_loss"}
    assert last.training["state"]["before"].keys() >= {"cider", "bleu_4", "words", "bad_endings"}
    header, *rows = (learnt / "train_results.csv").read_text().splitlines()
    assert header == "Epoch,Batch,Reward,Words,Bad endings"
    assert len(rows) == 2 * 5
    assert (learnt / "curves.png").is_file()


def test_a_stage_that_lowers_a_score_warns_of_it(second, tmp_path, monkeypatch):
    scores = iter([{"cider": 0.5, "bleu_4": 0.2}, {"cider": 0.6, "bleu_4": 0.1}])
    validate = self_critical.validate

    def scripted(*arguments: Any) -> Any:
        found = validate(*arguments)
        return type(found)(found.scores | next(scores, {}), found.captions)

    monkeypatch.setattr(self_critical, "validate", scripted)
    monkeypatch.setattr(loop, "validate", scripted)
    said = second(tmp_path, "train.epochs=1")
    warned = [line for line in said if line.startswith("warning:")]
    assert len(warned) == 1
    assert "bleu_4 went from 0.200 to 0.100" in warned[0]
    assert "cider" not in warned[0]


@pytest.mark.parametrize(
    "settings",
    [
        (),
        pytest.param(
            ("self_critical.dropout=on", "train.accumulate=2", "train.precision=bf16"), marks=pytest.mark.slow
        ),
    ],
)
def test_a_resumed_stage_ends_like_an_uninterrupted_one(second, tmp_path, monkeypatch, settings):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    settings = ("train.save_minutes=0", "self_critical.samples=3", *settings)
    second(whole, *settings)
    learn = loop.Trainer._learn

    def interrupted(trainer: loop.Trainer, *arguments: Any) -> bool:
        if trainer.optimiser.steps == 7:  # five per epoch
            raise KeyboardInterrupt
        return learn(trainer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "_learn", interrupted)
        with pytest.raises(KeyboardInterrupt):
            second(broken, *settings)
    torch.manual_seed(12345)
    second(broken, resumed=load_checkpoint(broken / LAST))
    for name in (BEST, LAST):
        first, other = load_checkpoint(whole / name), load_checkpoint(broken / name)
        assert differing(dict(first.model), dict(other.model)) == []
        assert differing(dict(first.metrics), dict(other.metrics)) == []
    assert differing(dict(load_checkpoint(whole / LAST).training), dict(load_checkpoint(broken / LAST).training)) == []
    for table in ("train_results.csv", "validation_results.csv"):
        assert (whole / table).read_text() == (broken / table).read_text()


def test_accumulated_parts_have_the_gradient_of_the_whole_step(second, tmp_path, monkeypatch):
    # sampling depends on the parts, so captions and baselines are fixed
    monkeypatch.setattr(self_critical, "sample", lambda *given: sample(*given[:-1], 0.0))
    monkeypatch.setattr(self_critical, "others_mean", lambda reward: reward - np.linspace(-1, 2, reward.shape[1]))
    steps: list[list[torch.Tensor]] = []
    step = Optimiser.step

    def noted(optimiser: Optimiser, rate: Any) -> bool:
        steps.append([p.grad.clone() for p in optimiser.parameters.values()])
        return step(optimiser, rate)

    monkeypatch.setattr(Optimiser, "step", noted)
    alike = ("train.epochs=1", "self_critical.dropout=off")
    second(tmp_path / "whole", *alike)
    second(tmp_path / "parts", *alike, "train.accumulate=3")
    assert len(steps) == 2 * 5
    assert any(gradient.abs().max() > 1e-3 for gradient in steps[0])
    assert all(torch.allclose(whole, parts, atol=1e-6) for whole, parts in zip(steps[0], steps[5], strict=True))


def test_cross_entropy_can_also_start_from_a_trained_model(second, trained, tmp_path, shapes, cache):
    settings = parse_settings(["train.epochs=1", "train.lr=1e-9"])
    config = load_second_config(settings, load_checkpoint(trained / LAST).config)
    assert config.train.label_smoothing == 0.1
    train(Job(load_dataset(shapes), config, tmp_path, cache, "the tests", init=trained / LAST), lambda _: None)
    before, after = load_checkpoint(trained / LAST), load_checkpoint(tmp_path / LAST)
    assert after.metrics["cider"] == pytest.approx(before.metrics["cider"], abs=1e-3)


# --- Refusals


def refusal(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["train", *arguments])
    assert result.exit_code in (1, 2)
    assert "Traceback" not in result.output
    return result.output.strip().splitlines()[-1]


def test_the_stage_needs_a_trained_model_to_start_from(shapes, cache, tmp_path):
    where = ("--data", str(shapes), "--cache", str(cache), "--output", str(tmp_path / "run"))
    assert refusal("--stage", "self-critical", *where).endswith(
        "The self-critical stage starts from a trained model; name its checkpoint with --init."
    )
    missing = tmp_path / "missing.pt"
    assert f"There is no checkpoint {missing}" in refusal("--stage", "self-critical", "--init", str(missing), *where)
    (tmp_path / "photo.pt").write_bytes(b"no checkpoint")
    assert "is not a checkpoint" in refusal("--stage", "self-critical", "--init", str(tmp_path / "photo.pt"), *where)
    assert "leave out --init" in refusal("--resume", "--init", str(missing), *where)


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("model.units=64", "model.units (64, but 32 in the checkpoint)"),
        ("model.decoder=rnetvh", "model.decoder ('rnetvh', but 'soft-attention' in the checkpoint)"),
        ("data.image_size=96", "data.image_size (96, but 48 in the checkpoint)"),
        ("data.tokenizer=bpe", "data.tokenizer ('bpe', but 'word' in the checkpoint)"),
        ("data.split_seed=1", "data.split_seed (1, but 0 in the checkpoint)"),
        ("train.label_smoothing=0.1", "The self-critical stage does not use train.label_smoothing;"),
        ("train.scheduled_sampling=0.1", "The self-critical stage does not use train.scheduled_sampling;"),
        ("self_critical.samples=1", "self_critical.samples is 1"),
        ("self_critical.cider=0 self_critical.bleu_4=0", "self_critical.cider and self_critical.bleu_4 are both 0"),
        ("self_critical.temperature=0", "temperature is 0"),
        ("self_critical.baseline=none", "self_critical.baseline is 'none'"),
    ],
)
def test_a_setting_that_contradicts_the_checkpoint_or_the_stage_is_refused(trained, tmp_path, setting, named):
    given = [part for one in setting.split() for part in ("--set", one)]
    said = refusal("--stage", "self-critical", "--init", str(trained / LAST), "--output", str(tmp_path), *given)
    assert named in said


def test_self_critical_settings_without_the_stage_are_refused(tmp_path):
    assert "self_critical has no effect unless train.stage is self-critical" in refusal(
        "--set", "self_critical.samples=3"
    )


def test_captions_outside_the_models_vocabulary_are_refused(second, own_shapes, trained, tmp_path, cache):
    captions = own_shapes / "captions.txt"
    header, *rows = captions.read_text().splitlines()
    captions.write_text("\n".join([header, *(f"{row.split(',')[0]},un cercle sur fond" for row in rows)]))
    config = load_second_config(parse_settings([STAGE]), load_checkpoint(trained / LAST).config)
    job = Job(load_dataset(own_shapes), config, tmp_path / "run", cache, "the tests", init=trained / LAST)
    with pytest.raises(
        CaptionerError, match=r"of the words in the training captions are not in the vocabulary of .*last"
    ):
        train(job, lambda _: None)


def test_captions_of_rare_words_are_not_refused(own_shapes, settings, tmp_path, cache):
    captions = own_shapes / "captions.txt"
    header, *rows = captions.read_text().splitlines()
    captions.write_text("\n".join([header, *(f"{row.split(',')[0]},a p{i} q{i} r{i}" for i, row in enumerate(rows))]))
    few = ["data.min_count=2", "train.epochs=1"]
    for name, init in (("first", None), ("second", tmp_path / "first" / LAST)):
        if init is None:
            config = load_config(parse_settings([*settings, *few]))
        else:
            config = load_second_config(parse_settings(few[1:]), load_checkpoint(init).config)
        said: list[str] = []
        train(Job(load_dataset(own_shapes), config, tmp_path / name, cache, "the tests", init=init), said.append)
        assert any("75.0% of the pieces in training captions are unknown" in line for line in said)


def test_a_resumed_stage_refuses_other_settings(learnt, shapes, cache, tmp_path):
    run = shutil.copytree(learnt, tmp_path / "run")
    where = ("--resume", "--data", str(shapes), "--cache", str(cache), "--output", str(run))
    assert "leave out train.stage" in refusal(*where, "--stage", "cross-entropy", "--set", "train.label_smoothing=0")
    assert "leave out self_critical.samples" in refusal(*where, "--set", "self_critical.samples=9")


def test_a_checkpoint_older_than_the_stage_loads_with_its_defaults(trained, tmp_path):
    content = torch.load(trained / LAST, weights_only=True)
    del content["config"]["self_critical"], content["config"]["train"]["stage"]
    torch.save(content, tmp_path / "older.pt")
    config = load_checkpoint(tmp_path / "older.pt").config
    assert config == load_checkpoint(trained / LAST).config
    assert config.self_critical == SelfCriticalConfig()
    assert config.train.stage == "cross-entropy"
    assert Config().self_critical.bad_endings[:3] == ("a", "an", "the")
