"""Checkpoints are written atomically and loaded without running code."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from caprun.bundle.vocabulary import Joining, Vocabulary
from captioner.config import load_config, parse_settings
from captioner.errors import CaptionerError
from captioner.models.caption_model import CaptionModel
from captioner.models.checkpoint import (
    BEST,
    Checkpoint,
    build_model,
    load_checkpoint,
    save_checkpoint,
)
from captioner.output_files import locked_folder
from captioner.text.tokenizer import SPECIAL
from tests.captioner.trees import differing


@pytest.fixture
def small() -> Checkpoint:
    """Returns a checkpoint with every field set, but without a real model."""
    settings = parse_settings(["train.lr=0.25", 'data.sided_words=["gauche", "droite"]', "search.beam_size=7"])
    return Checkpoint(
        config=load_config(settings),
        vocabulary=Vocabulary(("<pad>", "<start>", "<end>", "<unk>", "chó", "개"), Joining(no_space_before=(",",))),
        special=SPECIAL,
        model={"weight": torch.randn(3, 5), "count": torch.tensor(3)},
        samples=torch.randint(0, 256, (2, 4, 4, 3), dtype=torch.uint8),
        metrics={"cider": 0.5, "split": "dev"},
        provenance={"command": "captioner train", "photos": {"train": 3}},
        training={
            "averaged": [torch.ones(2)],
            "steps": 3,
            "history": [{"epoch": 1.0}],
            "random": torch.get_rng_state(),
        },
    )


@pytest.fixture
def file(small: Checkpoint, tmp_path: Path) -> Path:
    path = tmp_path / "run" / "best.pt"
    save_checkpoint(path, small)
    return path


def plain(value: Any) -> Any:
    """Returns the value with tensors replaced by lists, so that == compares it."""
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), value.tolist())
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def contents(checkpoint: Checkpoint) -> dict[str, Any]:
    return {key: plain(value) for key, value in vars(checkpoint).items()}


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


# --- Atomic writes


def test_a_loaded_checkpoint_equals_the_saved_one(file, small):
    assert contents(load_checkpoint(file)) == contents(small)
    save_checkpoint(file, replace(small, training=None))
    assert load_checkpoint(file).training is None


def test_a_checkpoint_loads_with_weights_only(file):
    assert torch.load(file, weights_only=True)["kind"] == "captioner checkpoint"


def test_a_checkpoint_is_readable_by_others_and_no_temporary_file_is_left(file):
    assert oct(file.stat().st_mode & 0o777) == "0o644"
    assert names(file.parent) == ["best.pt"]


def failing(error: BaseException) -> Callable[..., None]:
    def save(_content: object, file: Any) -> None:
        file.write(b"half of it")
        raise error

    return save


def test_an_interrupted_write_leaves_only_the_previous_file(file, small, monkeypatch):
    before = file.read_bytes()
    monkeypatch.setattr(torch, "save", failing(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(file, small)
    assert names(file.parent) == ["best.pt"]
    assert file.read_bytes() == before


def test_a_failed_rename_leaves_only_the_previous_file(file, small, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    before = file.read_bytes()
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(CaptionerError, match="cannot be written: Invalid cross-device link"):
        save_checkpoint(file, replace(small, metrics={}))
    assert names(file.parent) == ["best.pt"]
    assert file.read_bytes() == before


def test_a_checkpoint_is_flushed_to_disk_before_it_is_renamed_into_place(small, tmp_path, monkeypatch):
    events: list[str] = []
    fsync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (events.append("flush"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("rename"), rename(*paths)))
    save_checkpoint(tmp_path / "best.pt", small)
    assert events == ["flush", "rename"]


def test_the_checkpoint_is_named_if_its_folder_cannot_be_created(small, tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(CaptionerError, match=r"^The checkpoint .*run/best\.pt cannot be written: "):
        save_checkpoint(tmp_path / "run" / "best.pt", small)


def test_a_checkpoint_without_jpeg_decoding_decodes_in_full(file):
    assert load_checkpoint(file).config.data.jpeg_decoding == "scaled"
    content = torch.load(file, weights_only=True)
    del content["config"]["data"]["jpeg_decoding"]
    torch.save(content, file)
    assert load_checkpoint(file).config.data.jpeg_decoding == "full"


# --- Files that are not checkpoints


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(CaptionerError, match=r"^There is no checkpoint .*best\.pt; `captioner train` prints"):
        load_checkpoint(tmp_path / "best.pt")


def test_the_error_for_a_folder_names_the_missing_best_pt(tmp_path):
    with pytest.raises(
        CaptionerError, match=r"is a folder without best\.pt; name a checkpoint or the folder of a run\.$"
    ):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"\x80\x02}", bytes(range(256)) * 9], ids=len)
def test_a_file_not_written_by_pytorch_is_refused(tmp_path, content):
    (tmp_path / "best.pt").write_bytes(content)
    with pytest.raises(CaptionerError, match=r"best\.pt is not a checkpoint, or is damaged"):
        load_checkpoint(tmp_path / "best.pt")


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(file, share):
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CaptionerError, match=r"best\.pt is not a checkpoint, or is damaged"):
        load_checkpoint(file)


def test_a_flipped_bit_of_a_weight_is_refused(file, small):
    content = bytearray(file.read_bytes())
    at = content.index(small.model["weight"].numpy().tobytes())
    content[at] ^= 1  # the lowest bit of a float: torch.load does not notice
    file.write_bytes(content)
    assert torch.load(file, weights_only=True)["kind"]
    with pytest.raises(CaptionerError, match="damaged"):
        load_checkpoint(file)


def rewritten(file: Path, **change: Any) -> Path:
    content = torch.load(file, weights_only=True) | change
    torch.save({key: value for key, value in content.items() if value != "leave out"}, file)
    return file


@pytest.mark.parametrize("content", [{"weight": torch.zeros(3)}, [1, 2], torch.zeros(3), {"kind": "other"}], ids=str)
def test_a_pytorch_file_that_is_not_a_checkpoint_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "best.pt")
    with pytest.raises(CaptionerError, match=r"best\.pt is a PyTorch file but not a captioner checkpoint\.$"):
        load_checkpoint(tmp_path / "best.pt")


def test_a_checkpoint_of_a_newer_version_is_refused(file):
    with pytest.raises(CaptionerError, match=r"best\.pt was written by a newer captioner; upgrade captioner\.$"):
        load_checkpoint(rewritten(file, format_version=2))


def test_settings_of_an_unused_self_critical_stage_are_ignored(checkpoint, tmp_path):
    """Their defaults can differ from those of the version that wrote the checkpoint."""
    other = replace(checkpoint.config.self_critical, length=0.5)
    config = copy(checkpoint.config)
    object.__setattr__(config, "self_critical", other)
    save_checkpoint(tmp_path / "old.pt", replace(checkpoint, config=config))
    assert load_checkpoint(tmp_path / "old.pt").config == checkpoint.config


@pytest.mark.parametrize("key", ["format_version", "config", "vocabulary", "special", "model", "samples", "training"])
def test_a_checkpoint_with_a_missing_part_is_refused(file, key):
    with pytest.raises(CaptionerError, match=rf"best\.pt is not a complete checkpoint .*{key}"):
        load_checkpoint(rewritten(file, **{key: "leave out"}))


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": "1"},
        {"config": {"train": {"epoch": 3}}},
        {"config": 3},
        {"config": {"train": 3}},
        {"vocabulary": {"pieces": ["a", "a"]}},
        {"vocabulary": None},
        {"special": {"pad": 0}},
    ],
    ids=str,
)
def test_a_checkpoint_with_an_invalid_part_is_refused_by_name(file, change):
    with pytest.raises(CaptionerError, match=r"best\.pt"):
        load_checkpoint(rewritten(file, **change))


class Code:
    """Code that runs when the object is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.target),))


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, file):
    content = torch.load(file, weights_only=True)
    target = tmp_path / "ran"
    torch.save(content | {"metrics": Code(target)}, file)
    with pytest.raises(CaptionerError, match=r"is not a checkpoint, or is damaged \(UnpicklingError\)"):
        load_checkpoint(file)
    assert not target.exists()
    torch.load(file, weights_only=False)
    assert target.exists()  # the code does run without weights_only


