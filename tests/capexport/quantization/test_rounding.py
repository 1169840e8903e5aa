"""Weights are rounded to minimise the change of the output."""

from __future__ import annotations

import numpy as np
import pytest

from capexport.quantization.rounding import find_scales, round_weights
from caprun.arrays import Float64Array


def layer(correlated: bool, *, outputs: int = 24, inputs: int = 32) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Returns weights, their scales and input samples."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(outputs, inputs))
    samples = rng.normal(size=(500, inputs))
    if correlated:
        samples = samples @ rng.normal(size=(inputs, inputs)) + rng.normal(size=inputs)
    return weights, find_scales(weights), samples


def plainly(weights: Float64Array, scales: Float64Array) -> Float64Array:
    return np.rint(weights / scales[:, None])


def output_error(rounded: Float64Array, weights: Float64Array, scales: Float64Array, samples: Float64Array) -> float:
    return float(np.linalg.norm(samples @ (rounded * scales[:, None] - weights).T))


def test_outputs_change_less_than_with_plain_rounding() -> None:
    weights, scales, samples = layer(correlated=True)
    rounded = round_weights(weights, scales, samples.T @ samples)
    plain = plainly(weights, scales)
    assert output_error(rounded, weights, scales, samples) < 0.8 * output_error(plain, weights, scales, samples)


def test_uncorrelated_inputs_give_plain_rounding() -> None:
    weights, scales, _ = layer(correlated=False)
    moments = np.diag(np.random.default_rng(1).uniform(0.1, 10, weights.shape[1]))
    np.testing.assert_array_equal(round_weights(weights, scales, moments), plainly(weights, scales))


@pytest.mark.parametrize("coarser", [1, 0.5])
@pytest.mark.parametrize("inputs", [1, 3, 32, 33])
def test_sums_of_two_products_within_four_weights_fit_into_16_bits(inputs: int, coarser: float) -> None:
    weights, _, samples = layer(correlated=True, inputs=inputs)
    weights[0, 1:] = 0  # a row with a single weight uses the full range of eight bits
    rounded = round_weights(weights, coarser * find_scales(weights), samples.T @ samples)
    assert rounded.dtype == np.int8
    four = np.abs(np.pad(rounded.astype(int), ((0, 0), (0, -inputs % 4)))).reshape(len(rounded), -1, 4)
    assert np.sort(four)[..., -2:].sum(-1).max() <= 128
    assert np.abs(rounded).max() == 127


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_an_output_with_zero_weights_keeps_them(scale: float) -> None:
    weights, scales, samples = layer(correlated=True)
    expected = round_weights(weights, scales, samples.T @ samples)
    weights[3], scales[3] = 0, scale
    with np.errstate(all="raise"):
        rounded = round_weights(weights, scales, samples.T @ samples)
    assert not rounded[3].any()
    np.testing.assert_array_equal(np.delete(rounded, 3, 0), np.delete(expected, 3, 0))


def test_rounding_works_with_an_input_that_is_always_zero() -> None:
    weights, scales, samples = layer(correlated=True)
    samples[:, 5] = 0
    rounded = round_weights(weights, scales, samples.T @ samples)
    plain = plainly(weights, scales)
    assert output_error(rounded, weights, scales, samples) < 0.8 * output_error(plain, weights, scales, samples)


def test_inputs_that_are_all_zero_give_plain_rounding() -> None:
    weights, scales, _ = layer(correlated=False)
    nothing = np.zeros((weights.shape[1],) * 2)
    np.testing.assert_array_equal(round_weights(weights, scales, nothing), plainly(weights, scales))
