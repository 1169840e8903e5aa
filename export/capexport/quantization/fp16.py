"""Writes fp16 graphs for GPUs."""

from __future__ import annotations

import onnx

from capexport.onnx_export import files_of
from caprun.bundle.manifest import FULL_PRECISION, Precision
from caprun.bundle.reading import Bundle
from caprun.inference.devices import onnxruntime


def write_fp16(bundle: Bundle) -> Precision:
    """Writes fp16 copies of a bundle's fp32 graphs beside them; their inputs and outputs stay fp32.

    The softmax that yields log-probabilities also stays fp32.
    """
    onnxruntime()
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    fp32 = bundle.manifest.precisions[FULL_PRECISION]
    precision = files_of("fp16", fp32)
    for source, target in ((fp32.encoder, precision.encoder), (fp32.decoder, precision.decoder)):
        model = onnx.load(bundle.path / source)
        blocked = [*DEFAULT_OP_BLOCK_LIST, "LogSoftmax", "TopK"]
        onnx.save(convert_float_to_float16(model, keep_io_types=True, op_block_list=blocked), bundle.path / target)
    return precision
