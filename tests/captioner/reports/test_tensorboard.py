"""TensorBoard's event files have the numbers of the tables, without repeated steps after a resume."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch import nn

from captioner.config import load_config
from captioner.reports.run import RunReports


def steps_by_tag(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """Returns every value in the event files, in order; TensorBoard itself would hide repeated values."""
    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted((directory / "tensorboard").iterdir()):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.tensor.float_val[0]))
    return found


def reports(directory: Path) -> RunReports:
    return RunReports(directory, load_config(), [], print)


def test_steps_and_epochs_are_in_the_event_files_by_number(tmp_path):
    with closing(reports(tmp_path)) as run:
        run.open([], [], nn.Linear(1, 1))
        for epoch in (1, 2):
            run.step((epoch, 1, 1 / epoch, 0.25))
            run.step((epoch, 2, 0.5 / epoch, 0.5))
            run.epoch({"epoch": epoch, "dev_loss": 2.0, "bleu_4": 0.125 * epoch}, None)
    found = steps_by_tag(tmp_path)
    assert found["train/Loss"] == [(1, 1.0), (2, 0.5), (3, 0.5), (4, 0.25)]
    assert found["train/Accuracy"] == [(1, 0.25), (2, 0.5), (3, 0.25), (4, 0.5)]
    assert found["validation/BLEU-4"] == [(1, 0.125), (2, 0.25)]
    assert "validation/METEOR" not in found


def test_no_step_is_repeated_or_missing_after_a_resume(tmp_path):
    steps = [(1.0, float(batch), batch / 8, 0.5) for batch in range(1, 11)]
    killed = reports(tmp_path)
    killed.open([], [], nn.Linear(1, 1))
    for row in steps[:8]:
        killed.step(row)  # but never closed
    with closing(reports(tmp_path)) as resumed:
        resumed.open(steps[:5], [], nn.Linear(1, 1))
        for row in steps[5:]:
            resumed.step(row)
        resumed.epoch({"epoch": 1, "cider": 0.5}, None)
    with closing(reports(tmp_path)) as again:
        again.open(steps, [{"epoch": 1, "cider": 0.5}], nn.Linear(1, 1))
    killed.close()
    found = steps_by_tag(tmp_path)
    assert found["train/Loss"] == [(batch, batch / 8) for batch in range(1, 11)]
    assert found["validation/CIDEr"] == [(1, 0.5)]


def test_a_step_is_in_the_file_at_once(tmp_path):
    with closing(reports(tmp_path)) as run:
        run.open([], [], nn.Linear(1, 1))
        run.step((1, 1, 0.125, 0.5))
        assert steps_by_tag(tmp_path)["train/Loss"] == [(1, 0.125)]


def test_other_files_in_the_folder_are_kept(tmp_path):
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "notes.txt").write_text("mine")
    with closing(reports(tmp_path)) as run:
        run.open([], [], nn.Linear(1, 1))
    assert (tmp_path / "tensorboard" / "notes.txt").read_text() == "mine"


def test_large_libraries_are_imported_only_when_needed():
    code = (
        "import sys, torch; before = set(sys.modules)\n"  # torch can have imported some of them
        "import captioner.reports.run, captioner.reports.page, captioner.reports.curves\n"
        "print({'matplotlib', 'tensorboard', 'jinja2'} & (set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
