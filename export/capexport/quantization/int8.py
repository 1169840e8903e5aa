"""int8 graphs: static scales calibrated on training photos, so that a caption never depends on its batch.

A scale taken from the batch at hand (dynamic quantisation) would make it depend. Graphs hold QuantizeLinear and
DequantizeLinear of the ONNX standard around convolutions and matrix products; ONNX Runtime computes what is between
them in integers. Weights have seven bits (`reduce_range`): without VNNI, two products of eight bits overflow the
sixteen that x86 adds them up in. A depthwise convolution is computed otherwise, and keeps eight.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError
from onnx import NodeProto, TensorProto, numpy_helper

from capexport.quantization.ranges import Calibration, Feed, find_ranges, observe
from capexport.quantization.rounding import round_weights
from caprun.inference.devices import onnxruntime
from captioner.errors import CaptionerError

_ACTIVATIONS = ("Clip", "Relu")
_PRODUCTS = ("MatMul", "Gemm")
_FLOAT_CONVOLUTIONS = 3
"""The first are left alone: of the largest maps and the fewest channels, integers are less exact and no faster."""
_COPIES = 5
"""Of a graph, in the folder for temporary files at a time, with room to spare."""
_LIMIT = 64
"""Of the magnitude of a weight of seven bits: twice 64 times 255, the largest activation, is what sixteen bits hold."""


def quantize(source: Path, target: Path, feeds: Sequence[Feed], calibration: Calibration = "minmax") -> None:
    """Write an int8 copy of a graph.

    Args:
        source: an fp32 graph.
        target: file to write.
        feeds: inputs as they are in use; activations get the ranges they have here. The intermediate values of one are
            in memory at a time.
        calibration: see `find_ranges`.
    """
    onnxruntime()
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(prefix="quantize-") as scratch, _whole_graphs(scratch, source.stat().st_size):
        folded, quantized = Path(scratch, "folded.onnx"), Path(scratch, "quantized.onnx")
        with _quiet():
            quant_pre_process(str(source), str(folded), skip_symbolic_shape=True)
            graph = _Graph(onnx.load(folded))
            ranges = find_ranges(graph.model, graph.activations(), feeds, calibration)
            quantize_static(
                str(folded),
                str(quantized),
                _reader(feeds[:1]),  # it insists on finding ranges itself, and then takes those that it is given
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv", *_ACTIVATIONS, *_PRODUCTS],
                nodes_to_quantize=[node.name for node in graph.quantized()],
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options={
                    "OpTypesToExcludeOutputQuantization": list(_PRODUCTS),  # floats are what follows them
                    "TensorQuantOverrides": {
                        name: [{"axis": 0, "quant_type": QuantType.QInt8, "symmetric": True, "reduce_range": False}]
                        for name in graph.depthwise()
                    }
                    | {
                        name: [{"rmin": np.array(low, np.float32), "rmax": np.array(high, np.float32)}]
                        for name, (low, high) in ranges.items()
                    },
                },
            )
            model = onnx.load(quantized)
            _round_again(model, graph, feeds)
        onnx.save(model, target)


@contextlib.contextmanager
def _whole_graphs(scratch: str, size: int) -> Iterator[None]:
    """ONNX and ONNX Runtime write graphs from C++, and do not notice where the disk fills up."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), scratch)
    if shutil.disk_usage(scratch).free < _COPIES * size:
        raise full
    try:
        yield
    except DecodeError as error:
        raise full from error


