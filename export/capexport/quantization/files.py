"""Precisions besides fp32, and the names of their graph files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from caprun.bundle.manifest import Precision

ReducedPrecision = Literal["int8", "fp16"]


def files_of(precision: ReducedPrecision, fp32: Precision) -> Precision:
    """Names the graph files of a precision after those of fp32: `encoder_model.int8.onnx`."""
    encoder, decoder = (Path(file).with_suffix(f".{precision}.onnx").name for file in (fp32.encoder, fp32.decoder))
    return Precision(encoder, decoder)
