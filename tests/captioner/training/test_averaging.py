"""Averaging computes the mean of the weights of several models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from caprun.bundle.writing import describe_file
from captioner.cli import main
from captioner.datasets import load_dataset
from captioner.errors import CaptionerError
from captioner.models.checkpoint import BEST, LAST, Checkpoint, load_checkpoint, save_checkpoint
from captioner.training.averaging import average


@pytest.fixture
def moved(trained: Path, tmp_path: Path) -> Path:
    """Returns a checkpoint of the trained model with 1 added to every weight."""
    checkpoint = load_checkpoint(trained / BEST)
    weights = {name: value + 1 if value.is_floating_point() else value for name, value in checkpoint.model.items()}
    save_checkpoint(tmp_path / "moved.pt", replace(checkpoint, model=weights))
    return tmp_path / "moved.pt"


def test_weights_are_averaged_by_share(trained: Path, moved: Path):
    first, mean = load_checkpoint(trained / BEST), average([trained / BEST, moved], [3, 1], "command")
    floats = [name for name, value in first.model.items() if value.is_floating_point()]
    assert floats
    assert mean.model.keys() == first.model.keys()
    for name in floats:
        torch.testing.assert_close(mean.model[name], first.model[name] + 0.25)
        assert mean.model[name].dtype == first.model[name].dtype
    assert [part["share"] for part in mean.provenance["average"]] == [0.75, 0.25]


def test_provenance_lists_all_stages_and_counts_no_run_twice(trained: Path, tmp_path: Path):
    def trained_on(name: str, before: Path, seconds: int) -> Path:
        first = load_checkpoint(before)
        scores = {"epoch": 2, "cider": 0.5}
        init = {**first.provenance, "checkpoint_sha256": describe_file(before).sha256, "scores": first.scores}
        provenance = {**first.provenance, "command": name, "train_seconds": seconds, "init": init}
        save_checkpoint(tmp_path / name, replace(first, metrics=scores, provenance=provenance))
        return tmp_path / name

    second = trained_on("second", trained / BEST, 20)
    third = trained_on("third", second, 30)
    told = average([third, second], [1, 1], "the mean").provenance
    first = load_checkpoint(trained / BEST)
    assert (told["command"], "init" in told) == ("the mean", False)
    assert [stage["command"] for stage in told["stages"]] == [first.provenance["command"], "second", "third"]
    assert told["stages"][0]["cider"] == first.metrics["cider"]
    assert told["stages"][2] == {"command": "third", "seconds": 30, "epoch": 2, "cider": 0.5}
    assert told["train_seconds"] == first.provenance["train_seconds"] + 50


def test_an_average_that_is_worse_than_its_parts_causes_a_warning(trained: Path, shapes: Path, tmp_path: Path):
    first = load_checkpoint(trained / BEST)
    for name in ("a.pt", "b.pt"):
        save_checkpoint(tmp_path / name, replace(first, metrics={"cider": first.metrics["cider"] + 1}))
    arguments = ["average", str(tmp_path / "a.pt"), str(tmp_path / "b.pt"), "--data", str(shapes), "--threads", "1"]
    result = CliRunner().invoke(main, [*arguments, "--output", str(tmp_path / "mean.pt")])
    assert result.exit_code == 0, result.output
    assert "warning: the mean is worse" in result.stderr


def test_allow_missing_leaves_out_unreadable_photos(trained: Path, own_shapes: Path, tmp_path: Path):
    dev = load_dataset(own_shapes).split("dev")
    dev[0].image.unlink()
    dev[1].image.write_bytes(b"")
    arguments = ["average", str(trained / BEST), str(trained / LAST), "--data", str(own_shapes), "--threads", "1"]
    arguments += ["--output", str(tmp_path / "mean.pt")]
    assert "with --allow-missing" in CliRunner().invoke(main, arguments).output
    result = CliRunner().invoke(main, [*arguments, "--allow-missing"])
    assert result.exit_code == 0, result.output
    assert load_checkpoint(tmp_path / "mean.pt").metrics["photos"] == len(dev) - 2


def test_huge_shares_do_not_overflow(trained: Path, moved: Path):
    first, mean = load_checkpoint(trained / BEST), average([trained / BEST, moved], [1e308, 1e308], "command")
    for name in (name for name, value in first.model.items() if value.is_floating_point()):
        torch.testing.assert_close(mean.model[name], first.model[name] + 0.5)


def test_tied_weights_stay_one_tensor(trained: Path):
    mean = average([trained / BEST, trained / BEST], [1, 1], "command").model
    tied = {mean["decoder.embedding.weight"].data_ptr(), mean["decoder.output.weight"].data_ptr()}
    assert len(tied) == 1


def test_averaging_a_model_with_itself_keeps_its_weights(trained: Path):
    same = average([trained / BEST, trained / BEST], [1, 2], "command")
    for name, value in load_checkpoint(trained / BEST).model.items():
        torch.testing.assert_close(same.model[name], value)


def test_an_average_is_scored_as_training_scores_checkpoints(trained: Path, shapes: Path, tmp_path: Path):
    output = tmp_path / "average.pt"
    best = load_checkpoint(trained / BEST)
    arguments = ["average", str(trained / BEST), str(trained / BEST), "--data", str(shapes), "--output", str(output)]
    result = CliRunner().invoke(main, [*arguments, "--threads", "1"])
    assert result.exit_code == 0, result.output
    written = load_checkpoint(output)
    assert written.training is None
    for name in ("dev_loss", "accuracy", "bleu_4", "cider"):
        assert written.metrics[name] == pytest.approx(best.metrics[name], abs=1e-3)
    assert {"split", "photos", "references", "captions"} <= written.metrics.keys()
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code != 0
    assert "already exists" in again.output


def altered(checkpoint: Checkpoint, **model: object) -> Checkpoint:
    return replace(checkpoint, config=replace(checkpoint.config, model=replace(checkpoint.config.model, **model)))


def test_models_that_differ_beyond_training_settings_are_refused(trained: Path, tmp_path: Path):
    best, other = load_checkpoint(trained / BEST), tmp_path / "other.pt"
    save_checkpoint(other, altered(best, gate=False))
    with pytest.raises(
        CaptionerError,
        match=r"^The model in .*other\.pt differs from the one in .* \(model\.gate is False instead of True\)",
    ):
        average([trained / BEST, other], [1, 1], "command")
    save_checkpoint(other, replace(best, model={**best.model, "decoder.embedding.weight": torch.zeros(2, 3)}))
    with pytest.raises(CaptionerError, match=r"\(the shapes of the weights differ\)"):
        average([trained / BEST, other], [1, 1], "command")
    save_checkpoint(other, altered(best, fine_tune=3, dropout=0.25))
    average([trained / BEST, other], [1, 1], "command")


@pytest.mark.parametrize(
    ("count", "shares", "message"),
    [
        (1, [1.0], "at least two checkpoints"),
        (2, [1.0], "2 checkpoints and 1 weights"),
        (2, [1.0, 0.0], "must be above 0"),
        (2, [1.0, float("nan")], "must be above 0"),
    ],
)
def test_invalid_numbers_of_checkpoints_and_shares_are_refused(trained: Path, count, shares, message):
    with pytest.raises(CaptionerError, match=message):
        average([trained / LAST] * count, shares, "command")


def test_averaging_keeps_temporary_files_of_another_run(trained: Path, shapes: Path, tmp_path: Path):
    (tmp_path / ".last.pt-1").touch()
    arguments = ["average", str(trained / BEST), str(trained / LAST), "--data", str(shapes), "--threads", "1"]
    assert CliRunner().invoke(main, [*arguments, "--output", str(tmp_path / "mean.pt")]).exit_code == 0
    assert (tmp_path / ".last.pt-1").exists()


def test_an_unwritable_output_is_refused_before_anything_is_read(tmp_path: Path):
    (tmp_path / "file").touch()
    output, nothing = tmp_path / "file" / "mean.pt", str(tmp_path / "nothing")
    result = CliRunner().invoke(main, ["average", nothing, nothing, "--data", nothing, "--output", str(output)])
    assert result.exit_code == 1
    assert f"The folder {output.parent} cannot be written" in result.output
