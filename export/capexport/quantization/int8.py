"""Writes int8 graphs with static scales, calibrated on training photos.

Dynamic quantisation computes scales from the batch, so a caption would depend on the batch. Without VNNI, x86 adds two
products in 16 bits, which products of 8-bit weights can overflow. So the weights of matrices are rounded such that no
two neighbours overflow, those of other convolutions have seven bits (`reduce_range`), and those of depthwise
convolutions, which are computed differently, keep eight.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError
from onnx import NodeProto, TensorProto, numpy_helper

from capexport.onnx_export import files_of
from capexport.quantization.ranges import Feed, find_ranges, observe
from capexport.quantization.rounding import find_scales, round_weights
from caprun.arrays import Float32Array, Float64Array, Ids
from caprun.bundle.manifest import FULL_PRECISION, Precision
from caprun.bundle.reading import Bundle
from caprun.engine import Captioner
from caprun.inference.devices import onnxruntime
from caprun.inference.session import OnnxBackend
from caprun.search.steps import StepOutput, Steps
from captioner.config.export import Calibration
from captioner.errors import CaptionerError

_ACTIVATIONS = ("Clip", "Relu")
_PRODUCTS = ("MatMul", "Gemm")
_FLOAT_CONVOLUTIONS = 3
"""Number of first convolutions that stay float: on large maps with few channels, int8 is less exact and no faster."""
_COPIES = 6
"""Number of copies of a graph that must fit into the temporary folder."""
_BATCH = 16
_DOMAINS = ("", "com.microsoft")
"""Domains of the standard ONNX operators, and of those that every ONNX Runtime build adds."""


def write_int8(bundle: Bundle, photos: npt.NDArray[np.uint8], calibration: Calibration) -> Precision:
    """Writes int8 copies of a bundle's fp32 graphs beside them.

    Args:
        bundle: the bundle.
        photos: uint8 (photos, height, width, 3), to calibrate on.
        calibration: see `find_ranges`.

    Raises:
        CaptionerError: ONNX Runtime cannot prepare a graph.
        OSError: the disk is full.
    """
    fp32 = bundle.manifest.precisions[FULL_PRECISION]
    inputs = [tensor.name for tensor in bundle.manifest.graphs.decoder.inputs]
    recorder = _Recorder(OnnxBackend(bundle, "cpu", None, FULL_PRECISION), inputs)
    captioner = Captioner(bundle.manifest, bundle.vocabulary, recorder)
    for first in range(0, len(photos), _BATCH):
        captioner.caption_arrays(photos[first : first + _BATCH])
    precision = files_of("int8", fp32)
    image = bundle.manifest.graphs.encoder.inputs[0].name
    # one photo at a time: the intermediate values of a CNN take about 100 MB per photo
    alone = [{image: photo[None]} for photo in photos]
    quantize(bundle.path / fp32.encoder, bundle.path / precision.encoder, alone, calibration)
    quantize(bundle.path / fp32.decoder, bundle.path / precision.decoder, recorder.feeds, calibration)
    return precision


class _Recorder:
    """A backend that records the inputs of its decoder at every step; it decodes one batch at a time."""

    def __init__(self, backend: OnnxBackend, names: Sequence[str]) -> None:
        self._backend, self._names = backend, names
        self.feeds: list[Feed] = []

    def encode(self, images: npt.NDArray[np.uint8], *, alpha: bool = False) -> Steps:
        self._steps = self._backend.encode(images, alpha=alpha)
        return self

    @property
    def photo(self) -> Float32Array:
        return self._steps.photo

    def __call__(self, row: Ids, parent: Ids, token: Ids, k: int) -> StepOutput:
        given = {"row": row, "parent": parent, "token": token, "k": np.array([k])} | self._steps.tensors()
        self.feeds.append({name: np.ascontiguousarray(given[name]) for name in self._names})
        return self._steps(row, parent, token, k)


def quantize(source: Path, target: Path, feeds: Sequence[Feed], calibration: Calibration = "mse") -> None:
    """Writes an int8 copy of an fp32 graph, calibrated by `find_ranges` on realistic inputs, and optimised.

    The intermediate values of one feed are in memory at a time.

    Raises:
        CaptionerError: ONNX Runtime cannot prepare the graph.
        OSError: the disk is full.
    """
    onnxruntime()
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(prefix="quantize-") as scratch, _complete_graphs(scratch, source.stat().st_size):
        folded, quantized, optimised = (Path(scratch, f"{name}.onnx") for name in ("folded", "quantized", "optimised"))
        with _quiet():
            quant_pre_process(str(source), str(folded), skip_symbolic_shape=True)
            graph = _Graph(onnx.load(folded))
            ranges = find_ranges(graph.model, graph.activations, feeds, calibration)
            quantize_static(
                str(folded),
                str(quantized),
                # it always computes ranges, although those below replace them
                SimpleNamespace(get_next=partial(next, map(dict, feeds[:1]), None)),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv", *_ACTIVATIONS, *_PRODUCTS],
                nodes_to_quantize=[node.name for node in graph.nodes],
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options={
                    "OpTypesToExcludeOutputQuantization": list(_PRODUCTS),  # the operators after them take floats
                    "TensorQuantOverrides": {
                        name: [{"axis": 0, "quant_type": QuantType.QInt8, "symmetric": True, "reduce_range": False}]
                        for name in graph.depthwise
                    }
                    | {
                        name: [
                            {"axis": matrix.axis, "scale": np.float32(scale), "zero_point": np.int8(0)}
                            for scale in matrix.scales
                        ]
                        for name, matrix in graph.matrices.items()
                    }
                    | {
                        name: [{"rmin": np.array(low, np.float32), "rmax": np.array(high, np.float32)}]
                        for name, (low, high) in ranges.items()
                    },
                },
            )
            model = onnx.load(quantized)
            _round_again(model, graph, feeds)
            onnx.save(model, quantized)
            model = optimise(quantized, optimised)
        onnx.save(model, target)


def optimise(source: Path, target: Path) -> onnx.ModelProto:
    """Optimises a graph for CPUs at ONNX Runtime's `extended` level, so that loading it takes less time.

    The next level, `all`, arranges tensors for the current processor. Graphs at `extended` run on any processor, and
    loading them still applies `all`, so they compute the same bits. An fp32 graph would gain little, and would contain
    fused operators that the CUDA provider does not support. ONNX Runtime writes the optimised graph to `target`.
    """
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    model = onnx.load(target)
    # ONNX Runtime lists every operator set it knows; other versions or builds may not have all of them
    used = [entry for entry in model.opset_import if entry.domain in _DOMAINS]
    del model.opset_import[:]
    model.opset_import.extend(used)
    return model


@contextlib.contextmanager
def _complete_graphs(scratch: str, size: int) -> Iterator[None]:
    """Raises OSError if the disk is full, which ONNX and ONNX Runtime do not notice."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), scratch)
    if shutil.disk_usage(scratch).free < _COPIES * size:
        raise full
    try:
        yield
    except DecodeError as error:
        raise full from error


