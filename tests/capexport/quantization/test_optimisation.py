"""An optimised graph computes the same bits on any processor, from operators that every ONNX Runtime has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from capexport.quantization import int8
from capexport.quantization.int8 import optimise
from tests.capexport.quantization.cnn import computed, images, write_cnn


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Returns an int8 graph as the quantiser writes it, and the same graph optimised."""
    directory = tmp_path_factory.mktemp("graphs")
    fp32, plain, optimised = (directory / f"{name}.onnx" for name in ("fp32", "plain", "optimised"))
    write_cnn(fp32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8, "optimise", lambda source, _: onnx.load(source))
        int8.quantize(fp32, plain, [{"image": images(32)}])
    onnx.save(optimise(plain, directory / "written.onnx"), optimised)
    return plain, optimised


@pytest.mark.parametrize("batch", [1, 2, 7, 16])
def test_an_optimised_graph_computes_the_same_bits(pair: tuple[Path, Path], batch: int) -> None:
    plain, optimised = (computed(path, images(batch, seed=3)) for path in pair)
    for value, other in zip(plain, optimised, strict=True):
        np.testing.assert_array_equal(value, other)


def test_onnx_runtime_finds_nothing_left_to_fuse(pair: tuple[Path, Path], tmp_path: Path) -> None:
    plain, optimised = (onnx.load(path).graph.node for path in pair)
    again = optimise(pair[1], tmp_path / "again.onnx").graph.node
    assert [node.op_type for node in again] == [node.op_type for node in optimised]
    assert len(optimised) < len(plain) / 2


def test_an_optimised_graph_uses_only_operators_that_every_build_has(pair: tuple[Path, Path]) -> None:
    model = onnx.load(pair[1])
    assert {entry.domain for entry in model.opset_import} == {"", "com.microsoft"}
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx", "com.microsoft"}


def test_inputs_and_outputs_keep_their_names_types_and_shapes(pair: tuple[Path, Path]) -> None:
    plain, optimised = (onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in pair)
    for found, expected in (
        (optimised.get_inputs(), plain.get_inputs()),
        (optimised.get_outputs(), plain.get_outputs()),
    ):
        assert [(one.name, one.type, one.shape) for one in found] == [(o.name, o.type, o.shape) for o in expected]
