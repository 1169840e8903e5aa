"""On a full disk or in a read-only folder, existing files are kept and the error names the path in one line."""

from __future__ import annotations

import csv
import json
import os
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from caprun.photos.preprocessing import ImageSpec
from captioner.backends.loading import load_captioner
from captioner.cli import main
from captioner.commands.data import data
from captioner.datasets import load_dataset
from captioner.errors import CaptionerError
from captioner.evaluation.report import evaluate
from captioner.models.checkpoint import BEST, LAST, Checkpoint, load_checkpoint, save_checkpoint
from captioner.models.encoder import Encoder
from captioner.reports.events import Events
from captioner.reports.page import Content, write_report
from captioner.training.inputs import features as features_module
from captioner.training.inputs.features import FeatureCache
from tests.scarcity import files_of_at_most, fill, obeying_permissions, small_disk

posix = pytest.mark.skipif(os.name != "posix", reason="permissions and limits are those of POSIX")
FULL = r"No space left on device|File too large"
Train = Callable[..., list[str]]


def hidden(directory: Path) -> list[Path]:
    """Returns the temporary files left in a folder."""
    return [path for path in directory.rglob(".*") if path.is_file() and path.name != ".lock"]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def command(*arguments: object) -> str:
    """Runs a command that must fail, and returns its error message."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 1, result.output
    line = result.stderr.splitlines()[-1]
    assert line.startswith("Error: ")
    assert "Traceback" not in result.stderr
    return line


# --- Checkpoints


@pytest.mark.parametrize("room", [0, 4096, 40_000])
def test_a_checkpoint_on_a_full_disk_leaves_the_previous_one(checkpoint: Checkpoint, tmp_path: Path, room: int) -> None:
    with small_disk(tmp_path / "disk") as disk:
        path = disk / "run" / BEST
        save_checkpoint(path, replace(checkpoint, model={}, training=None))
        before = path.read_bytes()
        fill(disk, leave=room)
        with pytest.raises(CaptionerError, match=rf"^The checkpoint {path} cannot be written: .*; the previous one is"):
            save_checkpoint(path, checkpoint)
        assert path.read_bytes() == before
        assert names(path.parent) == [BEST]
        load_checkpoint(path)
        (disk / "ballast").unlink()
        save_checkpoint(path, checkpoint)
        assert load_checkpoint(path).model.keys() == checkpoint.model.keys()


@posix
@pytest.mark.parametrize("size", [0, 1, 5000, 50_000])
def test_a_checkpoint_over_the_size_limit_leaves_the_previous_one(
    checkpoint: Checkpoint, tmp_path: Path, size: int
) -> None:
    path = tmp_path / BEST
    save_checkpoint(path, replace(checkpoint, metrics={}))
    before = path.read_bytes()
    with files_of_at_most(size), pytest.raises(CaptionerError, match=rf"^The checkpoint {path} cannot be written: "):
        save_checkpoint(path, checkpoint)
    assert path.read_bytes() == before
    assert names(tmp_path) == [BEST]


@posix
def test_a_checkpoint_in_a_read_only_folder_is_kept(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "run" / BEST
    save_checkpoint(path, checkpoint)
    before = path.read_bytes()
    path.parent.chmod(0o500)
    with obeying_permissions():
        with pytest.raises(CaptionerError, match=rf"^The checkpoint {path} cannot be written: Permission denied; the"):
            save_checkpoint(path, checkpoint)
        assert load_checkpoint(path).metrics == checkpoint.metrics
    assert path.read_bytes() == before
    assert names(path.parent) == [BEST]


# --- Training runs


@pytest.mark.parametrize("room", [0, 150_000, 400_000, 900_000])
def test_a_run_stopped_by_a_full_disk_resumes_once_there_is_room(
    train_shapes: Train, trained: Path, tmp_path: Path, room: int
) -> None:
    """Checks for a one-line error with the path, readable checkpoints, and no half-written file."""
    with small_disk(tmp_path / "disk", 2**23) as disk:
        output = disk / "run"
        fill(disk, leave=room)
        with pytest.raises(CaptionerError, match=rf"^[^\n]*{disk}[^\n]*({FULL})[^\n]*\.$"):
            train_shapes(output)
        assert hidden(output) == []
        for path in output.glob("*.pt"):
            load_checkpoint(path)
        for path in output.glob("*.csv"):
            with path.open(newline="") as file:
                list(csv.reader(file))
        (disk / "ballast").unlink()
        last = load_checkpoint(output / LAST) if (output / LAST).exists() else None
        if last is not None and not (output / BEST).exists():
            last = None  # there was no room for the best checkpoint of the first epoch
        train_shapes(output, resumed=last)
        ended, expected = (load_checkpoint(folder / LAST).model for folder in (output, trained))
        assert all(torch.equal(weight, expected[name]) for name, weight in ended.items())
        assert hidden(output) == []


@posix
def test_a_read_only_output_is_refused_before_training(
    settings: list[str], shapes: Path, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "runs").mkdir(mode=0o500)
    given = [f"--set={setting}" for setting in settings]
    with obeying_permissions():
        for output in (tmp_path / "runs", tmp_path / "runs" / "new"):
            line = command("train", "--data", shapes, "--cache", cache, "--output", output, *given)
            assert f"{output} cannot be written: Permission denied; name another --output" in line
    assert list((tmp_path / "runs").iterdir()) == []


# --- Events


def test_event_files_on_a_full_disk_are_an_error_without_a_traceback(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "disk", 2**16) as disk:
        events = Events(disk / "tensorboard")
        fill(disk)

        def add_many() -> None:
            for number in range(5000):
                events.add("train", ["Loss"], [0.5], number)

        with pytest.raises(CaptionerError, match=rf"^TensorBoard's file in {disk}/tensorboard cannot be written: No"):
            add_many()
        with pytest.raises(CaptionerError, match="cannot be written"):
            events.close()
        events.close()
    assert capfd.readouterr() == ("", "")


# --- Features


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(40)]
    for path in paths:
        Image.fromarray(rng.integers(256, size=(20, 30, 3), dtype=np.uint8)).save(path)
    return paths


@pytest.fixture
def compute(
    encoder: Encoder, spec: ImageSpec, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path], np.ndarray]:
    """Returns a function that computes the features of all photos with the cache in a folder."""
    monkeypatch.setattr(features_module, "_SAVED_EVERY", 1)

    def run(directory: Path) -> np.ndarray:
        found = FeatureCache(directory, encoder, spec).compute(photos, torch.device("cpu"), lambda _: None)
        return found.of(range(len(photos))).numpy()

    return run


@pytest.mark.parametrize("room", [0, 4096, 9000, 16_000])
def test_a_feature_cache_on_a_full_disk_continues_once_there_is_room(
    compute: Callable[[Path], np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    right = compute(tmp_path / "elsewhere")
    plenty = namedtuple("Usage", "total used free")(2**40, 0, 2**40)
    monkeypatch.setattr(features_module.shutil, "disk_usage", lambda _: plenty)  # the disk fills up after the check
    with small_disk(tmp_path / "disk", 2**16) as disk:
        fill(disk, leave=room)
        with pytest.raises(CaptionerError, match=rf"^The feature cache {disk}/[^\n]* cannot be written: No space left"):
            compute(disk / "cache")
        assert hidden(disk) == []
        (disk / "ballast").unlink()
        assert np.array_equal(compute(disk / "cache"), right)
        assert np.array_equal(compute(disk / "cache"), right)
        assert hidden(disk) == []


@posix
def test_a_read_only_feature_cache_is_refused_by_name(compute: Callable[[Path], np.ndarray], tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o500)
    with (
        obeying_permissions(),
        pytest.raises(CaptionerError, match=rf"^The feature cache {tmp_path}/cache/.*--cache\.$"),
    ):
        compute(tmp_path / "cache")


def test_an_index_is_flushed_to_disk_before_it_is_renamed(
    compute: Callable[[Path], np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a power cut left an empty index, all features would be computed again."""
    events: list[str] = []
    flush, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (events.append("flush"), flush(file)))
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("rename"), rename(*paths)))
    compute(tmp_path / "cache")
    assert events
    assert events == ["flush", "flush", "rename"] * (len(events) // 3)  # the rows, the index, the rename of the index


# --- Reports


@pytest.fixture(scope="module")
def reports(trained: Path, shapes: Path) -> dict[str, Callable[[Path], object]]:
    """Returns, for each kind of report, a function that writes it."""
    captioner = load_captioner(trained / BEST, "cpu")
    options, examples = captioner.spec.search, load_dataset(shapes).split("test")
    report = evaluate(captioner, examples, options, "test", allow_missing=False, say=print)
    captions = [caption.text for caption in report.captions]
    content = Content("title", report.metrics, captioner, options, report.examples, captions, photos=1)
    return {
        "evaluation": report.write,
        "page": lambda path: write_report(path, content),
        "data": lambda path: data.main([str(shapes), "--quick", "--json", str(path)], standalone_mode=False),
    }


@pytest.fixture(params=["evaluation", "page", "data"])
def write(request: pytest.FixtureRequest, reports: dict[str, Callable[[Path], object]]) -> Callable[[Path], object]:
    return reports[request.param]


def test_a_report_on_a_full_disk_leaves_the_previous_one(write: Callable[[Path], object], tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2**20) as disk:
        path = disk / "report"
        path.write_text("before")
        fill(disk)
        with pytest.raises(CaptionerError, match=rf"^The report {path} cannot be written: No space left on device\.$"):
            write(path)
        assert path.read_text() == "before"
        assert names(disk) == ["ballast", "report"]


@posix
def test_a_report_in_a_read_only_folder_leaves_the_previous_one(
    write: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "reports" / "report"
    path.parent.mkdir()
    path.write_text("before")
    path.parent.chmod(0o500)
    with (
        obeying_permissions(),
        pytest.raises(CaptionerError, match=rf"^The report {path} cannot be written: Permission denied\.$"),
    ):
        write(path)
    assert path.read_text() == "before"
    assert names(path.parent) == ["report"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_report_is_written_to_a_device_directly(write: Callable[[Path], object]) -> None:
    with pytest.raises(CaptionerError, match=r"^The report /dev/full cannot be written: No space left on device\.$"):
        write(Path("/dev/full"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_the_data_command_reports_a_full_device_in_one_line(shapes: Path) -> None:
    line = command("data", shapes, "--quick", "--json", "/dev/full")
    assert line == "Error: The report /dev/full cannot be written: No space left on device."


def test_a_report_replaces_the_previous_one(shapes: Path, tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text("before" * 10_000)
    assert CliRunner().invoke(main, ["data", str(shapes), "--json", str(path)]).exit_code == 0
    assert json.loads(path.read_text())["format"]