# --- Models


def test_a_model_built_from_a_checkpoint_has_its_weights(checkpoint):
    model = build_model(checkpoint)
    assert isinstance(model, CaptionModel)
    assert not model.training
    state = model.state_dict()
    assert state.keys() == checkpoint.model.keys()
    assert all(torch.equal(state[key], value) for key, value in checkpoint.model.items())


def test_weights_that_do_not_fit_the_configuration_are_refused_in_one_line(checkpoint):
    other = replace(checkpoint, config=replace(checkpoint.config, model=replace(checkpoint.config.model, units=7)))
    with pytest.raises(CaptionerError, match=r"^The checkpoint's weights do not fit its configuration") as error:
        build_model(other)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_a_copied_checkpoint_loads_the_same(file, tmp_path, small):
    assert contents(load_checkpoint(Path(shutil.copy(file, tmp_path / "copy.pt")))) == contents(small)


def test_the_folder_of_a_run_loads_its_best_checkpoint(trained):
    assert differing(dict(load_checkpoint(trained).model), dict(load_checkpoint(trained / BEST).model)) == []


def test_one_training_at_a_time_writes_to_a_folder_and_removes_stale_files(tmp_path):
    left = tmp_path / ".best.pt-half"
    left.touch()
    with locked_folder(tmp_path):
        assert not left.exists()
        left.touch()
        with (
            pytest.raises(CaptionerError, match=f"Another run is writing to {tmp_path}; wait"),
            locked_folder(tmp_path),
        ):
            pass
        assert left.exists()  # it belongs to the running training
    with locked_folder(tmp_path):
        pass
