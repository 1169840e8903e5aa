"""Writes a model's TorchScript graphs by tracing. TorchScript is deprecated, so nothing else depends on it."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import torch

from capexport.graphs import EncoderGraph, StepGraph, example_inputs
from captioner.models.caption_model import CaptionModel

ENCODER, DECODER = "encoder_model.pt", "decoder_model.pt"


def write(model: CaptionModel, directory: Path) -> tuple[str, str]:
    """Writes both graphs and returns their file names."""
    image, step = example_inputs(model)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        for module, example, file in ((EncoderGraph(model), image, ENCODER), (StepGraph(model), step, DECODER)):
            traced = torch.jit.trace(module.eval(), example, check_trace=False)  # type: ignore[no-untyped-call]
            # freezing keeps only the weights that a graph uses; its arithmetic does not change
            content = io.BytesIO()  # so a full disk raises OSError, which PyTorch's own writer does not
            torch.jit.save(torch.jit.freeze(traced, optimize_numerics=False), content)
            (directory / file).write_bytes(content.getvalue())
    return ENCODER, DECODER
