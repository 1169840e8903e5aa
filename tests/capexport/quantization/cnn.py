"""Writes and runs a small ONNX network with every kind of layer that int8 handles differently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

CHANNELS, SIDE = 8, 12
DEAD = 3
"""A channel of the convolution `out` with a bias but zero weights."""
Array = npt.NDArray[Any]


def write_cnn(path: Path) -> None:
    """Writes six convolutions, one depthwise and one pointwise in a residual block, and a matrix product."""
    rng = np.random.default_rng(0)
    weights: list[TensorProto] = []

    def constant(name: str, value: Array) -> str:
        weights.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name

    def convolution(source: str, name: str, size: int, groups: int = 1, inputs: int = CHANNELS) -> onnx.NodeProto:
        shape = (CHANNELS, inputs // groups, size, size)
        kernel, bias = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:])), rng.normal(size=CHANNELS) / 3
        if name == "out":
            kernel[DEAD], bias[DEAD] = 0, 0.7
        if name == "last":  # half of the weights are at the maximum: compensating for others would raise them
            kernel = np.where(rng.random(shape) < 0.5, np.sign(kernel), kernel)
        names = [source, constant(f"{name}_weight", kernel), constant(f"{name}_bias", bias)]
        pads = [size // 2] * 4
        return helper.make_node("Conv", names, [name], name, group=groups, kernel_shape=[size, size], pads=pads)

    def clip(source: str) -> onnx.NodeProto:
        return helper.make_node("Clip", [source, "zero", "six"], [f"{source}_clipped"], f"{source}_clip")

    constant("zero", np.array(0.0))
    constant("six", np.array(6.0))
    nodes = [convolution("image", "first", 3, inputs=3), clip("first")]
    nodes += [convolution("first_clipped", "second", 3), convolution("second", "third", 1), clip("third")]
    nodes += [convolution("third_clipped", "depthwise", 3, groups=CHANNELS), clip("depthwise")]
    nodes += [convolution("depthwise_clipped", "out", 1)]
    nodes += [helper.make_node("Add", ["out", "third_clipped"], ["added"], "add")]
    nodes += [helper.make_node("Relu", ["added"], ["sum"], "relu")]
    nodes += [convolution("sum", "last", 1), helper.make_node("ReduceMean", ["last", "axes"], ["mean"], keepdims=0)]
    weights.append(numpy_helper.from_array(np.array([2, 3]), "axes"))
    nodes += [helper.make_node("MatMul", ["mean", constant("product_weight", rng.normal(size=(CHANNELS, 5)))], ["y"])]
    nodes[-1].name = "product"
    graph = helper.make_graph(
        nodes,
        "cnn",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5]),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["batch", CHANNELS, SIDE, SIDE]),
        ],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def images(count: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).uniform(-1, 1, (count, 3, SIDE, SIDE)).astype(np.float32)


def computed(path: Path, batch: Array) -> list[Array]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return list(session.run(["y", "sum"], {"image": batch}))
