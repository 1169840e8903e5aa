"""An export reports a disk that becomes full at any file; a damaged TorchScript bundle is refused."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from capexport.export import ExportRequest, export
from capexport.quantization import acceptance, int8
from caprun.bundle.manifest import Manifest
from caprun.bundle.reading import read_bundle
from caprun.errors import BundleError, CaprunError
from captioner.backends.loading import load_captioner
from captioner.cli import main
from captioner.config.export import ExportSettings
from captioner.datasets import Example
from tests.capexport.conftest import FORMATS, Write, draw_photos
from tests.scarcity import fill, obeying_permissions, small_disk


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    directory = tmp_path_factory.mktemp("photos")
    for number, photo in enumerate(draw_photos(8, seed=2)):
        Image.fromarray(photo).save(directory / f"{number}.png")
    return [Example(directory / f"{number}.png", ("a dog runs",), "dev") for number in range(8)]


Run = Callable[..., Manifest]


@pytest.fixture
def run(
    copies: Mapping[str, Write], examples: list[Example], checkpoint_file: Path, monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Returns a function that exports prewritten graphs with constant scores and speeds, so that int8 is accepted."""
    for form, module in FORMATS.items():
        monkeypatch.setattr(module, "write", copies[form])
    monkeypatch.setattr(acceptance, "photos_per_second", lambda *_: [10.0, 20.0])
    monkeypatch.setattr(acceptance, "score", lambda *_: {"cider": 0.5})

    def go(output: Path, kind: Any, *precisions: Any, name: str = "small") -> Manifest:
        settings = ExportSettings(precisions, name=name)
        return export(
            ExportRequest(checkpoint_file, kind, output, settings, train=examples, dev=examples), lambda _: None
        )

    return go


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


CASES = [
    ("onnx", (), 450_000),
    ("torchscript", (), 470_000),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in [
            ("onnx", (), 0),
            ("onnx", (), 100_000),
            ("torchscript", (), 100_000),
            ("onnx", ("int8",), 520_000),
            ("onnx", ("int8",), 600_000),
            ("onnx", ("int8",), 680_000),
        ]
    ),
]


@pytest.mark.parametrize(("kind", "precisions", "room"), CASES)
def test_an_export_on_a_full_disk_leaves_the_previous_bundle(
    run: Run, tmp_path: Path, kind: str, precisions: tuple[str, ...], room: int
) -> None:
    with small_disk(tmp_path / "disk", 2**22) as disk:
        run(disk / "bundle", kind, name="before")
        before = contents(disk / "bundle")
        fill(disk, leave=room)
        with pytest.raises(
            BundleError, match=rf"^{disk}/bundle[^\n]* cannot be written: No space left on device; the previous "
        ):
            run(disk / "bundle", kind, *precisions, name="after")
        assert contents(disk / "bundle") == before
        assert sorted(path.name for path in disk.iterdir()) == ["ballast", "bundle"]
        assert read_bundle(disk / "bundle").manifest.name == "before"
        (disk / "ballast").unlink()
        assert run(disk / "bundle", kind, *precisions, name="after").name == "after"


@pytest.mark.parametrize("room", [0, 200_000, 2_000_000])
def test_a_full_temporary_folder_during_calibration_leaves_the_previous_bundle(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """ONNX and ONNX Runtime write graphs there and do not report a truncated file."""
    run(tmp_path / "bundle", "onnx", name="before")
    before = contents(tmp_path / "bundle")
    with small_disk(tmp_path / "disk", 2**22) as disk:
        fill(disk, leave=room)
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        with pytest.raises(
            BundleError, match=rf"^{disk}[^\n]* cannot be written: [^\n]*; the previous content of {tmp_path}/bundle"
        ):
            run(tmp_path / "bundle", "onnx", "int8", name="after")
        assert [path.name for path in disk.iterdir()] == ["ballast"]
    assert contents(tmp_path / "bundle") == before


@pytest.mark.parametrize("room", [200_000, 450_000, 700_000])
def test_a_temporary_graph_truncated_during_quantisation_is_reported(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], room: int
) -> None:
    """The disk appears to have space when checked, and is full when written to."""
    with small_disk(tmp_path / "disk", 2**22) as disk:
        fill(disk, leave=room)
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        monkeypatch.setattr(int8.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**40))
        with pytest.raises(CaprunError) as caught:
            run(tmp_path / "bundle", "onnx", "int8")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "bundle").exists()
    assert "Traceback" not in "".join(capfd.readouterr())


def test_an_export_to_a_read_only_folder_is_refused_in_one_line(checkpoint_file: Path, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir(mode=0o500)
    with obeying_permissions():
        output = tmp_path / "weights" / "bundle"
        result = CliRunner().invoke(main, ["export", str(checkpoint_file), "--output", str(output)])
    assert result.exit_code == 1
    assert result.stderr == f"Error: {output} cannot be written: Permission denied.\n"


# --- TorchScript


@pytest.mark.parametrize("file", ["encoder_model.pt", "decoder_model.pt", "model.json", "vocab.json", "MODEL_CARD.md"])
def test_a_damaged_torchscript_bundle_is_refused_before_pytorch_reads_it(
    bundles: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("PyTorch was given a graph")

    bundle = Path(shutil.copytree(bundles["torchscript"], tmp_path / "bundle"))
    load_captioner(bundle)
    monkeypatch.setattr(torch.jit, "load", refuse)
    sound, chance = (bundle / file).read_bytes(), random.Random(file)
    damaged = [sound[: chance.randrange(len(sound.rstrip()))] for _ in range(20)]
    for _ in range(50):
        flipped = bytearray(sound)
        flipped[chance.randrange(len(sound))] ^= 1 << chance.randrange(8)
        damaged.append(bytes(flipped))
    for content in damaged:
        (bundle / file).write_bytes(content)
        with pytest.raises(BundleError, match=rf"^{bundle / file} (has|is) [^\n]+\.$"):
            load_captioner(bundle)
    monkeypatch.undo()
    (bundle / file).write_bytes(sound)
    load_captioner(bundle)


def test_the_command_reports_a_damaged_torchscript_bundle_in_one_line(
    bundles: Mapping[str, Path], tmp_path: Path, examples: list[Example]
) -> None:
    bundle = Path(shutil.copytree(bundles["torchscript"], tmp_path / "bundle"))
    content = bytearray((bundle / "decoder_model.pt").read_bytes())
    content[len(content) // 2] ^= 4
    (bundle / "decoder_model.pt").write_bytes(content)
    result = CliRunner().invoke(main, ["caption", "--model", str(bundle), str(examples[0].image)])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: {bundle}/decoder_model.pt has been altered (its checksum is wrong);")
    assert result.stderr.count("\n") == 1