class _Graph:
    """The parts of an fp32 graph that are quantised.

    Attributes:
        nodes: the nodes to quantise; ONNX Runtime then also adds quantised feature maps as integers.
        activations: names of the float inputs and outputs of these nodes.
        depthwise: names of the weights of depthwise convolutions.
        matrices: the weights of pointwise convolutions and matrix products, by name.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, graph = model, model.graph
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        shapes = {name: tuple(tensor.dims) for name, tensor in self.weights.items()}
        convolutions = [node for node in graph.node if node.op_type == "Conv" and node.input[1] in shapes]
        convolutions = convolutions[_FLOAT_CONVOLUTIONS:]
        products = [node for node in graph.node if node.op_type in _PRODUCTS]
        # quantising a product with a vector would save too little
        products = [node for node in products if len(shape := shapes.get(node.input[1], ())) == 2 and min(shape) > 1]
        between = [node for node in graph.node if node.op_type in _ACTIVATIONS and convolutions]
        self.nodes = [*convolutions, *products, *between]
        floats = {
            tensor.name
            for tensor in (*graph.input, *graph.output, *graph.value_info)
            if tensor.type.tensor_type.elem_type == TensorProto.FLOAT
        }
        touched = {name for node in self.nodes for name in (*node.input, *node.output)}
        self.activations = sorted((touched & floats) - set(self.weights))
        self.depthwise = [
            node.input[1] for node in convolutions if shapes[node.input[1]][:2] == (_attribute(node, "group", 1), 1)
        ]
        self.matrices: dict[str, _Matrix] = {}
        for node in (*convolutions, *products):
            matrix = _matrix(node, numpy_helper.to_array(self.weights[node.input[1]]))
            if matrix is not None:
                known = self.matrices.setdefault(node.input[1], matrix)
                known.inputs.append((node.input[0], 1 if node.op_type == "Conv" else -1))


@dataclass(frozen=True)
class _Matrix:
    """The weights of a matrix product."""

    axis: int
    """Axis of the outputs in the stored tensor, which is a matrix or has additional axes of length 1."""
    weights: Float64Array
    """(outputs, inputs)."""
    scales: Float32Array
    """(outputs,), the step between the rounded weights of each output."""
    inputs: list[tuple[str, int]] = field(default_factory=list)
    """Names of the tensors that are multiplied with it, and the axis of their features."""


def _matrix(node: NodeProto, stored: npt.NDArray[np.float32]) -> _Matrix | None:
    """Returns a node's weights as a matrix, or None if it is not a matrix product or has transposed inputs."""
    if node.op_type == "Conv" and (_attribute(node, "group", 1) != 1 or set(stored.shape[2:]) != {1}):
        return None
    if _attribute(node, "transA", 0):
        return None
    outputs_first = node.op_type == "Conv" or bool(_attribute(node, "transB", 0))
    weights = stored.reshape(stored.shape[:2]).astype(np.float64)
    weights = weights if outputs_first else weights.T
    scales = find_scales(weights)
    # ONNX Runtime divides by scales, so they must not be 0
    return _Matrix(0 if outputs_first else 1, weights, np.where(scales > 0, scales, 1).astype(np.float32))


