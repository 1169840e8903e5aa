"""Encoders of every family can be exported to both formats and quantised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from capexport import onnx_export
from capexport.graphs import EncoderGraph, describe
from capexport.quantization.int8 import quantize
from captioner.config import Config, DataConfig, ModelConfig
from captioner.models.caption_model import CaptionModel, build_caption_model
from captioner.text.tokenizer import SPECIAL
from tests.capexport.conftest import draw_photos
from tests.families import FAMILIES, make_small

_FAST = {"dinov3"}
BATCHES = (1, 2, 5)


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[pytest.mark.slow] * (name not in _FAST)) for name in FAMILIES]
)
def model(request: pytest.FixtureRequest) -> CaptionModel:
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        sizes = {"projection": 16, "embedding": 8, "units": 16, "attention": 8}
        config = ModelConfig(encoder=make_small(request.param, patch), encoder_weights="none", regions=2, **sizes)
        data = DataConfig(image_size=4 * FAMILIES[request.param].patch)
        return build_caption_model(Config(data=data, model=config), 9, SPECIAL).eval()


def shown(model: CaptionModel, count: int, seed: int = 0) -> np.ndarray:
    return draw_photos(count, model.encoder.size[0], seed)


@pytest.fixture(scope="module")
def graph(model: CaptionModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "encoder_model.onnx"
    example = torch.from_numpy(shown(model, 2))
    onnx_export._export(EncoderGraph(model), (example,), describe(model).encoder, path)
    return path


def expected(model: CaptionModel, images: np.ndarray) -> list[np.ndarray]:
    with torch.inference_mode():
        return [tensor.numpy() for tensor in model.encode(torch.from_numpy(images)) if tensor is not None]


def test_onnx_computes_what_pytorch_computes_at_any_batch_size(model: CaptionModel, graph: Path) -> None:
    session = onnxruntime.InferenceSession(graph)
    for batch in BATCHES:
        images = shown(model, batch, seed=batch)
        for found, wanted in zip(session.run(None, {"image": images}), expected(model, images), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)


def test_torchscript_computes_what_pytorch_computes_at_any_batch_size(model: CaptionModel) -> None:
    with torch.no_grad():
        traced = torch.jit.trace(EncoderGraph(model), (torch.from_numpy(shown(model, 2)),), check_trace=False)
    for batch in BATCHES:
        images = shown(model, batch, seed=batch)
        for found, wanted in zip(traced(torch.from_numpy(images)), expected(model, images), strict=True):
            np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-3, atol=1e-5)


def test_training_branches_are_merged_in_the_graph_and_kept_in_the_model(model: CaptionModel, graph: Path) -> None:
    convolutions = sum(isinstance(module, nn.Conv2d) for module in model.encoder.modules())
    nodes = sum(node.op_type == "Conv" for node in onnx.load(graph).graph.node)
    if "mci" in model.encoder.name:
        assert 0 < nodes < convolutions
    else:
        assert nodes == convolutions


def test_int8_is_near_fp32_and_its_products_are_integers(model: CaptionModel, graph: Path, tmp_path: Path) -> None:
    images = shown(model, 16, seed=3)
    quantize(graph, tmp_path / "int8.onnx", [{"image": image[None]} for image in images])
    found = onnxruntime.InferenceSession(tmp_path / "int8.onnx").run(None, {"image": images})
    for one, other in zip(found, expected(model, images), strict=True):
        assert np.linalg.norm(one - other) < 0.1 * np.linalg.norm(other)
    operators = {node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node}
    assert operators & {"MatMulInteger", "QLinearMatMul", "QGemm", "QLinearConv", "MatMulIntegerToFloat"}
