"""Checkpoint to ONNX: both graphs through torch.export."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from caprun.bundle import GraphSpec
from torch import nn

from capexport.graphs import DecoderStepGraph, EncoderGraph, describe, example_inputs
from captioner.models.caption_model import CaptionModel

ENCODER, DECODER = "encoder_model.onnx", "decoder_model.onnx"


def write(model: CaptionModel, directory: Path) -> tuple[str, str]:
    """Write both graphs; returns their file names. Each holds its own weights: no external data."""
    image, step = example_inputs(model)
    graphs = describe(model)
    batch, rows, beams, states = (torch.export.Dim(name) for name in ("batch", "rows", "beams", "states"))
    photos = {0: batch}
    _export(EncoderGraph(model), image, (photos,), graphs.encoder, directory / ENCODER)
    # row's photos are some of the batch, and parent's states some of those before: four sizes of their own
    row, beam = {0: rows}, {0: rows, 1: beams}
    shapes: tuple[dict[int, Any], ...] = (row, beam, beam, {0: states}, {0: states}, photos, photos, {})
    _export(DecoderStepGraph(model), step, shapes, graphs.decoder, directory / DECODER)
    return ENCODER, DECODER


def _export(module: nn.Module, example: tuple[Any, ...], shapes: tuple[Any, ...], spec: GraphSpec, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter deprecates parts of itself
        program = torch.onnx.export(
            module.eval(),
            example,
            dynamo=True,
            verbose=False,
            dynamic_shapes=shapes,
            input_names=[tensor.name for tensor in spec.inputs],
            output_names=[tensor.name for tensor in spec.outputs],
        )
    assert program is not None
    program.save(path, external_data=False)