def _attribute(node: NodeProto, name: str, default: int) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), default)


def _round_again(quantized: onnx.ModelProto, graph: _Graph, feeds: Sequence[Feed]) -> None:
    """Rounds the weights of matrices for the least change of the output."""
    moments: dict[tuple[str, int], Float64Array] = {}
    inputs = {pair for matrix in graph.matrices.values() for pair in matrix.inputs}
    names = sorted({name for name, _ in inputs})
    for name, value in observe(graph.model, names, feeds) if names else ():
        for axis in (1, -1):
            if (name, axis) in inputs:
                columns = np.moveaxis(value, axis, 0).reshape(value.shape[axis], -1)
                moments[name, axis] = moments.get((name, axis), 0.0) + (columns @ columns.T).astype(np.float64)
    tensors = {tensor.name: tensor for tensor in quantized.graph.initializer}
    for name, matrix in graph.matrices.items():
        stored = tensors[f"{name}_quantized"]  # the quantiser names its tensors after the weights
        seen = sum((moments[pair] for pair in matrix.inputs), np.zeros((matrix.weights.shape[1],) * 2))
        rounded = round_weights(matrix.weights, matrix.scales.astype(np.float64), seen)
        rounded = rounded if matrix.axis == 0 else rounded.T
        stored.CopyFrom(numpy_helper.from_array(rounded.reshape(tuple(stored.dims)), stored.name))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses the output and the warnings of the quantiser."""
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
    """Raises an error: the quantiser only logs that constant folding failed, and continues."""

    def emit(self, record: logging.LogRecord) -> None:
        reason = record.getMessage().splitlines()[0].rstrip(".")
        raise CaptionerError(f"ONNX Runtime cannot prepare a graph for int8: {reason}.")
