"""A damaged checkpoint is refused, and no code in a PyTorch file runs."""

from __future__ import annotations

import ast
import io
import os
import pickle
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from caprun.bundle.vocabulary import Vocabulary
from captioner.cli import main
from captioner.config import load_config
from captioner.errors import CaptionerError
from captioner.models import backbones
from captioner.models.checkpoint import BEST, LAST, Checkpoint, load_checkpoint, save_checkpoint
from captioner.pytorch_file import DamagedError, load_unpickled
from captioner.text.tokenizer import SPECIAL
from tests.scarcity import obeying_permissions

ROOT = Path(__file__).parents[3]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Writes a checkpoint without a real model and returns its path."""
    path = tmp_path / "run" / "best.pt"
    checkpoint = Checkpoint(
        config=load_config(),
        vocabulary=Vocabulary(("<pad>", "<start>", "<end>", "<unk>", "dog")),
        special=SPECIAL,
        model={"weight": torch.arange(600.0).view(20, 30)},
        samples=torch.zeros((2, 4, 4, 3), dtype=torch.uint8),
        metrics={"cider": 0.5},
        provenance={"command": "captioner train"},
        training={"steps": 3},
    )
    save_checkpoint(path, checkpoint)
    return path


def content_of(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(file, weights_only=True)
    return found


def refused(path: Path) -> str:
    with pytest.raises(CaptionerError) as caught:
        load_checkpoint(path)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert sentence.endswith(".")
    assert sentence.isprintable()
    return sentence


# --- Damage


def test_a_flipped_bit_is_refused_or_leaves_the_weights_intact(file: Path) -> None:
    sound, chance = file.read_bytes(), random.Random(0)
    weight = sound.index(torch.arange(600.0).numpy().tobytes())
    for at in [*range(weight, weight + 2400, 100), *(chance.randrange(len(sound)) for _ in range(100))]:
        damaged = bytearray(sound)
        damaged[at] ^= 1 << chance.randrange(8)
        file.write_bytes(damaged)
        if weight <= at < weight + 2400:
            assert "is not a checkpoint, or is damaged (one of its checksums is wrong)" in refused(file)
            continue
        try:
            loaded = load_checkpoint(file)
        except CaptionerError:
            continue
        assert torch.equal(loaded.model["weight"], torch.arange(600.0).view(20, 30))


def test_every_truncation_is_refused(file: Path) -> None:
    sound = file.read_bytes()
    chosen = random.Random(1).sample(range(len(sound)), 20)
    for cut in [0, 1, 4, 22, len(sound) - 1, len(sound) - 22, *chosen]:
        file.write_bytes(sound[:cut])
        assert "is not a checkpoint, or is damaged (" in refused(file)


def test_bytes_before_a_checkpoint_are_refused(file: Path) -> None:
    file.write_bytes(b"\0" + file.read_bytes())
    assert "it is not a zip" in refused(file)


def test_the_checkpoint_in_the_repository_loads() -> None:
    path = ROOT / "weights" / "checkpoints" / "everyday_lite2.pt"
    if not path.exists():
        pytest.skip("it is in the repository alone")
    assert len(load_checkpoint(path).vocabulary) > 2000


# --- Special files, permissions and links


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes")
    os.mkfifo(tmp_path / "best.pt")
    assert "it is not a regular file" in refused(tmp_path / "best.pt")


def test_a_checkpoint_without_read_permission_is_refused(file: Path) -> None:
    file.chmod(0)
    with obeying_permissions():
        assert refused(file) == f"The checkpoint {file} cannot be read: Permission denied."


def test_a_link_to_a_checkpoint_loads(file: Path, tmp_path: Path) -> None:
    (tmp_path / "newest.pt").symlink_to(file)
    load_checkpoint(tmp_path / "newest.pt")


# --- Bombs


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test if PyTorch is given a file."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("PyTorch was given the file")

    monkeypatch.setattr(torch, "load", refuse)


def test_a_zip_bomb_is_refused_before_pytorch_unpacks_it(file: Path, unread: None) -> None:
    """PyTorch unpacks deflated zip entries, but never writes any."""
    with zipfile.ZipFile(file) as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    weights = next(name for name in parts if name.endswith("data/0"))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in parts.items():
            archive.writestr(name, bytes(2**28) if name == weights else part)
    assert file.stat().st_size < 2**20
    assert "it declares more data than it has" in refused(file)


def test_overlapping_zip_entries_are_refused(tmp_path: Path, unread: None) -> None:
    """A zip bomb without compression: many entries share the same bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("x/data.pkl", bytes(10_000))
        (whole,) = archive.filelist
        for number in range(50):
            again = zipfile.ZipInfo(f"x/data/{number}")
            again.header_offset, again.file_size, again.compress_size = 0, whole.file_size, whole.compress_size
            again.CRC = whole.CRC
            archive.filelist.append(again)
    (tmp_path / "best.pt").write_bytes(content.getvalue())
    assert "it declares more data than it has" in refused(tmp_path / "best.pt")


