"""Training starts from a checkpoint: with its encoder and a new decoder, or with its whole model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import caprun_weights
from caprun.bundle.reading import read_bundle
from caprun.photos.preprocessing import load
from captioner.backends.loading import load_captioner
from captioner.cli import main
from captioner.datasets import load_dataset
from captioner.models.checkpoint import (
    BEST,
    LAST,
    Checkpoint,
    build_model,
    image_spec,
    load_checkpoint,
    save_checkpoint,
)
from captioner.models.decoder import pad_captions
from captioner.text.build import restore_tokenizer
from captioner.text.tokenizer import SPECIAL
from captioner.training.growth import grown_model
from tests.captioner.commands.test_cli import assert_one_line

Run = Callable[..., Result]


@pytest.fixture
def foreign(own_shapes: Path) -> Path:
    """Returns the shapes with captions in another script."""
    captions = own_shapes / "captions.txt"
    header, *rows = captions.read_text().splitlines()
    words = {"red": "красный", "green": "зелёный", "blue": "синий", "orange": "рыжий"}
    captions.write_text("\n".join([header, *(f"{row.split(',')[0]},{words[row.split('-')[0]]} круг" for row in rows)]))
    return own_shapes


@pytest.fixture(scope="module")
def tuned(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a checkpoint with an encoder that differs from the weights that its name stands for."""
    first = load_checkpoint(trained / LAST)
    moved = {name: value + 0.01 if name.endswith("conv_pw.weight") else value for name, value in first.model.items()}
    file = tmp_path_factory.mktemp("tuned") / "tuned.pt"
    save_checkpoint(file, replace(first, model=moved, training=None))
    return file


@pytest.fixture
def train(tmp_path: Path) -> Run:
    """Returns a function that runs `captioner train` with the output `run` and its own feature cache."""
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
    assert (made.config.data.max_length, made.config.model.word_dropout) == (30, 0.0)  # as in a new run
    assert made.provenance["init"]["kept"] == "encoder"


def test_captions_in_another_script_are_refused_naming_new_vocabulary(train, foreign, tuned):
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
        ("--init INIT --new-vocabulary --set data.image_size=96", "data.image_size (96, but 48 in the checkpoint)"),
        ("--init INIT --new-vocabulary --encoder resnet18", "model.encoder ('resnet18', but "),
    ],
)
def test_options_that_contradict_new_vocabulary_are_refused_in_one_line(train, tuned, options, words):
    assert_one_line(train(*options.replace("INIT", str(tuned)).split()), 1, words)


# --- New words


