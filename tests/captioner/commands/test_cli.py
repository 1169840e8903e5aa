"""The command line prints results, and one line for any failure."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from captioner.cli import main
from captioner.models.checkpoint import BEST, LAST, load_checkpoint
from captioner.training.train import Job

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Returns a function that runs `captioner` in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return lambda *arguments: CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def small(settings: list[str], shapes: Path, cache: Path) -> list[str]:
    """Returns the arguments of a small training run."""
    return ["--data", str(shapes), "--cache", str(cache), *(f"--set={setting}" for setting in settings)]


def assert_one_line(result: Result, code: int, *words: str) -> None:
    """Checks that a command failed and printed one line only."""
    assert result.exit_code == code
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    for word in words:
        assert word in line


# --- train


def test_train_writes_checkpoints_and_reports_what_it_found(run, small, tmp_path):
    result = run("train", *small, "--output", tmp_path / "run", "--epochs", 2, "--seed", 3, "--device", "cpu")
    assert result.exit_code == 0
    assert result.stdout == ""
    for line in (
        "dataset: caption table (captions.txt), 24 photos, 48 captions",
        "columns: captions from caption",
        "splits (from the dataset): train 17, dev 4, test 3 photos",
        "vocabulary: 18 pieces (word); 0.0% of the pieces in training captions are unknown",
        f"last: {tmp_path / 'run' / LAST}",
    ):
        assert line in result.stderr.splitlines()
    assert "epoch 2/2: train_loss" in result.stderr
    assert f": {tmp_path / 'run' / BEST}\n" in result.stderr
    config = load_checkpoint(tmp_path / "run" / BEST).config
    assert (config.train.epochs, config.train.seed, config.train.batch_size) == (2, 3, 4)


def test_options_override_settings_and_settings_override_the_file(run, small, tmp_path):
    (tmp_path / "c.toml").write_text("[train]\nepochs = 9\nbatch_size = 9\nlr = 0.5\n[model]\nunits = 20\n")
    arguments = ("--config", tmp_path / "c.toml", "--epochs", 1, "--lr", 0.02, "--output", tmp_path / "run")
    assert run("train", *small, "--set", "train.epochs=5", *arguments).exit_code == 0
    config = load_checkpoint(tmp_path / "run" / LAST).config
    assert (config.train.epochs, config.train.batch_size, config.train.lr) == (1, 4, 0.02)


def test_train_without_an_output_writes_to_a_new_folder_in_runs(run, small):
    assert run("train", *small, "--epochs", 1).exit_code == 0
    (directory,) = Path("runs").iterdir()
    assert (directory / BEST).is_file()


def test_an_output_that_holds_a_training_run_is_refused(run, small, trained):
    before = (trained / LAST).read_bytes()
    result = run("train", *small, "--output", trained)
    assert_one_line(result, 1, str(trained), "already holds a training run", "--resume")
    assert (trained / LAST).read_bytes() == before


def test_resume_continues_the_run_in_the_output(run, small, trained, tmp_path):
    output = shutil.copytree(trained, tmp_path / "run")
    result = run("train", *small, "--output", output, "--resume")
    assert result.exit_code == 0
    assert "resumed: 3 of 3 epochs and 0 steps of the next are done" in result.stderr


def test_resume_without_an_output_continues_the_newest_run(run, shapes, cache, trained):
    for age, name in ((100, "20260102-000000"), (0, "20260101-000000"), (50, "20260103-000000")):
        run_of_then = Path(shutil.copytree(trained, Path("runs") / name))
        os.utime(run_of_then / LAST, (1e9 - age, 1e9 - age))
    result = run("train", "--data", shapes, "--cache", cache, "--resume")
    assert result.exit_code == 0
    assert f"last: {Path('runs/20260101-000000') / LAST}" in result.stderr


def test_resume_with_other_settings_is_refused_naming_them(run, small, trained, tmp_path):
    output = shutil.copytree(trained, tmp_path / "run")
    arguments = (*small, "--output", output, "--resume", "--epochs", 9, "--set", "model.units=7", "--lr", 0.01)
    result = run("train", *arguments)
    assert_one_line(result, 1, "leave out model.units, train.epochs,")


def test_resume_without_a_checkpoint_to_resume_is_refused(run, shapes, trained, tmp_path):
    assert_one_line(run("train", "--data", shapes, "--resume"), 1, "There is no runs/*/last.pt; train a model first")
    assert_one_line(
        run("train", "--resume", "--output", tmp_path / "none"), 1, "There is no checkpoint", "none/last.pt"
    )
    (tmp_path / "run").mkdir()
    shutil.copy(trained / BEST, tmp_path / "run" / LAST)
    assert_one_line(run("train", "--resume", "--output", tmp_path / "run"), 1, "it holds no optimiser state")


@pytest.mark.parametrize("kept", [True, False])
def test_an_interrupted_run_reports_how_to_continue(run, small, shapes, cache, trained, tmp_path, monkeypatch, kept):
    def interrupt(job: Job, _: object) -> None:
        if kept:
            job.output.mkdir()
            shutil.copy(trained / LAST, job.output)
        raise KeyboardInterrupt

    monkeypatch.setattr("captioner.training.train.train", interrupt)
    result = run("train", *small, "--output", tmp_path / "a run", "--threads", 1)
    if kept:  # with the options for rounding (threads) and for locations
        on = f"`captioner train --resume --data {shapes} --output '{tmp_path}/a run' --threads 1 --cache {cache}`"
        assert_one_line(result, 1, on, f"continues from the last checkpoint in {tmp_path}/a run.")
    else:
        assert_one_line(result, 1, "Interrupted before the first checkpoint; start again.")


def test_a_dataset_without_splits_is_split_the_same_for_every_seed(run, small, own_shapes, tmp_path):
    for file in own_shapes.glob("Flickr_8k.*"):
        file.unlink()
    lines = set()
    for seed in (0, 1):
        output = ("--output", tmp_path / f"run{seed}", "--seed", seed, "--epochs", 1)
        result = run("train", *small[2:], "--data", own_shapes, *output)
        lines |= {line for line in result.stderr.splitlines() if line.startswith("splits (drawn by photo")}
    assert len(lines) == 1  # otherwise a model could be validated or evaluated on the training photos of another seed


# --- evaluate and caption


def test_evaluate_prints_the_scores_and_writes_every_caption(run, trained, shapes, tmp_path):
    file = tmp_path / "report.json"
    result = run("evaluate", trained / BEST, "--data", shapes, "--split", "dev", "--json", file)
    assert result.exit_code == 0
    assert result.stdout.startswith("best on dev: 4 photos, 8 references, beam ")
    report = json.loads(file.read_text())
    for name in ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"):
        assert f"{100 * report['scores'][name]:.1f}" in result.stdout.split()
    assert report["scores"]["bleu_1"] > 0
    assert (report["model"], report["split"], report["photos"]) == ("best", "dev", 4)
    assert report["search"] == load_checkpoint(trained / BEST).config.search.as_dict()
    chosen = (shapes / "Flickr_8k.devImages.txt").read_text().split()
    assert [row["image"] for row in report["captions"]] == chosen
    assert all(row["caption"] and len(row["references"]) == 2 and row["log_prob"] < 0 for row in report["captions"])


def test_evaluate_computes_the_scores_of_training(run, trained, shapes, tmp_path):
    run("evaluate", trained / BEST, "--data", shapes, "--json", tmp_path / "report.json")
    scores = json.loads((tmp_path / "report.json").read_text())["scores"]
    metrics = load_checkpoint(trained / BEST).metrics
    assert scores == pytest.approx({name: metrics.get(name, scores[name]) for name in scores}, abs=1e-9)


def test_evaluate_uses_the_given_search_options(run, trained, shapes, tmp_path):
    options = ("--beam-size", 1, "--max-length", 2, "--length-penalty", 0.5, "--split", "test")
    result = run("evaluate", trained / BEST, "--data", shapes, *options, "--json", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert "on test: 3 photos, 6 references, beam 1" in result.stdout
    assert report["search"] == {"beam_size": 1, "max_length": 2, "length_penalty": 0.5}
    assert all(len(row["caption"].split()) <= 2 for row in report["captions"])


def test_precision_is_refused_for_a_checkpoint(run, trained, shapes):
    for command in (
        ("evaluate", trained / BEST, "--data", shapes),
        ("caption", "photo.jpg", "--model", trained / BEST),
    ):
        assert_one_line(run(*command, "--precision", "int8"), 2, "ONNX bundle", "leave out --precision.")


def test_evaluate_leaves_out_unreadable_photos_with_allow_missing(run, trained, own_shapes):
    name = (own_shapes / "Flickr_8k.devImages.txt").read_text().split()[1]
    (own_shapes / "images" / name).write_text("not a photo")
    assert_one_line(run("evaluate", trained / BEST, "--data", own_shapes), 1, name)
    result = run("evaluate", trained / BEST, "--data", own_shapes, "--allow-missing")
    assert result.exit_code == 0
    assert "on dev: 3 photos, 6 references" in result.stdout
    assert f"{name} is not a JPEG" in result.stderr


def test_caption_prints_captions_of_a_checkpoint(run, trained, shapes):
    photo, other = sorted((shapes / "images").iterdir())[:2]
    result = run("caption", "--model", trained / BEST, photo)
    assert result.exit_code == 0
    (caption,) = result.stdout.splitlines()
    assert set(caption.split()) <= set(load_checkpoint(trained / BEST).vocabulary.pieces[4:])
    several = run("caption", "--model", trained / BEST, photo, "nowhere.jpg", other)
    assert several.exit_code == 1
    assert several.stdout.splitlines()[0] == f"{photo}: {caption}"
    assert len(several.stdout.splitlines()) == 2
    assert several.stderr == "Error: nowhere.jpg does not exist; check the path.\n"


# --- Errors


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train", "--data", "nowhere"], 1, "There is no dataset folder nowhere; name one with --data."),
        (["train", "--data", "empty"], 1, "empty has no captions"),
        (["train", "--data", "."], 1, ". is not a dataset in a known format"),
        (["train", "--data", "{shapes}", "--device", "cuda"], 1, "PyTorch finds no CUDA device; use --device cpu."),
        (["train", "--data", "{shapes}", "--config", "none.toml"], 1, "The configuration none.toml cannot be read"),
        (["train", "--set", "train.epoch=3"], 1, "unknown key 'train.epoch'; the known keys are stage,"),
        (["train", "--set", "train.epochs=many"], 1, "train.epochs is 'many'; it must be a whole number."),
        (["train", "--set", "model.dropout=2"], 1, "dropout is 2.0; it must be between 0 and 1."),
        (["train", "--epochs", "0"], 2, "--epochs"),
        (["train", "--epoch", "3"], 2, "No such option '--epoch'"),
        (["train", "--device", "tpu"], 2, "--device"),
        (["evaluate"], 2, "Missing argument"),
        (["evaluate", "none.pt", "--data", "{shapes}"], 1, "There is no checkpoint none.pt"),
        (["evaluate", "empty", "--data", "{shapes}"], 1, "There is no bundle at empty; give a directory"),
        (["evaluate", "{best}", "--data", "nowhere"], 1, "There is no dataset folder nowhere"),
        (["evaluate", "{best}", "--data", "{shapes}", "--split", "val"], 2, "--split"),
        (
            ["evaluate", "{best}", "--data", "{shapes}", "--beam-size", "0"],
            2,
            "'--beam-size': 0 is not in",
        ),
        (
            ["evaluate", "{best}", "--data", "untested", "--split", "test"],
            1,
            "no photos in split 'test'; its splits are train,",
        ),
        (["evaluate", "{best}", "--device", "cuda"], 1, "use --device cpu."),
        (["caption", "--model", "none.pt", "photo.jpg"], 1, "There is no checkpoint none.pt"),
        (["caption", "--model", "{best}", "photo.jpg"], 1, "photo.jpg does not exist; check the path"),
        (["caption", "photo.jpg"], 2, "--model"),
        (["export"], 1, "There is no runs/*/best.pt; train a model first with `captioner train`"),
        (["export", "none.pt"], 1, "There is no checkpoint none.pt"),
        (["evalute"], 2, "No such command 'evalute'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_are_reported_in_one_line(run, trained, shapes, monkeypatch, arguments, code, words):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    Path("empty").mkdir()
    (Path("empty") / "captions.txt").write_text("image,caption\n")
    shutil.copytree(shapes, "untested")
    Path("untested/Flickr_8k.testImages.txt").unlink()
    arguments = [argument.format(shapes=shapes, best=trained / BEST) for argument in arguments]
    assert_one_line(run(*arguments), code, words)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--encoder", "resnet19"], "There is no encoder named 'resnet19'; use "),
        (["--encoder-weights", "none.pth"], "There is no file none.pth; --encoder-weights takes "),
        (["--set", "data.min_count=99"], "No word occurs 99 times in the training captions; lower data.min_count"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_training_error_is_one_line_after_the_description_of_the_data(run, small, arguments, words):
    result = run("train", *small, *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    *found, error = result.stderr.splitlines()
    assert error.startswith(f"Error: {words}")
    assert all(line.startswith(("dataset: ", "columns: ", "splits ", "vocabulary: ")) for line in found)
    assert not Path("runs").exists()


def test_an_unwritable_output_is_refused_before_training(run, small, tmp_path):
    (tmp_path / "file").touch()
    result = run("train", *small, "--output", tmp_path / "file" / "run")
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr.splitlines()[-1]
    assert "features:" not in result.stderr


def test_an_unwritable_report_is_refused_in_one_line(run, trained, shapes, tmp_path):
    (tmp_path / "none").touch()
    result = run("evaluate", trained / BEST, "--data", shapes, "--json", tmp_path / "none" / "report.json")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Error: The report {tmp_path}/none/report.json cannot be written: File exists")


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_program_reports_an_error_in_one_line_without_a_traceback():
    result = python("from captioner.cli import main; main(['train', '--data', '/nowhere'])")
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == "Error: There is no dataset folder /nowhere; name one with --data.\n"


def test_matplotlib_prints_nothing_about_its_cache_without_a_home_folder():
    code = "import captioner.cli, matplotlib; matplotlib.get_cachedir()"
    environment = {**os.environ, "HOME": "/dev/null/none"}
    for name in ("MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        environment.pop(name, None)
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stderr == ""


def test_help_is_printed_without_importing_torch_and_numpy():
    result = python(
        "import sys\nfrom captioner.cli import main\ntry: main(['train', '--help'])\n"
        "finally: print('torch' in sys.modules, 'numpy' in sys.modules, file=sys.stderr)"
    )
    assert "--encoder-weights" in result.stdout
    assert result.stderr == "False False\n"
