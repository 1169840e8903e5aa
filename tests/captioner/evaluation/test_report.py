"""`captioner evaluate` reports every score with its protocol, prints samples and writes an HTML report."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from caprun.bundle.reading import read_bundle
from caprun.bundle.vocabulary import Vocabulary
from caprun.bundle.writing import write_manifest
from captioner.backends.loading import load_captioner
from captioner.cli import main
from captioner.config import DataConfig
from captioner.datasets import load_dataset
from captioner.models.checkpoint import BEST, load_checkpoint
from captioner.text.tokenizer import SPECIAL_PIECES

TINY = Path(__file__).parents[2] / "tiny" / "bundle"


@pytest.fixture
def run():
    return lambda *arguments: CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def test_the_report_of_a_checkpoint_has_one_table_per_protocol(run, trained, shapes):
    result = run(trained / BEST, "--data", shapes, "--split", "test")
    assert result.exit_code == 0, result.output
    head, taught, free = result.stdout.strip().split("\n\n")
    assert head.startswith("best on test: 3 photos, 6 references, beam 3, mean length ")
    assert taught.startswith("Teacher-forced: split test, 3 photos, 6 references, each reference separately;")
    assert taught.splitlines()[-2].split() == ["Loss", "Accuracy", "Top-5"]
    assert free.startswith("Free-running: split test, 3 photos, 6 references, all references of a photo together;")
    titles = ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "NIST-2", "NIST-4", "ROUGE-L", "CIDEr"]
    assert free.splitlines()[-2].split() == titles
    assert len(free.splitlines()[-1].split()) == len(titles)


def test_the_report_of_a_bundle_has_only_free_running_scores(run, shapes, tmp_path):
    result = run(TINY, "--data", shapes, "--json", tmp_path / "report.json")
    assert result.exit_code == 0, result.output
    assert "Free-running: " in result.stdout
    assert "Teacher-forced" not in result.stdout
    assert "teacher_forced" not in json.loads((tmp_path / "report.json").read_text())


def test_scores_equal_the_validation_scores_of_the_training(run, trained, shapes, tmp_path, monkeypatch):
    monkeypatch.setattr("captioner.evaluation.report._BATCH", 3)  # 4 photos leave the last batch incomplete
    run(trained / BEST, "--data", shapes, "--json", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    metrics = load_checkpoint(trained / BEST).metrics
    assert report["scores"] == pytest.approx({name: metrics[name] for name in report["scores"]}, abs=1e-9)
    # the training caches features in half precision
    taught = {"loss": metrics["dev_loss"], "accuracy": metrics["accuracy"], "top_5": metrics["top_5"]}
    assert report["teacher_forced"] == pytest.approx(taught, abs=1e-3)


@pytest.mark.parametrize(("asked", "shown"), [(0, 0), (2, 2), (100, 4)])
def test_samples_show_photos_with_their_caption_and_references(run, trained, shapes, asked, shown):
    lines = run(trained / BEST, "--data", shapes, "--samples", asked).stdout.splitlines()
    captioner = load_captioner(trained / BEST, "cpu")
    expected = {example.image.name: example for example in load_dataset(shapes).split("dev")}
    photos = [line for line in lines if line.split(": ")[0] in expected]
    assert len(photos) == shown
    for line in photos:
        name, caption = line.split(": ", 1)
        assert caption == captioner.caption(expected[name].image).text
        at = lines.index(line)
        assert lines[at + 1 : at + 3] == [f"    {reference}" for reference in expected[name].references]


@pytest.mark.parametrize("name", [BEST, "."])
def test_the_html_report_of_a_checkpoint_has_its_configuration(run, trained, shapes, tmp_path, name):
    result = run(trained / name, "--data", shapes, "--report", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<h1>best on dev</h1>" in html
    assert "encoder = &#34;timm/test_efficientnet&#34;" in html


def test_the_html_report_of_a_bundle_has_no_configuration(run, shapes, tmp_path):
    result = run(TINY, "--data", shapes, "--report", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<h2>Configuration</h2>" not in html


def test_an_html_report_that_cannot_be_written_is_reported_in_one_line(run, trained, shapes, tmp_path):
    (tmp_path / "file").write_text("")
    result = run(trained / BEST, "--data", shapes, "--report", tmp_path / "file" / "page.html")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith(f"Error: The report {tmp_path / 'file' / 'page.html'} cannot be")


def undivided(shapes: Path, folder: Path) -> Path:
    shutil.copytree(shapes, folder)
    for file in folder.glob("Flickr_8k.*Images.txt"):
        file.unlink()
    return folder


def photos_of(run, tmp_path, *arguments: object) -> list[str]:
    result = run(*arguments, "--json", tmp_path / "report.json")
    assert result.exit_code == 0, result.output
    return [row["image"] for row in json.loads((tmp_path / "report.json").read_text())["captions"]]


def test_splits_are_drawn_as_the_options_request(run, trained, shapes, tmp_path):
    data = undivided(shapes, tmp_path / "data")
    asked = ("--split", "test", "--splits", 20, 20, 60, "--split-seed", 3)
    expected = [e.image.name for e in load_dataset(data, DataConfig(splits=(20, 20, 60), split_seed=3)).split("test")]
    assert photos_of(run, tmp_path, trained / BEST, "--data", data, *asked) == expected


def test_splits_are_drawn_as_the_training_drew_them(run, train_shapes, shapes, tmp_path):
    data = undivided(shapes, tmp_path / "data")
    settings = ("train.epochs=1", "data.splits=[50, 40, 10]", "data.split_seed=5")
    train_shapes(tmp_path / "run", *settings, data=data)
    expected = [e.image.name for e in load_dataset(data, DataConfig(splits=(50, 40, 10), split_seed=5)).split("dev")]
    assert photos_of(run, tmp_path, tmp_path / "run" / BEST, "--data", data) == expected


def bundle_of(training: dict[str, object], folder: Path) -> Path:
    """Copies the tiny bundle, as if it were exported from the given training."""
    shutil.copytree(TINY, folder)
    bundle = read_bundle(TINY)
    write_manifest(folder, replace(bundle.manifest, provenance={"training": training}), bundle.vocabulary, "A card.")
    return folder


def test_a_bundle_is_scored_on_the_splits_of_its_training(run, shapes, tmp_path):
    data = undivided(shapes, tmp_path / "data")
    bundle = bundle_of({"splits": [50, 10, 40], "split_seed": 3}, tmp_path / "bundle")
    dataset = load_dataset(data, DataConfig(splits=(50, 10, 40), split_seed=3))
    for split in ("dev", "test"):
        expected = [e.image.name for e in dataset.split(split)]
        assert photos_of(run, tmp_path, bundle, "--data", data, "--split", split) == expected


def test_a_bundle_without_recorded_splits_is_scored_on_the_default_splits(run, shapes, tmp_path):
    data = undivided(shapes, tmp_path / "data")
    older = bundle_of({"command": "captioner train"}, tmp_path / "bundle")
    expected = [e.image.name for e in load_dataset(data).split("test")]
    assert photos_of(run, tmp_path, older, "--data", data, "--split", "test") == expected


def test_splits_with_a_negative_share_are_refused_in_one_line(run, trained, shapes, tmp_path):
    data = undivided(shapes, tmp_path / "data")
    result = run(trained / BEST, "--data", data, "--splits", -1, 50, 50)
    assert result.exit_code in (1, 2)
    assert result.stderr.count("\n") == 1


def test_the_report_names_the_segmenter(run, shapes, monkeypatch):
    jieba = SimpleNamespace(setLogLevel=lambda _: None, lcut=list)
    monkeypatch.setitem(sys.modules, "jieba", jieba)
    assert "; by words of jieba, lower-cased, punctuation removed." in shown_by(
        run(TINY, "--data", shapes, "--segmenter", "jieba")
    )
    assert "; by words, lower-cased, punctuation removed." in shown_by(run(TINY, "--data", shapes))


def test_a_warning_reports_references_in_another_script_than_the_vocabulary(run, own_shapes):
    captions = own_shapes / "captions.txt"
    header, *rows = captions.read_text().splitlines()
    captions.write_text("\n".join([header, *(f"{row.split(',')[0]},круг и квадрат" for row in rows)]))
    result = run(TINY, "--data", own_shapes)
    assert "warning: the references are Cyrillic, and the model's vocabulary is Latin" in result.stderr


def test_a_warning_reports_english_references_of_a_chinese_model(run, shapes, tmp_path):
    shutil.copytree(TINY, tmp_path / "bundle")
    bundle = read_bundle(TINY)
    special = len(SPECIAL_PIECES)
    words = [chr(ord("一") + number) for number in range(len(bundle.vocabulary) - special)]
    vocabulary = Vocabulary((*bundle.vocabulary.pieces[:special], *words))
    write_manifest(tmp_path / "bundle", bundle.manifest, vocabulary, "A card.")
    result = run(tmp_path / "bundle", "--data", shapes)
    assert "warning: the references are Latin, and the model's vocabulary is Chinese or Japanese" in result.stderr


def shown_by(result):
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())