# --- Code


class Code:
    """Code that runs when the object is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.target),))


PARTS = ["kind", "format_version", "config", "vocabulary", "special", "model", "samples", "metrics", "training", "odd"]


@pytest.mark.parametrize("part", PARTS)
def test_code_in_any_part_of_a_checkpoint_is_not_run(file: Path, tmp_path: Path, part: str) -> None:
    target = tmp_path / "ran"
    torch.save(content_of(file) | {"format_version": 99, part: Code(target)}, file)
    refused(file)
    assert not target.exists()


def _pickle(content: object) -> bytes:
    return pickle.dumps(content)


def _old(content: object) -> bytes:
    written = io.BytesIO()
    torch.save(content, written, _use_new_zipfile_serialization=False)
    return written.getvalue()


def _tar(content: object) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            part = pickle.dumps(content)
            info = tarfile.TarInfo(name)
            info.size = len(part)
            archive.addfile(info, io.BytesIO(part))
    return written.getvalue()


def _stored_zip(content: object) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(content))
        archive.writestr("archive/version", "3")
    return written.getvalue()


def _numpy(content: object) -> bytes:
    import numpy as np

    written = io.BytesIO()
    np.save(written, np.array([content], dtype=object), allow_pickle=True)
    return written.getvalue()


@pytest.mark.parametrize("form", [_pickle, _old, _tar, _stored_zip, _numpy])
def test_code_in_any_file_format_is_not_run(tmp_path: Path, form: Callable[[object], bytes]) -> None:
    target = tmp_path / "ran"
    path = tmp_path / "weights.pt"
    path.write_bytes(form({"kind": "captioner checkpoint", "code": Code(target)}))
    refused(path)
    with pytest.raises(CaptionerError, match="is not a PyTorch weights file"):
        backbones._read_state(path)  # --encoder-weights accepts old formats without running their code
    assert not target.exists()


@pytest.mark.filterwarnings("ignore::FutureWarning")  # TorchScript is deprecated
def test_a_torchscript_file_is_refused_as_a_checkpoint(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "best.pt")
    refused(tmp_path / "best.pt")


def test_encoder_weights_in_the_old_pytorch_format_load(tmp_path: Path) -> None:
    state = {"weight": torch.ones(3)}
    (tmp_path / "old.pth").write_bytes(_old(state))
    assert torch.equal(backbones._read_state(tmp_path / "old.pth")["weight"], torch.ones(3))
    with pytest.raises(DamagedError, match="it is not a zip"):
        load_unpickled(tmp_path / "old.pth")


def test_encoder_weights_with_a_flipped_bit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "new.pth"
    torch.save({"weight": torch.arange(100.0)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(100.0).numpy().tobytes()) + 8] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        CaptionerError, match=r"new\.pth is not a PyTorch weights file \(one of its checksums is wrong\)"
    ):
        backbones._read_state(path)


def _calls(path: Path) -> list[tuple[str, dict[str, ast.expr]]]:
    return [
        (ast.unparse(node.func), {keyword.arg or "": keyword.value for keyword in node.keywords})
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]


def test_the_sources_never_load_files_that_can_run_code() -> None:
    """Every `torch.load` passes `weights_only=True`; pickles and NumPy object arrays are never loaded."""
    sources = [path for part in ("runtime", "captioner", "export", "bench") for path in (ROOT / part).rglob("*.py")]
    if not sources:
        pytest.skip("the sources are not here")
    loads = 0
    for path in sources:
        for name, given in _calls(path):
            if name in ("torch.load", "load") and "weights_only" in given:
                assert ast.unparse(given["weights_only"]) == "True", path
                loads += 1
            assert name != "torch.load" or "weights_only" in given, path
            assert "allow_pickle" not in given, path
            assert name.partition(".")[0] not in ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve"), path
            assert name not in ("eval", "exec", "yaml.load", "torch.hub.load"), path
    assert loads > 0


# --- Other types


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 0.5},
        {"format_version": True},
        {"model": None},
        {"model": {"weight": 3}},
        {"model": {3: torch.ones(1)}},
        {"model": [torch.ones(1)]},
        {"samples": None},
        {"samples": torch.ones(2, 4, 4, 3)},
        {"samples": torch.zeros(4, dtype=torch.uint8)},
        {"metrics": None},
        {"metrics": {"cider": torch.ones(1)}},
        {"provenance": [1]},
        {"tokenizer": "words"},
        {"training": 3},
        {"special": {"pad": 0, "start": 1, "end": 2, "unk": 99}},
        {"special": {"pad": 0, "start": 1, "end": 2, "unk": "3"}},
        {"special": [0, 1, 2, 3]},
        {"vocabulary": {"pieces": []}},
        {"vocabulary": {"pieces": [1]}},
    ],
    ids=str,
)
def test_a_part_of_another_type_is_refused(file: Path, change: dict[str, Any]) -> None:
    torch.save(content_of(file) | change, file)
    assert "is not a complete checkpoint (" in refused(file)


@pytest.mark.parametrize("version", [2, 99, 10**30])
def test_a_newer_format_version_is_refused_with_advice_to_upgrade(file: Path, version: int) -> None:
    torch.save(content_of(file) | {"format_version": version, "model": "of another kind"}, file)
    assert refused(file) == f"{file} was written by a newer captioner; upgrade captioner."


# --- The commands


@pytest.mark.parametrize("damage", ["flip", "cut", "code", "version"])
@pytest.mark.parametrize("command", ["caption", "evaluate", "export", "resume"])
def test_every_command_reports_a_damaged_checkpoint_in_one_line(
    trained: Path, shapes: Path, tmp_path: Path, damage: str, command: str
) -> None:
    source = trained / (LAST if command == "resume" else BEST)
    path = tmp_path / "run" / source.name
    path.parent.mkdir()
    content = bytearray(source.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    path.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    if damage == "code":
        torch.save(content_of(source) | {"metrics": Code(tmp_path / "ran")}, path)
    if damage == "version":
        torch.save(content_of(source) | {"format_version": 7}, path)
    photo = next((shapes / "images").iterdir())
    arguments = {
        "caption": ["caption", "--model", path, photo],
        "evaluate": ["evaluate", path, "--data", shapes],
        "export": ["export", path, "--output", tmp_path / "bundle"],
        "resume": ["train", "--resume", "--output", path.parent, "--data", shapes],
    }[command]
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Error: {path} ")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    "change",
    [{"optimiser": {}}, {"optimiser": 3}, {"state": {"odd": 1}}, {"state": None}, {"total_steps": "leave out"}],
    ids=str,
)
def test_an_incomplete_training_state_cannot_be_resumed(
    trained: Path, train_shapes: Callable[..., list[str]], tmp_path: Path, change: dict[str, Any]
) -> None:
    for name in (BEST, LAST):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    content = content_of(tmp_path / LAST)
    training = {key: value for key, value in (content["training"] | change).items() if value != "leave out"}
    torch.save(content | {"training": training}, tmp_path / LAST)
    with pytest.raises(CaptionerError, match=rf"^{tmp_path / LAST} cannot be resumed; its state is [^\n]+\.$"):
        train_shapes(tmp_path, resumed=load_checkpoint(tmp_path / LAST))
