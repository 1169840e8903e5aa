"""`captioner export` chooses the photos that verify and calibrate a bundle."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from capexport.export import ExportRequest
from captioner.backends.pytorch import model_spec
from captioner.cli import main
from captioner.config import DataConfig
from captioner.datasets import load_dataset
from captioner.models.checkpoint import BEST, LAST, build_model, load_checkpoint

Export = Callable[..., tuple[Result, list[ExportRequest]]]


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Export:
    """Returns a function that runs `captioner export` and returns its result and the requests that it makes."""
    asked: list[ExportRequest] = []
    monkeypatch.setattr("capexport.export.export", lambda request, _: asked.append(request))

    def run(checkpoint: Path, data: Path, *options: str) -> tuple[Result, list[ExportRequest]]:
        where = ["--data", str(data), "--output", str(tmp_path / "bundle")]
        return CliRunner().invoke(main, ["export", str(checkpoint), *where, *options]), asked

    return run


def test_training_photos_are_never_treated_as_unseen(export, train_shapes, shapes, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(shapes, data)
    for file in data.glob("Flickr_8k.*Images.txt"):
        file.unlink()
    train_shapes(tmp_path / "run", "train.epochs=1", "data.splits=[50, 40, 10]", "data.split_seed=5", data=data)
    result, (request,) = export(tmp_path / "run" / BEST, data)
    assert result.exit_code == 0, result.output
    drawn = load_dataset(data, DataConfig(splits=(50, 40, 10), split_seed=5))
    assert [e.image for e in request.dev] == [e.image for e in drawn.split("dev")]
    assert [e.image for e in request.train] == [e.image for e in drawn.split("train")]
    assert request.photos == [e.image for e in request.dev]


def test_unreadable_photos_are_refused_first_and_can_be_left_out(export, trained, own_shapes):
    first, second, *_ = load_dataset(own_shapes).split("train")
    first.image.write_bytes(b"no photo")
    result, asked = export(trained / BEST, own_shapes)
    assert result.exit_code == 1
    assert asked == []
    assert result.stderr.splitlines()[-1].startswith("Error: 1 photos cannot be read: ")
    second.image.unlink()
    assert "1 photos" in export(trained / BEST, own_shapes)[0].stderr.splitlines()[-1]
    result, (request,) = export(trained / BEST, own_shapes, "--allow-missing")
    assert result.exit_code == 0, result.output
    assert not {first.image, second.image} & {e.image for e in request.train}
    assert len(request.train) == 15


def test_the_folder_of_a_run_stands_for_its_best_checkpoint(trained, tmp_path, monkeypatch):
    asked: list[ExportRequest] = []
    monkeypatch.setattr("capexport.export.export", lambda request, _: asked.append(request))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["export", str(trained)])
    assert result.exit_code == 0, result.output
    (request,) = asked
    assert request.checkpoint == trained / BEST
    assert request.output == Path("weights") / trained.name


@pytest.mark.parametrize(
    ("given", "language", "neutral"), [(None, "en", True), ("fr", "fr", False), ("en-GB", "en-GB", True)]
)
def test_the_language_is_given_or_follows_from_the_neutral_words(given, language, neutral, trained):
    checkpoint = load_checkpoint(trained / LAST)
    words = ("<pad>", "<start>", "<end>", "<unk>", "a", "the", "man", "person")
    pieces = (*words, *checkpoint.vocabulary.pieces[len(words) :])
    named = replace(checkpoint, vocabulary=replace(checkpoint.vocabulary, pieces=pieces))
    spec = model_spec(named, build_model(checkpoint), "mine", given)
    assert (spec.language, spec.neutral is not None) == (language, neutral)


def test_the_language_option_must_be_a_language_code(export, trained, shapes):
    result, asked = export(trained, shapes, "--language", "pt-BR")
    assert result.exit_code == 0, result.output
    assert asked[0].settings.language == "pt-BR"
    result, _ = export(trained, shapes, "--language", "Brazilian!")
    assert result.exit_code == 2
    assert "The language 'Brazilian!' is not a language code" in result.stderr


def test_a_checkpoint_outside_a_run_gives_its_bundle_its_name(trained, tmp_path, monkeypatch):
    asked: list[ExportRequest] = []
    monkeypatch.setattr("capexport.export.export", lambda request, _: asked.append(request))
    monkeypatch.chdir(tmp_path)
    shutil.copy(trained / BEST, "imported.pt")
    assert CliRunner().invoke(main, ["export", "imported.pt"]).exit_code == 0
    assert asked[0].output == Path("weights/imported")
