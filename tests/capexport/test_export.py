"""An export verifies its files; a failed export leaves no new bundle and keeps the previous one."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
import torch

from capexport import onnx_export, torchscript_export
from capexport.export import ExportRequest, export
from capexport.verify import ParityError
from caprun.bundle.reading import read_bundle
from caprun.errors import BundleError, CaprunError
from captioner.config.export import ExportSettings
from tests.capexport.conftest import FORMATS, Write, draw_photos


def _silent(_: str) -> None:
    return


def _perturb_onnx(path: Path, which: int, by: float) -> str:
    """Changes one weight of the which-th largest initializer and returns its name."""
    model = onnx.load(path)
    floats = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    tensor = sorted(floats, key=lambda t: -np.prod(t.dims))[which]
    value = onnx.numpy_helper.to_array(tensor).copy()
    value.flat[value.size // 2 + 7] += by  # not in the column of PAD, which has no effect
    tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    onnx.save(model, path)
    return tensor.name


def _perturb_torchscript(path: Path, which: int, by: float) -> str:
    """Does the same in TorchScript, where frozen weights are constants, found in the file by their bytes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        nodes = list(torch.jit.load(path).graph.nodes())
    constants = [
        n for n in nodes if n.kind() == "prim::Constant" and n.hasAttribute("value") and n.kindOf("value") == "t"
    ]
    weights = [n.t("value") for n in constants if n.t("value").is_floating_point()]
    weight = sorted(weights, key=lambda w: -w.numel())[which]
    old = weight.contiguous().numpy().tobytes()
    changed = weight.clone().contiguous()
    changed.view(-1)[changed.numel() // 2 + 7] += by
    _rewrite_zip(path, old, changed.numpy().tobytes())
    return str(which)


def _rewrite_zip(path: Path, old: bytes, new: bytes) -> None:
    buffer = io.BytesIO()
    found = 0
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as target:
        for name in source.namelist():
            content = source.read(name)
            found += content == old
            target.writestr(name, new if content == old else content)
    assert found, "the weight is not in the file"
    path.write_bytes(buffer.getvalue())


PERTURB: dict[str, Callable[[Path, int, float], str]] = {"onnx": _perturb_onnx, "torchscript": _perturb_torchscript}


@pytest.fixture(autouse=True)
def copied(copies: Mapping[str, Write], monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes exports copy correct graphs, because writing them takes seconds."""
    for form, module in FORMATS.items():
        monkeypatch.setattr(module, "write", copies[form])


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("which", [0, 3, 7])
def test_an_export_with_a_slightly_wrong_decoder_fails(
    form: str,
    which: int,
    copies: Mapping[str, Write],
    checkpoint_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def write_slightly_wrong(model: object, directory: Path) -> tuple[str, str]:
        files = copies[form](model, directory)
        PERTURB[form](directory / files[1], which, 0.01)
        return files

    monkeypatch.setattr(FORMATS[form], "write", write_slightly_wrong)
    with pytest.raises(ParityError, match="differ from PyTorch"):
        export(ExportRequest(checkpoint_file, form, tmp_path / "bundle"), _silent)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_the_previous_bundle_unchanged(
    checkpoint_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "bundle"
    export(ExportRequest(checkpoint_file, "torchscript", output), _silent)
    before = {path.name: path.read_bytes() for path in output.iterdir()}

    def fail(*_: object) -> None:
        raise RuntimeError("the exporter broke")

    monkeypatch.setattr(torchscript_export, "write", fail)
    with pytest.raises(RuntimeError, match="the exporter broke"):
        export(ExportRequest(checkpoint_file, "torchscript", output), _silent)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_an_export_replaces_the_previous_bundle(checkpoint_file: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        export(ExportRequest(checkpoint_file, "torchscript", tmp_path / "bundle", ExportSettings(name=name)), _silent)
        assert read_bundle(tmp_path / "bundle").manifest.name == name
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_folder_that_is_not_a_bundle_is_not_replaced(checkpoint_file: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.txt").write_text("precious")
    with pytest.raises(BundleError, match="is not a bundle"):
        export(ExportRequest(checkpoint_file, "torchscript", tmp_path / "photos"), _silent)
    assert (tmp_path / "photos" / "mine.txt").read_text() == "precious"


def test_additional_photos_are_compared(checkpoint_file: Path, tmp_path: Path) -> None:
    from PIL import Image

    files = []
    for i, photo in enumerate(draw_photos(3, seed=5)):
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(photo).save(files[-1])
    manifest = export(ExportRequest(checkpoint_file, "torchscript", tmp_path / "bundle", photos=files), _silent)
    assert manifest.parity["photos"] == 16 + 3


def test_the_card_matches_the_manifest(checkpoint_file: Path, tmp_path: Path) -> None:
    text = tmp_path / "intro.md"
    text.write_text("Drawn shapes only.")
    settings = ExportSettings(name="shapes", licence="CC0", card=str(text))
    request = ExportRequest(checkpoint_file, "torchscript", tmp_path / "bundle", settings)
    manifest = export(request, _silent)
    card = (tmp_path / "bundle" / "MODEL_CARD.md").read_text()
    assert card.startswith("# shapes\n\nDrawn shapes only.\n\nLicence: CC0\n")
    assert str(manifest.provenance["checkpoint_sha256"]) in card
    assert f"{manifest.parity['captions']} captions" in card


def test_a_missing_checkpoint_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CaprunError, match="There is no checkpoint"):
        export(ExportRequest(tmp_path / "no.pt", "onnx", tmp_path / "bundle"), _silent)


def test_onnx_graphs_do_not_contain_the_path_of_the_sources(graphs: Mapping[str, Path]) -> None:
    for file in graphs["onnx"].iterdir():  # TorchScript keeps source file names for its error messages
        assert str(Path(onnx_export.__file__).parents[2]).encode() not in file.read_bytes()
