"""Training writes tables, settings, sizes and pictures; a resumed run has those of an uninterrupted one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from captioner.backends.loading import load_captioner
from captioner.config import load_config, parse_settings, read_toml
from captioner.datasets import load_dataset
from captioner.errors import CaptionerError
from captioner.models.checkpoint import BEST
from captioner.reports import run as module
from captioner.reports.run import RunReports
from captioner.reports.summary import config_toml, model_summary

TRAIN, VALIDATION = "train_results.csv", "validation_results.csv"
BATCHES = 5
MODEL = nn.Linear(2, 3)


@pytest.fixture(scope="module")
def captioner(trained):
    return load_captioner(trained / BEST, "cpu")


@pytest.fixture
def make(tmp_path, shapes):
    """Returns a function that creates the reports of a run in a folder; `said` collects their messages."""
    said: list[str] = []
    opened: list[RunReports] = []

    def reports(directory: Path = tmp_path / "run") -> RunReports:
        opened.append(RunReports(directory, load_config(), load_dataset(shapes).split("dev"), said.append))
        opened[-1].said = said  # type: ignore[attr-defined]
        return opened[-1]

    yield reports
    for each in opened:
        each.close()


def rows_of(epoch: int, first: int = 1, last: int = BATCHES) -> list[tuple[float, ...]]:
    return [(epoch, batch, 1 / (epoch * 10 + batch), batch / 10) for batch in range(first, last + 1)]


def scores_of(epoch: int) -> dict[str, float]:
    scores = {"dev_loss": 3 / epoch, "accuracy": 0.3, "top_5": 0.6, "bleu_1": 0.5, "bleu_4": 0.1 * epoch, "cider": 0.4}
    return {"epoch": float(epoch), "train_loss": 1.0, "seconds": 2.0, **scores}


def whole(reports: RunReports, captioner, epochs: int = 3) -> None:
    reports.open([], [], MODEL)
    for epoch in range(1, epochs + 1):
        for row in rows_of(epoch):
            reports.step(row)
        reports.epoch(scores_of(epoch), captioner)
        reports.write_tables()
    reports.close()


@pytest.fixture(scope="module")
def expected(captioner, shapes, tmp_path_factory):
    """Returns the folder of an uninterrupted run of three epochs; do not write to it."""
    directory = tmp_path_factory.mktemp("whole")
    whole(RunReports(directory, load_config(), load_dataset(shapes).split("dev"), print), captioner)
    return directory


# --- Tables


def test_the_tables_have_their_columns_and_a_row_per_step_and_per_epoch(make, captioner, tmp_path):
    whole(make(), captioner, epochs=2)
    train = (tmp_path / "run" / TRAIN).read_text().splitlines()
    assert train[:2] == ["Epoch,Batch,Loss,Accuracy", "1,1,0.0909091,0.1"]
    assert [row.split(",")[:2] for row in train[1:]] == [[str(e), str(b)] for e in (1, 2) for b in range(1, 6)]
    assert (tmp_path / "run" / VALIDATION).read_text().splitlines() == [
        "Epoch,Loss,Accuracy,Top-5,BLEU-1,BLEU-2,BLEU-3,BLEU-4,NIST-2,NIST-4,ROUGE-L,METEOR,CIDEr",
        "1,3,0.3,0.6,0.5,,,0.1,,,,,0.4",
        "2,1.5,0.3,0.6,0.5,,,0.2,,,,,0.4",
    ]


@pytest.mark.parametrize("resume_at", [(0, 0), (0, 3), (0, 5), (1, 0), (1, 1), (2, 5), (3, 0)])
def test_a_resumed_run_has_the_tables_of_an_uninterrupted_one(make, captioner, expected, tmp_path, resume_at):
    # rows after the last checkpoint are on disk too, followed by a torn line
    shutil.copytree(expected, tmp_path / "run")
    with (tmp_path / "run" / TRAIN).open("a") as file:
        file.write("4,1,0.0")
    resumed = make()
    epochs, batches = resume_at
    done = [row for epoch in range(1, epochs + 1) for row in rows_of(epoch)]
    done += rows_of(epochs + 1, last=batches)
    resumed.open(done, [scores_of(epoch) for epoch in range(1, epochs + 1)], MODEL)
    for epoch in range(epochs + 1, 4):
        for row in rows_of(epoch, first=batches + 1 if epoch == epochs + 1 else 1):
            resumed.step(row)
        resumed.epoch(scores_of(epoch), captioner)
    resumed.write_tables()
    resumed.close()
    for name in (TRAIN, VALIDATION, "curves.png"):
        assert (tmp_path / "run" / name).read_bytes() == (expected / name).read_bytes(), name
    assert sorted((tmp_path / "run").rglob("*.png")) == sorted(
        tmp_path / "run" / path.relative_to(expected) for path in expected.rglob("*.png")
    )


def test_a_new_run_removes_the_rows_and_pictures_of_the_previous_one(make, captioner, tmp_path):
    whole(make(), captioner, epochs=2)
    make().open([], [], MODEL)
    assert [len((tmp_path / "run" / name).read_text().splitlines()) for name in (TRAIN, VALIDATION)] == [1, 1]
    assert list((tmp_path / "run" / "pictures").iterdir()) == []


# --- Settings and sizes


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["data.sided_words=[]", "data.splits=[60, 30.5, 10]", "data.tokenizer='wordpiece:C:\\dir \"é\"\\vocab.txt'"],
        ["model.decoder=rnetvhcattention", "train.lr=1e-5", "train.clip_value=0.1", "search.length_penalty=0"],
    ],
)
def test_the_written_configuration_reads_back_equal(tmp_path, settings):
    config = load_config(parse_settings(settings))
    (tmp_path / "config.toml").write_text(config_toml(config), encoding="utf-8")
    assert load_config(read_toml(tmp_path / "config.toml")) == config


def test_the_model_summary_counts_parameters_and_megabytes():
    model = nn.Sequential()
    model.add_module("seen", nn.Sequential(nn.Linear(9, 100), nn.ReLU()).requires_grad_(requires_grad=False))
    model.add_module("said", nn.Linear(100, 1000, bias=False))
    lines = {line.split()[0]: line.split()[1:] for line in model_summary(model).splitlines() if line.strip()}
    assert lines["seen"] == ["1,000", "0", "0.00"]
    assert lines["seen.0"] == ["1,000", "0", "0.00"]
    assert lines["said"] == ["100,000", "100,000", "0.40"]
    assert lines["total"] == ["101,000", "100,000", "0.40"]
    assert "seen.1" not in lines  # it has no parameters


def test_shared_weights_count_once_in_the_total():
    model = nn.ModuleDict({"read": nn.Embedding(10, 4), "said": nn.Linear(4, 10, bias=False)})
    model["said"].weight = model["read"].weight
    total = model_summary(model).splitlines()[-1]
    assert total.split() == ["total", "40", "40", "0.00"]


def test_opening_writes_configuration_and_summary(make, tmp_path):
    make().open([], [], MODEL)
    assert load_config(read_toml(tmp_path / "run" / "config.toml")) == load_config()
    assert "total" in (tmp_path / "run" / "model.txt").read_text()


# --- Pictures


def test_every_epoch_is_drawn_and_the_latest_is_copied_to_the_run_folder(make, captioner, tmp_path):
    whole(make(), captioner, epochs=2)
    folder = tmp_path / "run"
    names = [f"epoch-{epoch:03d}-{kind}.png" for epoch in (1, 2) for kind in ("attention", "caption")]
    assert sorted(path.name for path in (folder / "pictures").iterdir()) == names
    for kind in ("attention", "caption"):
        assert (folder / f"{kind}.png").read_bytes() == (folder / "pictures" / f"epoch-002-{kind}.png").read_bytes()
        with Image.open(folder / f"{kind}.png") as picture:
            assert min(picture.size) > 100


def test_a_model_without_attention_has_no_attention_picture(make, captioner, tmp_path, monkeypatch):
    from dataclasses import replace

    monkeypatch.setattr(captioner, "spec", replace(captioner.spec, attention_grid=None))
    whole(make(), captioner, epochs=1)
    assert not (tmp_path / "run" / "attention.png").exists()
    assert (tmp_path / "run" / "caption.png").is_file()


def test_training_continues_with_a_warning_if_pictures_cannot_be_drawn(make, captioner, tmp_path, monkeypatch):
    def no_font(*arguments: object, **options: object) -> None:
        raise module.UsageError("no font here has a glyph for 猫")

    monkeypatch.setattr(module, "caption_picture", no_font)
    reports = make()
    whole(reports, captioner)
    (line,) = reports.said
    assert line == "warning: validation photos are not drawn: no font here has a glyph for 猫"
    assert (tmp_path / "run" / "curves.png").is_file()


def test_drawing_does_not_change_the_random_state(make, captioner):
    reports = make()
    reports.open([], [], MODEL)
    before = torch.get_rng_state()
    reports.epoch(scores_of(1), captioner)
    assert torch.equal(before, torch.get_rng_state())


# --- Files that cannot be written


@pytest.mark.parametrize("name", [TRAIN, VALIDATION, "config.toml", "model.txt"])
def test_an_unwritable_file_is_refused_in_one_line(make, tmp_path, name):
    (tmp_path / "run" / name / "x").mkdir(parents=True)
    with pytest.raises(CaptionerError, match=rf"^The [\w ]+ .*{name} cannot be (written|read): [^\n]+\.$"):
        make().open([], [], MODEL)


def test_closing_is_idempotent(make):
    reports = make()
    reports.open([], [], MODEL)
    reports.close()
    reports.close()
