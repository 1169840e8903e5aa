"""Finds the range of values that the 256 steps of an int8 activation cover.

A narrower range has finer steps and cuts off more values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from caprun.inference.devices import onnxruntime
from captioner.config.export import Calibration

Feed = Mapping[str, npt.NDArray[Any]]
Range = tuple[float, float]
"""Lowest and highest value. Zero is between them, because one step must be exactly zero."""
Counts = npt.NDArray[np.int64]
_BINS, _LEVELS, _CANDIDATES = 4096, 256, 128


def find_ranges(
    model: onnx.ModelProto, names: Sequence[str], feeds: Sequence[Feed], calibration: Calibration
) -> dict[str, Range]:
    """Finds the ranges of a graph's float32 tensors on realistic inputs.

    `mse` chooses the range whose 256 steps have the least squared error; zeros are not counted, since every range
    represents them exactly. `minmax` uses the full range. The graph runs once on each feed for `minmax`, twice for
    `mse`.
    """
    whole = dict.fromkeys(names, (0.0, 0.0))
    for name, value in observe(model, names, feeds):
        low, high = whole[name]
        whole[name] = min(low, float(value.min(initial=0))), max(high, float(value.max(initial=0)))
    if calibration == "minmax":
        return whole
    counts = {name: np.zeros(_BINS, np.int64) for name in names}
    for name, value in observe(model, names, feeds):
        counts[name] += np.histogram(value[value != 0], _BINS, whole[name])[0]
    return {name: _least_error(counts[name], *whole[name]) if counts[name].any() else whole[name] for name in names}


def observe(
    model: onnx.ModelProto, names: Sequence[str], feeds: Sequence[Feed]
) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Yields the values of the named tensors, feed by feed; the values of one feed are in memory at a time."""
    seen = onnx.ModelProto()
    seen.CopyFrom(model)
    del seen.graph.output[:]
    seen.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = onnxruntime().InferenceSession(seen.SerializeToString(), providers=["CPUExecutionProvider"])
    for feed in feeds:
        yield from zip(names, session.run(list(names), dict(feed)), strict=True)


def _least_error(counts: Counts, low: float, high: float) -> Range:
    """Returns the range of least squared error among those that cut off the same share at both ends."""
    edges = np.linspace(low, high, _BINS + 1)
    values = (edges[1:] + edges[:-1]) / 2

    def error(share: float) -> float:
        step = share * (high - low) / (_LEVELS - 1)
        rounded = step * np.clip(np.rint(values / step), np.rint(share * low / step), np.rint(share * high / step))
        return float(np.dot(counts, (values - rounded) ** 2))

    best = min(np.linspace(1, 0, _CANDIDATES, endpoint=False), key=error)
    return float(best) * low, float(best) * high