@pytest.fixture(scope="module")
def discs(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the shapes with circles called discs; do not write to the folder."""
    folder = shutil.copytree(shapes, tmp_path_factory.mktemp("discs") / "discs")
    captions = folder / "captions.txt"
    captions.write_text(captions.read_text().replace(" circle", " disc"))
    return folder


@pytest.fixture(scope="module")
def grown(discs: Path, trained: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a run on the discs, started from a model that knows circles; do not write to it."""
    output = tmp_path_factory.mktemp("grown") / "run"
    nothing = ("model.dropout=0", "model.word_dropout=0", "train.label_smoothing=0", "train.average=0")
    settings = ["--batch-size", "4", "--lr", "0.02", "--epochs", "20", *(w for one in nothing for w in ("--set", one))]
    where = ["--data", str(discs), "--output", str(output), "--cache", str(cache), "--device", "cpu"]
    result = CliRunner().invoke(main, ["train", "--init", str(trained / LAST), *where, *settings])
    assert result.exit_code == 0, result.output
    assert "new words (1): disc\n" in result.stderr
    return output


def test_new_words_are_learnt(grown, trained, discs):
    old, new = load_checkpoint(trained / LAST).vocabulary.pieces, load_checkpoint(grown / BEST).vocabulary.pieces
    assert new == (*old, "disc")
    last = load_checkpoint(grown / LAST)
    untrained = grown_model(load_checkpoint(trained / LAST), last.vocabulary)
    before, after = (log_prob_of_disc(checkpoint, discs) for checkpoint in (untrained, last))
    assert after > before + 1


@torch.inference_mode()
def log_prob_of_disc(checkpoint: Checkpoint, discs: Path) -> float:
    """Returns the mean log-probability of the word where the references have it."""
    tokenizer = restore_tokenizer(checkpoint.config.data, checkpoint.vocabulary, checkpoint.tokenizer)
    model = build_model(checkpoint)
    examples = load_dataset(discs).split("train")
    spec = image_spec(checkpoint.config, model)
    photos = torch.from_numpy(np.stack([load(example.image, spec) for example in examples]))
    captions = [[tokenizer.encode(example.references[0])] for example in examples]
    teacher = model(photos, pad_captions(captions, SPECIAL.pad))
    found = teacher.logits.log_softmax(1).gather(1, teacher.targets[:, None])
    return found[teacher.targets == checkpoint.vocabulary.pieces.index("disc")].mean().item()


def test_a_dataset_that_is_mixed_in_adds_no_words(train, shapes, discs, trained, tmp_path):
    result = train("--init", trained / LAST, "--data", shapes, "--data", f"{discs}=0.5", "--epochs", 1)
    assert result.exit_code == 0, result.output
    best = load_checkpoint(tmp_path / "run" / BEST)
    assert best.vocabulary == load_checkpoint(trained / LAST).vocabulary


def test_the_words_of_a_single_dataset_are_learnt_whatever_its_weight(train, discs, trained, tmp_path):
    result = train("--init", trained / LAST, "--data", f"{discs}=0.5", "--epochs", 1)
    assert result.exit_code == 0, result.output
    assert load_checkpoint(tmp_path / "run" / BEST).vocabulary.pieces[-1] == "disc"


def test_old_photos_are_rehearsed_with_the_models_own_captions(train, shapes, discs, trained, tmp_path):
    """Resuming fails unless the captions were stored, since training changes the model's captions of old photos."""
    data = ("--data", discs, "--data", f"{shapes}=0.5")
    result = train("--init", trained / LAST, *data, "--epochs", 1, "--lr", 0.02, "--batch-size", 4)
    assert result.exit_code == 0, result.output
    own, old = (load_dataset(folder).split("train") for folder in (discs, shapes))
    kept = load_checkpoint(tmp_path / "run" / LAST).training["rehearsed"][len(own) :]
    assert len(kept) == round(len(old) / 2)
    captioner = load_captioner(trained / LAST, "cpu")
    said = [captioner.caption(example.image).text for example in old]
    assert set(kept) <= set(said)
    assert set(kept) != {caption for example in old for caption in example.references}
    result = train("--resume", *data)
    assert result.exit_code == 0, result.output


def test_a_run_that_lacks_its_rehearsed_captions_is_not_resumed(train, shapes, discs, trained, tmp_path):
    data = ("--data", discs, "--data", f"{shapes}=0.5")
    assert train("--init", trained / LAST, *data, "--epochs", 1).exit_code == 0
    last = tmp_path / "run" / LAST
    content = torch.load(last, weights_only=True)
    del content["training"]["rehearsed"]
    torch.save(content, last)
    assert_last_line(train("--resume", *data), f"{last} cannot be resumed; its state is incomplete", "'rehearsed'")


def test_rehearsing_without_a_trained_model_is_refused(train, shapes):
    result = train("--data", shapes, "--set", "train.rehearse=true")
    assert_one_line(result, 1, "name its checkpoint with --init")


def test_few_photos_have_their_own_defaults(grown, train, shapes, discs, trained, tmp_path):
    config = load_checkpoint(grown / BEST).config
    assert (config.train.epochs, config.model.fine_tune) == (20, -1)
    result = train("--init", trained / LAST, "--data", discs, "--data", shapes, "--epochs", 1)
    assert result.exit_code == 0, result.output
    config = load_checkpoint(tmp_path / "run" / BEST).config
    assert (config.train.select_by, config.data.views, config.model.word_dropout) == ("epoch", 4, 0.1)


def test_a_run_with_new_words_resumes(grown, discs, cache, tmp_path):
    output = shutil.copytree(grown, tmp_path / "run")
    where = ["--data", str(discs), "--output", str(output), "--cache", str(cache), "--device", "cpu"]
    result = CliRunner().invoke(main, ["train", "--resume", *where])
    assert result.exit_code == 0, result.output


def test_the_self_critical_stage_starts_from_a_grown_model_and_adds_no_words(train, grown, shapes, tmp_path):
    small = ("--stage", "self-critical", "--epochs", 1, "--batch-size", 4)
    result = train("--init", grown, "--data", shapes, *small, "--set", "data.min_count=1")
    assert result.exit_code == 0, result.output
    assert load_checkpoint(tmp_path / "run" / BEST).vocabulary == load_checkpoint(grown / BEST).vocabulary


@pytest.mark.slow
def test_a_grown_model_is_exported_with_its_new_words(grown, tmp_path):
    result = CliRunner().invoke(main, ["export", str(grown), "--output", str(tmp_path / "bundle")])
    assert result.exit_code == 0, result.output
    assert read_bundle(tmp_path / "bundle").vocabulary.pieces[-1] == "disc"


# --- The packaged model's checkpoint


def test_packaged_is_the_checkpoint_in_the_repository(tuned, tmp_path, monkeypatch):
    weights = tmp_path / "weights"
    monkeypatch.setattr(caprun_weights, "default_bundle", lambda: weights / "caprun_weights" / "some")
    (weights / "checkpoints").mkdir(parents=True)
    shutil.copy(tuned, weights / "checkpoints" / f"{caprun_weights.DEFAULT}.pt")
    assert load_checkpoint(Path("packaged")).config == load_checkpoint(tuned).config


def test_packaged_is_found_in_the_clone_where_the_command_runs(tuned, tmp_path, monkeypatch):
    monkeypatch.setattr(caprun_weights, "default_bundle", lambda: tmp_path / "site-packages/caprun_weights/some")
    monkeypatch.chdir(tmp_path)
    Path("weights/checkpoints").mkdir(parents=True)
    shutil.copy(tuned, f"weights/checkpoints/{caprun_weights.DEFAULT}.pt")
    assert load_checkpoint(Path("packaged")).config == load_checkpoint(tuned).config


def test_a_missing_packaged_checkpoint_is_reported_in_one_line(train, tmp_path, monkeypatch):
    monkeypatch.setattr(caprun_weights, "default_bundle", lambda: tmp_path / "site-packages/caprun_weights/some")
    monkeypatch.chdir(tmp_path)
    missed = f"weights/checkpoints/{caprun_weights.DEFAULT}.pt, is in captioner's repository but not installed with it"
    assert_one_line(train("--init", "packaged"), 1, missed)
