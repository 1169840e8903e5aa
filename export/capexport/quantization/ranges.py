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
_CUT_OFF = 1e-5
_FLOOR = 1e-9  # probability of a value that a range cannot represent, so that its logarithm is finite


def find_ranges(
    model: onnx.ModelProto, names: Sequence[str], feeds: Sequence[Feed], calibration: Calibration
) -> dict[str, Range]:
    """Finds the ranges of a graph's float32 tensors on realistic inputs.

    `mse` chooses the range whose 256 steps have the least squared error. `minmax` uses the full range. `percentile`
    cuts off 0.0005% of the values at either end. `entropy` chooses the range whose 256 steps have the least
    Kullback-Leibler divergence from the values (Migacz, 2017, "8-bit inference with TensorRT"). Zeros are not counted,
    since every range represents them exactly. The graph runs once on each feed for `minmax`, otherwise twice.
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
    narrow = {"mse": _least_error, "percentile": _percentile, "entropy": _entropy}[calibration]
    return {name: narrow(counts[name], *whole[name]) if counts[name].any() else whole[name] for name in names}


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


def _percentile(counts: Counts, low: float, high: float) -> Range:
    edges = np.linspace(low, high, _BINS + 1)
    below = np.cumsum(counts) / counts.sum()
    first = int(np.searchsorted(below, _CUT_OFF / 2, side="right"))
    last = int(np.searchsorted(below, 1 - _CUT_OFF / 2))
    return min(float(edges[first]), 0.0), max(float(edges[last + 1]), 0.0)


def _entropy(counts: Counts, low: float, high: float) -> Range:
    """Returns the range of least divergence among those cut off at one magnitude, positive and negative."""
    edges = np.linspace(low, high, _BINS + 1)
    largest = max(-low, high)
    best, chosen = np.inf, largest
    for limit in np.linspace(0, largest, _CANDIDATES + 1)[1:]:
        first, last = np.searchsorted(edges, -limit), np.searchsorted(edges, limit, side="right") - 1
        if last - first < _LEVELS:
            continue
        divergence = _divergence(counts, int(first), int(last))
        if divergence < best:
            best, chosen = divergence, limit
    return max(low, -float(chosen)), min(high, float(chosen))


def _divergence(counts: Counts, first: int, last: int) -> float:
    """Returns the divergence, in nats, between the values and their 256 steps over the bins `first` to `last`."""
    kept = counts[first:last]
    values = kept.astype(np.float64)
    values[0] += counts[:first].sum()  # values outside the range are clipped to its ends
    values[-1] += counts[last:].sum()
    level = np.arange(len(kept)) * _LEVELS // len(kept)
    occupied = kept > 0
    share = np.bincount(level, kept, _LEVELS) / np.maximum(np.bincount(level, occupied, _LEVELS), 1)
    left = np.where(occupied, share[level], 0.0)
    p, q = values / values.sum(), np.maximum(left / max(left.sum(), 1.0), _FLOOR)
    some = p > 0
    return float(np.sum(p[some] * np.log(p[some] / q[some])))
