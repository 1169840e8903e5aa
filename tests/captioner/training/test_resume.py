"""A resumed run equals an uninterrupted one, and a kill leaves a loadable checkpoint."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from captioner.models.checkpoint import BEST, LAST, load_checkpoint, save_checkpoint
from tests.captioner.trees import differing

pytestmark = pytest.mark.slow  # each test waits for processes that import torch

# a configuration with every kind of state between steps
_EVERYTHING = (
    "train.save_minutes=0",  # after every step
    "train.schedule=plateau",
    "train.plateau_patience=0",
    "train.plateau_on=dev_loss",
    "train.early_stop=3",
    "train.accumulate=2",
    "train.scheduled_sampling=0.5",
    "train.precision=bf16",
    "model.decoder=hard-attention",
    "data.augment=true",
    "train.epochs=3",
)


@pytest.fixture
def command(settings: list[str], shapes: Path, cache: Path) -> list[str]:
    chosen = [part for setting in [*settings, *_EVERYTHING] for part in ("--set", setting)]
    options = ["--data", str(shapes), "--cache", str(cache), "--threads", "1", "--device", "cpu"]
    return [sys.executable, "-m", "captioner", "train", *options, *chosen]


# kills itself at the save of a step: before it, when the events have more steps than the checkpoint, or after it
_KILLED_AT = """
import os, signal, sys
from captioner.cli import main
from captioner.training import loop
moment, enough = sys.argv.pop(1), int(sys.argv.pop(1))
save = loop.save_checkpoint
def dying(path, checkpoint):
    done = path.name == loop.LAST and checkpoint.training["optimiser"]["steps"] >= enough
    if not done or moment == "after":
        save(path, checkpoint)
    if done:
        os.kill(os.getpid(), signal.SIGKILL)
loop.save_checkpoint = dying
main()
"""


def test_a_run_killed_at_any_step_resumes_to_the_same_bits(command, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*command, "--output", whole], check=True, capture_output=True)
    # 15 steps, 5 per epoch
    for moment, enough, resume in (("after", 2, []), ("before", 6, ["--resume"]), ("before", 13, ["--resume"])):
        dying = [sys.executable, "-c", _KILLED_AT, moment, str(enough), *command[3:], "--output", killed, *resume]
        process = subprocess.run(dying, capture_output=True, check=False)
        assert process.returncode == -signal.SIGKILL, process.stderr.decode()
        done = load_checkpoint(killed / LAST).training["optimiser"]["steps"]
        assert done == (enough if moment == "after" else enough - 1)
    subprocess.run([*command, "--output", killed, "--resume"], check=True, capture_output=True)
    for name in (BEST, LAST):
        first, second = load_checkpoint(whole / name), load_checkpoint(killed / name)
        assert differing(dict(first.model), dict(second.model)) == []
        assert differing(dict(first.metrics), dict(second.metrics)) == []
        if name == LAST:
            assert differing(dict(first.training), dict(second.training)) == []
    for name in ("train_results.csv", "validation_results.csv"):
        assert (whole / name).read_text() == (killed / name).read_text()
    assert scalars(whole / "tensorboard") == scalars(killed / "tensorboard")


def scalars(folder: Path) -> list[tuple[str, int, float]]:
    """Returns every number in the event files of a folder."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    events = [event for file in folder.iterdir() for event in EventFileLoader(str(file)).Load()]
    found = [(v.tag, event.step, v.tensor.float_val[0]) for event in events for v in event.summary.value]
    assert len({row[:2] for row in found}) == len(found) > 15
    return sorted(found)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_training_after_the_current_step_and_saves_it(command, tmp_path, number):
    output = tmp_path / "run"
    command = [*command, "--output", str(output), "--set", "train.save_minutes=100", "--set", "train.epochs=500"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert any("train_loss" in line for line in process.stderr)  # printed after the epoch is saved
        process.send_signal(number)
        said = process.stderr.read()
    assert process.returncode == 1
    assert "stopping after this step or validation; press Ctrl-C again to stop immediately" in said.splitlines()
    assert said.splitlines()[-1].startswith("Error: Interrupted; `captioner train --resume ")
    state = load_checkpoint(output / LAST).training["state"]
    assert state["batch"] > 0  # within an epoch, where only the signal causes a save


_KILLED_WHILE_WRITING = """
import os, signal, sys, torch
from pathlib import Path
from captioner.models import checkpoint
path, moment = Path(sys.argv[1]), sys.argv[2]
found = checkpoint.load_checkpoint(path)
kill = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
if moment == "half written":
    save = torch.save
    def half(content, file):
        save(content, file)
        file.truncate(file.tell() // 2)
        file.flush()
        kill()
    torch.save = half
elif moment == "not flushed":
    os.fsync = kill
else:
    Path.replace = kill
checkpoint.save_checkpoint(path, found)
"""


@pytest.mark.parametrize("moment", ["half written", "not flushed", "not renamed"])
def test_a_kill_while_a_checkpoint_is_written_leaves_the_previous_one(checkpoint, tmp_path, moment):
    path = tmp_path / LAST
    save_checkpoint(path, checkpoint)
    before = path.read_bytes()
    script = [sys.executable, "-c", _KILLED_WHILE_WRITING, path, moment]
    assert subprocess.run(script, check=False).returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    assert differing(dict(load_checkpoint(path).model), dict(checkpoint.model)) == []
    save_checkpoint(path, checkpoint)  # leftovers of the kill do not hinder the next save
    assert sorted(load_checkpoint(path).model) == sorted(checkpoint.model)
