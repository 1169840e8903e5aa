"""A TorchScript bundle runs on the requested device, or an error reports that the device is missing."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from captioner.backends.loading import load_captioner
from captioner.cli import main
from captioner.errors import CaptionerError
from tests.capexport.conftest import draw_photos

PHOTOS = draw_photos(6, seed=1)
REFUSAL = "PyTorch finds no CUDA device; use --device cpu."


@pytest.fixture(scope="module")
def bundle(bundles: Mapping[str, Path]) -> Path:
    return bundles["torchscript"]


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_cuda_without_a_cuda_device_is_refused(bundle: Path, no_cuda: None, tmp_path: Path) -> None:
    with pytest.raises(CaptionerError) as caught:
        load_captioner(bundle, "cuda")
    assert str(caught.value) == REFUSAL
    Image.fromarray(PHOTOS[0]).save(tmp_path / "photo.png")
    command = ["caption", "--model", str(bundle), "--device", "cuda", str(tmp_path / "photo.png")]
    result = CliRunner().invoke(main, command)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"Error: {REFUSAL}\n")


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_the_cpu_is_used_without_cuda(bundle: Path, no_cuda: None, device: str) -> None:
    captioner = load_captioner(bundle, device)
    assert {caption.text for caption in captioner.caption_arrays(PHOTOS)}


@pytest.mark.parametrize(("device", "found"), [("auto", "cuda"), ("cuda", "cuda"), ("cpu", "cpu")])
def test_graphs_are_loaded_on_the_requested_device(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, device: str, found: str
) -> None:
    places: list[torch.device] = []
    load: Callable[..., Any] = torch.jit.load

    def recording(file: Any, map_location: torch.device) -> Any:
        places.append(map_location)
        return load(file)

    monkeypatch.setattr(torch.jit, "load", recording)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    load_captioner(bundle, device)
    assert places == [torch.device(found)] * 2


def test_no_graph_names_the_device_it_was_traced_on(bundle: Path) -> None:
    for file in ("encoder_model.pt", "decoder_model.pt"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated
            graph = torch.jit.load(bundle / file)
        assert "torch.device(" not in graph.code


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_captions_on_cuda_have_the_log_probabilities_of_the_cpu(bundle: Path) -> None:
    on_gpu, on_cpu = (load_captioner(bundle, device).caption_arrays(PHOTOS, alpha=True) for device in ("cuda", "cpu"))
    for caption, expected in zip(on_gpu, on_cpu, strict=True):
        assert caption.log_prob == pytest.approx(expected.log_prob, abs=1e-2)
