"""int8 graphs compute in integers where intended, and their captions do not depend on the batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from capexport.export import ExportRequest, export
from capexport.quantization.int8 import quantize, write_int8
from caprun.bundle.reading import Bundle, read_bundle
from caprun.bundle.writing import write_manifest
from caprun.engine import Captioner
from caprun.inference.session import OnnxBackend
from captioner.config.export import Calibration
from captioner.models.checkpoint import save_checkpoint
from tests.capexport.conftest import draw_photos, make_checkpoint
from tests.capexport.quantization.cnn import DEAD, computed, images, write_cnn

Array = npt.NDArray[Any]


# --- A small CNN


@pytest.fixture(scope="module")
def cnn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cnn") / "fp32.onnx"
    write_cnn(path)
    return path


@pytest.fixture(scope="module", params=get_args(Calibration))
def small(request: pytest.FixtureRequest, cnn: Path) -> Path:
    """Returns the int8 graph of the CNN, calibrated on feeds of different sizes."""
    path = cnn.with_name(f"{request.param}.onnx")
    quantize(cnn, path, [{"image": images(32)}, {"image": images(7, seed=2)}], request.param)
    return path


def integers(path: Path) -> dict[str, Array]:
    """Returns the weights that are 8-bit integers, by name."""
    tensors = onnx.load(path).graph.initializer
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}
    return {name: array for name, array in arrays.items() if array.dtype == np.int8 and array.ndim > 1}


def test_quantised_weights_use_the_eighth_bit(small: Path) -> None:
    found = {name.removesuffix("_weight_quantized"): np.abs(w.astype(int)) for name, w in integers(small).items()}
    assert found.pop("depthwise").max() == 127
    assert set(found) == {"out", "last", "product"}
    for weights in found.values():
        assert weights.max() > 64


def test_no_sum_of_products_overflows(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).normal(1, 0.3, (64, 8)).astype(np.float32)
    node = onnx.helper.make_node("MatMul", ["rows", "weights"], ["out"])
    rows, out = (
        onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in (("rows", 64), ("out", 8))
    )
    graph = onnx.helper.make_graph([node], "product", [rows], [out], [numpy_helper.from_array(weights, "weights")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, tmp_path / "fp32.onnx")
    largest = np.ones((2, 64), np.float32)
    quantize(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", [{"rows": largest}], "minmax")
    session = onnxruntime.InferenceSession(tmp_path / "int8.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"rows": largest})
    np.testing.assert_allclose(found, largest @ weights, rtol=0.01)


def test_an_int8_graph_computes_nearly_what_fp32_computes(cnn: Path, small: Path) -> None:
    batch = images(16, seed=3)
    for expected, value in zip(computed(cnn, batch), computed(small, batch), strict=True):
        assert value.dtype == np.float32
        assert np.linalg.norm(value - expected) < 0.05 * np.linalg.norm(expected)


def test_a_channel_without_weights_keeps_its_bias(cnn: Path, small: Path) -> None:
    batch = images(4, seed=3)
    _, expected = computed(cnn, batch)
    _, found = computed(small, batch)
    step = expected.max() / 255
    np.testing.assert_allclose(found[:, DEAD], expected[:, DEAD], atol=3 * step)


def test_quantised_layers_use_integer_operators(small: Path) -> None:
    found = [node.op_type for node in onnx.load(small).graph.node]
    assert found.count("QLinearConv") == 3
    assert found.count("Conv") + found.count("FusedConv") == 3  # the first layers stay in floating point
    assert found.count("QLinearAdd") == 1
    assert found.count("MatMulIntegerToFloat") == 1
    assert not {"Add", "Relu", "MatMul"} & set(found)


def test_only_the_graph_is_written(cnn: Path, tmp_path: Path) -> None:
    quantize(cnn, tmp_path / "int8.onnx", [{"image": images(2)}])
    assert [path.name for path in tmp_path.iterdir()] == ["int8.onnx"]
    with pytest.raises(Exception, match=r"\.onnx"):
        quantize(tmp_path / "missing.onnx", tmp_path / "other.onnx", [{"image": images(2)}])
    assert [path.name for path in tmp_path.iterdir()] == ["int8.onnx"]


def test_matrix_weights_are_rounded_by_their_effect_on_the_output(
    cnn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feeds = [{"image": images(32)}]
    quantize(cnn, tmp_path / "rounded.onnx", feeds)
    monkeypatch.setattr("capexport.quantization.int8._round_again", lambda *_: None)
    quantize(cnn, tmp_path / "plain.onnx", feeds)
    rounded, plain = integers(tmp_path / "rounded.onnx"), integers(tmp_path / "plain.onnx")
    changed = {name for name, weights in plain.items() if not np.array_equal(weights, rounded[name])}
    assert changed == {"out_weight_quantized", "last_weight_quantized", "product_weight_quantized"}
    for name in changed:
        assert np.abs(plain[name].astype(int) - rounded[name]).max() <= 4


# --- Whole models

MODELS: dict[str, dict[str, Any]] = {
    "depthwise convolutions, attention": {"regions": 3},
    "residual blocks, no attention, two layers": {"decoder": "rnetvhc", "layers": 2, "encoder": "timm/test_resnet"},
    "hard attention, tied words": {"decoder": "hard-attention", "tie_words": True, "gate": False, "regions": 2},
}
PHOTOS = draw_photos(16, seed=1)


_FIRST, *_OTHERS = MODELS


@pytest.fixture(scope="module", params=[_FIRST, *(pytest.param(name, marks=pytest.mark.slow) for name in _OTHERS)])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Returns a bundle with int8 graphs added without acceptance checks, because the weights are random."""
    directory = tmp_path_factory.mktemp("int8")
    checkpoint = make_checkpoint(**MODELS[request.param])
    if "encoder" in MODELS[request.param]:
        checkpoint.model["project.0.weight"] /= 100  # its random features are larger than the usual encoder's
    save_checkpoint(directory / "best.pt", checkpoint)
    export(ExportRequest(directory / "best.pt", "onnx", directory / "bundle"), lambda _: None)
    bundle = read_bundle(directory / "bundle")
    precisions = {**bundle.manifest.precisions, "int8": write_int8(bundle, draw_photos(32, seed=2), "minmax")}
    write_manifest(bundle.path, replace(bundle.manifest, precisions=precisions), bundle.vocabulary, "")
    return read_bundle(bundle.path)


