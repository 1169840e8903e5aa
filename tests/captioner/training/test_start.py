"""A training starts from a checkpoint: with its encoder and a new decoder, or with its whole model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

import caprun_weights
from captioner.cli import main
from captioner.models.checkpoint import BEST, LAST, Checkpoint, load_checkpoint, save_checkpoint
from tests.captioner.commands.test_cli import assert_one_line

Run = Callable[..., Result]


@pytest.fixture
def foreign(own_shapes: Path) -> Path:
    """The shapes with captions in another script."""
    captions = own_shapes / "captions.txt"
    header, *rows = captions.read_text().splitlines()
    words = {"red": "красный", "green": "зелёный", "blue": "синий", "orange": "рыжий"}
    captions.write_text("\n".join([header, *(f"{row.split(',')[0]},{words[row.split('-')[0]]} круг" for row in rows)]))
    return own_shapes


@pytest.fixture(scope="module")
def tuned(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose encoder is not the one that its name begins with."""
    first = load_checkpoint(trained / LAST)
    moved = {name: value + 0.01 if name.endswith("conv_pw.weight") else value for name, value in first.model.items()}
    file = tmp_path_factory.mktemp("tuned") / "tuned.pt"
    save_checkpoint(file, replace(first, model=moved, training=None))
    return file


@pytest.fixture
def train(tmp_path: Path) -> Run:
    """Run `captioner train` into `run`, with features of its own."""
    where = ["--output", str(tmp_path / "run"), "--cache", str(tmp_path / "cache"), "--device", "cpu"]
    return lambda *arguments: CliRunner().invoke(main, ["train", *map(str, arguments), *where])


def encoder_of(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return {name: value for name, value in checkpoint.model.items() if name.startswith("encoder.")}


def test_a_new_vocabulary_keeps_the_encoder_and_nothing_else(train, foreign, tuned, tmp_path):
    small = ("data.min_count=1", "train.epochs=1", "model.units=24", "model.projection=32", "model.embedding=16")
    settings = [part for setting in small for part in ("--set", setting)]
    result = train("--init", tuned, "--new-vocabulary", "--data", foreign, "--tokenizer", "bpe", *settings)
    assert result.exit_code == 0, result.output
    first, made = load_checkpoint(tuned), load_checkpoint(tmp_path / "run" / BEST)
    before, after = encoder_of(first), encoder_of(made)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not {"circle", "▁circle"} & set(made.vocabulary.pieces)
    assert "▁круг" in made.vocabulary.pieces
    assert (made.config.model.units, made.config.data.image_size) == (24, first.config.data.image_size)
    assert made.config.model.encoder == first.config.model.encoder
    assert (made.config.data.max_length, made.config.model.word_dropout) == (30, 0.0)  # as in a new training
    assert made.provenance["init"]["kept"] == "encoder"


def test_captions_without_a_known_word_are_told_of_the_new_vocabulary(train, foreign, tuned):
    captions = foreign / "captions.txt"
    captions.write_text(captions.read_text().rpartition("рыжий")[0] + "orange circle")
    result = train("--init", tuned, "--data", foreign)
    assert_last_line(
        result, "captions are Cyrillic, and the vocabulary of", "is Latin; keep only its encoder with --new-"
    )
    counted = "Cyrillic 33 captions, Latin 1 caption"
    assert f"warning: the training captions are in several scripts: {counted}" in result.output


def assert_last_line(result: Result, *words: str) -> None:
    assert result.exit_code == 1
    line = result.stderr.splitlines()[-1]
    assert line.startswith("Error: ")
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--new-vocabulary", "--new-vocabulary keeps the encoder of a trained model; name its checkpoint with --init."),
        ("--resume --new-vocabulary", "leave out --new-vocabulary"),
        ("--init INIT --new-vocabulary --stage self-critical", "the self-critical stage needs a trained decoder"),
        ("--init INIT --new-vocabulary --set data.image_size=96", "data.image_size (96, and 48 in the checkpoint)"),
        ("--init INIT --new-vocabulary --encoder resnet18", "model.encoder ('resnet18', and "),
    ],
)
def test_what_a_new_vocabulary_cannot_go_with_is_one_line(train, tuned, options, words):
    assert_one_line(train(*options.replace("INIT", str(tuned)).split()), 1, words)


# --- The packaged model's checkpoint


def test_packaged_is_the_checkpoint_in_the_repository(tuned, tmp_path, monkeypatch):
    weights = tmp_path / "weights"
    monkeypatch.setattr(caprun_weights, "default_bundle", lambda: weights / "caprun_weights" / "some")
    (weights / "checkpoints").mkdir(parents=True)
    shutil.copy(tuned, weights / "checkpoints" / f"{caprun_weights.DEFAULT}.pt")
    assert load_checkpoint(Path("packaged")).config == load_checkpoint(tuned).config


def test_packaged_is_found_in_the_clone_that_the_command_runs_in(tuned, tmp_path, monkeypatch):
    monkeypatch.setattr(caprun_weights, "default_bundle", lambda: tmp_path / "site-packages/caprun_weights/some")
    monkeypatch.chdir(tmp_path)
    Path("weights/checkpoints").mkdir(parents=True)
    shutil.copy(tuned, f"weights/checkpoints/{caprun_weights.DEFAULT}.pt")
    assert load_checkpoint(Path("packaged")).config == load_checkpoint(tuned).config


def test_packaged_is_missed_in_one_sentence(train, tmp_path, monkeypatch):
    monkeypatch.setattr(caprun_weights, "default_bundle", lambda: tmp_path / "site-packages/caprun_weights/some")
    monkeypatch.chdir(tmp_path)
    missed = f"weights/checkpoints/{caprun_weights.DEFAULT}.pt, is in captioner's repository and not installed with it"
    assert_one_line(train("--init", "packaged"), 1, missed)