class _Graph:
    """An fp32 graph, as far as it matters to a quantiser."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        convolutions = [node for node in model.graph.node if node.op_type == "Conv" and node.input[1] in self.weights]
        self.convolutions = convolutions[_FLOAT_CONVOLUTIONS:]
        self.products = [node for node in model.graph.node if node.op_type in _PRODUCTS and self._is_layer(node)]

    def _is_layer(self, node: NodeProto) -> bool:
        """Whether it is a product with a matrix of weights: one with a vector is no work worth a quantisation."""
        weight = self.weights.get(node.input[1])
        return weight is not None and len(weight.dims) == 2 and min(weight.dims) > 1

    def quantized(self) -> list[NodeProto]:
        """Nodes to quantise; a sum of quantised maps, as in a residual block, is then one of integers by itself."""
        between = [node for node in self.model.graph.node if node.op_type in _ACTIVATIONS and self.convolutions]
        return [*self.convolutions, *self.products, *between]

    def activations(self) -> list[str]:
        """Names of the float tensors that nodes to quantise take and give."""
        graph = self.model.graph
        floats = {
            tensor.name
            for tensor in (*graph.input, *graph.output, *graph.value_info)
            if tensor.type.tensor_type.elem_type == TensorProto.FLOAT
        }
        touched = {name for node in self.quantized() for name in (*node.input, *node.output)}
        return sorted((touched & floats) - set(self.weights))

    def depthwise(self) -> list[str]:
        """Names of the weights of convolutions of one channel each."""
        return [
            node.input[1]
            for node in self.convolutions
            if self.weights[node.input[1]].dims[1] == 1 and self.weights[node.input[1]].dims[0] == _groups(node)
        ]

    def pointwise(self) -> list[NodeProto]:
        """Convolutions that are a matrix product at every pixel."""
        return [
            node
            for node in self.convolutions
            if _groups(node) == 1 and all(size == 1 for size in self.weights[node.input[1]].dims[2:])
        ]

    def moments(self, nodes: Sequence[NodeProto], feeds: Sequence[Feed]) -> dict[str, npt.NDArray[np.float64]]:
        """Of the inputs (batch, channels, height, width) of nodes, see `round_weights`; by the inputs' names."""
        total: dict[str, npt.NDArray[np.float64]] = {}
        for name, value in observe(self.model, sorted({node.input[0] for node in nodes}), feeds):
            columns = np.moveaxis(value, 1, 0).reshape(value.shape[1], -1)
            total[name] = total.get(name, 0.0) + (columns @ columns.T).astype(np.float64)
        return total


def _groups(node: NodeProto) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "group"), 1)


def _round_again(quantized: onnx.ModelProto, graph: _Graph, feeds: Sequence[Feed]) -> None:
    """Round the weights of pointwise convolutions by what they do to the output; the scales stay."""
    nodes = graph.pointwise()
    if not nodes:
        return
    tensors = {tensor.name: tensor for tensor in quantized.graph.initializer}
    moments = graph.moments(nodes, feeds)
    for node in nodes:
        weights = numpy_helper.to_array(graph.weights[node.input[1]])
        scales = numpy_helper.to_array(_written(tensors, node, "_scale"))
        stored = _written(tensors, node, "_quantized")
        matrix = weights.reshape(len(weights), -1).astype(np.float64)
        rounded = round_weights(matrix, scales.astype(np.float64), moments[node.input[0]], _LIMIT)
        stored.CopyFrom(numpy_helper.from_array(rounded.reshape(weights.shape), stored.name))


def _written(tensors: Mapping[str, TensorProto], node: NodeProto, suffix: str) -> TensorProto:
    """What the quantiser made of a node's weights; it names them after the weights."""
    return tensors[node.input[1] + suffix]


def _reader(feeds: Sequence[Feed]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(feeds)

        def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
            feed = next(self.left, None)
            return None if feed is None else dict(feed)

    return Reader()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser prints what it does and warns of what was done."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    refusing = _Refusing()
    logging.root.addHandler(refusing)
    try:
        with contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
            yield
    finally:
        logging.root.removeHandler(refusing)
        logging.disable(level)


class _Refusing(logging.Handler):
    """The quantiser logs that a graph could not be folded, with a traceback, and goes on without."""

    def emit(self, record: logging.LogRecord) -> None:
        raise CaptionerError(f"ONNX Runtime cannot prepare a graph for int8: {record.getMessage().splitlines()[0]}")