def captioner(bundle: Bundle, precision: str) -> Captioner:
    return Captioner(bundle.manifest, bundle.vocabulary, OnnxBackend(bundle, "cpu", 1, precision))


@pytest.mark.parametrize("beam_size", [1, 2, 3, 4, 5])
def test_a_photos_caption_does_not_depend_on_its_batch(bundle: Bundle, beam_size: int) -> None:
    model = captioner(bundle, "int8")
    options = model.spec.search.plain(beam_size)
    together = model.caption_arrays(PHOTOS, options)
    alone = [model.caption_arrays(photo[None], options)[0] for photo in PHOTOS]
    assert [caption.text for caption in together] == [caption.text for caption in alone]
    assert len({caption.text for caption in together}) > 1, "captions must differ for this test to mean anything"
    for caption, other in zip(together, alone, strict=True):
        assert caption.log_prob == pytest.approx(other.log_prob, abs=1e-4)
        for word, same in zip(caption.words, other.words, strict=True):
            assert word.log_prob == pytest.approx(same.log_prob, abs=1e-4)


SCALES = {
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearAdd": (1, 2, 4, 5, 6, 7),
    "QGemm": (1, 2, 4, 5),
    "MatMulIntegerToFloat": (2, 3, 4, 5),
}
"""The inputs of each operator that are scales and zero points."""


def test_scales_are_constants_and_not_computed_at_run_time(bundle: Bundle) -> None:
    files = bundle.manifest.precisions["int8"]
    for file in (files.encoder, files.decoder):
        graph = onnx.load(bundle.path / file).graph
        constants = {tensor.name for tensor in graph.initializer}
        assert not [node.op_type for node in graph.node if "Dynamic" in node.op_type]
        steps = [node for node in graph.node if node.op_type in SCALES]
        assert steps
        for node in steps:
            assert {node.input[at] for at in SCALES[node.op_type]} <= constants


def test_inputs_and_outputs_match_the_manifest(bundle: Bundle) -> None:
    files, graphs = bundle.manifest.precisions["int8"], bundle.manifest.graphs
    types = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "uint8": TensorProto.UINT8}
    for file, spec in ((files.encoder, graphs.encoder), (files.decoder, graphs.decoder)):
        graph = onnx.load(bundle.path / file).graph
        for given, tensors in ((graph.input, spec.inputs), (graph.output, spec.outputs)):
            found = [(value.name, value.type.tensor_type.elem_type) for value in given]
            assert found == [(tensor.name, types[tensor.dtype]) for tensor in tensors]


def test_the_encoder_computes_nearly_what_it_computes_in_fp32(bundle: Bundle) -> None:
    expected, found = (OnnxBackend(bundle, "cpu", 1, p).encode(PHOTOS).tensors() for p in ("fp32", "int8"))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.linalg.norm(found[name] - value) < 0.2 * np.linalg.norm(value), name


def test_a_step_gives_nearly_the_log_probabilities_of_fp32(bundle: Bundle) -> None:
    model = captioner(bundle, "fp32")
    assert isinstance(model.backend, OnnxBackend)
    context = model.backend.encode(PHOTOS).tensors()
    row, pieces = np.arange(len(PHOTOS)), len(bundle.vocabulary)
    token = np.full((len(PHOTOS), 1), bundle.manifest.special.start)
    said = []
    for precision in ("fp32", "int8"):
        step = OnnxBackend(bundle, "cpu", 1, precision).start(context)(row, row[:, None], token, pieces)
        said.append(np.take_along_axis(step.log_prob, step.candidate.argsort(2), 2))
    finite = np.isfinite(said[0])
    np.testing.assert_array_equal(np.isfinite(said[1]), finite)
    # the median, because scores differ wherever int8 attends to another region
    assert np.median(np.abs(said[1][finite] - said[0][finite])) < 0.05 * said[0][finite].std()


def test_int8_graphs_are_smaller(bundle: Bundle) -> None:
    fp32, int8 = (
        sum(bundle.manifest.files[file].bytes for file in (files.encoder, files.decoder))
        for files in (bundle.manifest.precisions["fp32"], bundle.manifest.precisions["int8"])
    )
    assert int8 < 0.8 * fp32
