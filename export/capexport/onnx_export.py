"""Writes a model's ONNX graphs with torch.export."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import onnx
import torch
from torch import nn

from capexport.graphs import EncoderGraph, StepGraph, describe, example_inputs
from caprun.bundle.manifest import GraphSpec, Precision
from captioner.models.caption_model import CaptionModel

ENCODER, DECODER = "encoder_model.onnx", "decoder_model.onnx"
ReducedPrecision = Literal["int8", "fp16"]


def files_of(precision: ReducedPrecision, fp32: Precision) -> Precision:
    """Names the graph files of a precision after those of fp32: `encoder_model.int8.onnx`."""
    encoder, decoder = (Path(file).with_suffix(f".{precision}.onnx").name for file in (fp32.encoder, fp32.decoder))
    return Precision(encoder, decoder)


def write(model: CaptionModel, directory: Path) -> tuple[str, str]:
    """Writes both graphs and returns their file names. Each file holds all its weights."""
    image, step = example_inputs(model)
    graphs = describe(model)
    _export(EncoderGraph(model), image, graphs.encoder, directory / ENCODER)
    _export(StepGraph(model), step, graphs.decoder, directory / DECODER)
    return ENCODER, DECODER


def _export(module: nn.Module, example: tuple[Any, ...], spec: GraphSpec, path: Path) -> None:
    # dimensions with the same name have the same size; `rows` and `states` vary independently of `batch`
    sizes = {name: torch.export.Dim(name) for tensor in spec.inputs for name in tensor.shape if isinstance(name, str)}
    shapes = tuple(
        {axis: sizes[name] for axis, name in enumerate(tensor.shape) if isinstance(name, str)} for tensor in spec.inputs
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter calls deprecated functions of its own
        program = torch.onnx.export(
            module.eval(),
            example,
            dynamo=True,
            verbose=False,
            dynamic_shapes=(shapes,) if isinstance(module, StepGraph) else shapes,  # its forward takes *given
            input_names=[tensor.name for tensor in spec.inputs],
            output_names=[tensor.name for tensor in spec.outputs],
        )
    assert program is not None
    path.write_bytes(_without_traces(program.model_proto).SerializeToString())


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Removes metadata, in which the exporter records the Python file and line of each node."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for part in (model.graph, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del part.metadata_props[:]
    del model.metadata_props[:], model.graph.value_info[:]
    return model
