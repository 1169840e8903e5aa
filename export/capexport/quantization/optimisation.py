"""Graphs as ONNX Runtime optimises them, which load sooner: the optimiser's work is done once, at export."""

from __future__ import annotations

from pathlib import Path

import onnx

from caprun.inference.devices import onnxruntime

_DOMAINS = ("", "com.microsoft")
"""Operators of the ONNX standard and those that every build of ONNX Runtime adds."""


def optimise(source: Path, target: Path) -> onnx.ModelProto:
    """Optimises a graph for CPUs at ONNX Runtime's `extended` level.

    The next level, `all`, arranges tensors for the processor at hand. Graphs at `extended` run on any processor, and
    loading them still applies `all`, so they compute the same bits. This suits int8 graphs. An fp32 graph would gain
    little, and would contain fused operators that the CUDA provider lacks.

    Args:
        source: the graph.
        target: file that ONNX Runtime writes the optimised graph to.

    Returns:
        The optimised graph.
    """
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    model = onnx.load(target)
    # ONNX Runtime lists every operator set it knows, and another version or build may lack some
    used = [entry for entry in model.opset_import if entry.domain in _DOMAINS]
    del model.opset_import[:]
    model.opset_import.extend(used)
    return model
