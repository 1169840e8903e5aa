"""The range of an activation covers the values that occur."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from capexport.quantization.ranges import Range, find_ranges
from captioner.config.export import Calibration

CALIBRATIONS: tuple[Calibration, ...] = get_args(Calibration)
RNG = np.random.default_rng(0)


def range_of(calibration: Calibration, *batches: np.ndarray | Sequence[float]) -> Range:
    """Returns the range found for these batches, each passed as one feed."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "same", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    feeds = [{"x": np.asarray(batch, np.float32)} for batch in batches]
    return find_ranges(model, ["y"], feeds, calibration)["y"]


def test_minmax_is_the_whole_range_of_all_feeds() -> None:
    assert range_of("minmax", [1, 2, -3], [0.5, 7]) == (-3, 7)


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_zero_is_in_every_range(calibration: Calibration) -> None:
    assert range_of(calibration, RNG.uniform(2, 3, 5000))[0] == 0
    assert range_of(calibration, RNG.uniform(-3, -2, 5000))[1] == 0


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_feeds_can_have_any_number_of_values(calibration: Calibration) -> None:
    values = RNG.normal(size=3000)
    low, high = range_of(calibration, values[:1], values[1:2000], values[2000:2000], values[2000:])
    assert (low, high) == pytest.approx(range_of(calibration, values))


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_an_activation_that_is_always_zero_has_an_empty_range(calibration: Calibration) -> None:
    assert range_of(calibration, np.zeros(100)) == (0, 0)


def test_mse_cuts_off_very_rare_values() -> None:
    values = RNG.normal(size=1_000_000)
    values[:4] = 30, -30, 30, -30
    low, high = range_of("mse", values)
    assert -15 < low < -4
    assert 4 < high < 15


@pytest.mark.parametrize(("lowest", "highest"), [(-2, 2), (0, 2), (-2, 0)])
def test_mse_keeps_values_that_are_spread_evenly(lowest: float, highest: float) -> None:
    low, high = range_of("mse", RNG.uniform(lowest, highest, 400_000))
    assert low == pytest.approx(lowest, abs=0.05)
    assert high == pytest.approx(highest, abs=0.05)


def test_zeros_do_not_change_the_range() -> None:
    """Half of the outputs of a ReLU are zero, and every range represents zero exactly."""
    values = np.abs(RNG.normal(size=50_000))
    assert range_of("mse", values, np.zeros(5_000_000)) == range_of("mse", values)
