"""Compiled loops where slopes jump, and where numbers are large, infinite or NaN."""

import math

import numpy as np
import pytest
from ops.test_kinks import (  # noqa: F401 (these tests, of ops that are compiled here)
    test_attention_to_masked_keys_is_none,
    test_float32_gelu_is_within_rounding_of_the_exact_one,
    test_float32_gelu_keeps_small_numbers_relative_to_their_size_and_nan,
    test_float32_gelu_takes_arrays_in_any_order,
    test_float64_gelu_is_exact,
    test_gelu_of_large_numbers_and_of_a_single_one,
    test_layer_norm_of_a_constant_row,
    test_position_bias_at_whole_displacements_takes_the_slope_on_the_right_of_the_displacement,
    test_softmax_of_infinities_and_huge_logits,
)

from minidat import ops

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@pytest.fixture(autouse=True)
def _compiled(compiled):
    return compiled


def integers(rng, shape, dtype):
    """Small whole numbers as floats: their sums and products are exact, in any order."""
    return rng.integers(-8, 9, shape).astype(dtype)


def steps(*sizes):
    """Whole and half pixels, on a map, on its border and beyond: (1, 1, N, 2)."""
    return np.stack(np.meshgrid(*(np.arange(-2.5, n + 2, 0.5) for n in sizes), indexing="ij"), -1).reshape(1, 1, -1, 2)


@DTYPES
def test_sampling_at_whole_pixels_and_on_borders_is_exactly_the_ops(dtype):
    rng = np.random.default_rng(0)
    x, points = integers(rng, (2, 4, 3, 6), dtype), np.tile(steps(4, 3), (2, 3, 1, 1)).astype(dtype)
    (y, vjp), (y2, vjp2) = ops.bilinear_sample.raw(x, points), ops.bilinear_sample.plain(x, points)
    np.testing.assert_array_equal(y, y2)
    dy = integers(rng, y.shape, dtype)
    for one, other in zip(vjp(dy), vjp2(dy), strict=True):
        np.testing.assert_array_equal(one, other)


@DTYPES
def test_position_bias_at_whole_displacements_is_exactly_the_ops(dtype):
    rng = np.random.default_rng(0)
    table, points = integers(rng, (2, 7, 5), dtype), steps(5, 4).astype(dtype)
    grid = np.arange(4, dtype=dtype), np.arange(3, dtype=dtype)
    (y, vjp), (y2, vjp2) = ops.position_bias.raw(table, points, *grid), ops.position_bias.plain(table, points, *grid)
    np.testing.assert_array_equal(y, y2)
    dy = integers(rng, y.shape, dtype)
    for one, other in zip(vjp(dy)[:2], vjp2(dy)[:2], strict=True):
        np.testing.assert_array_equal(one, other)


@DTYPES
def test_far_outside_is_zero_and_so_are_the_gradients(dtype):
    far = np.array([[-50, 1], [1, 1e6], [-1e30, -1e30], [1e30, 1], [np.inf, 1], [1, -np.inf]], dtype)[None, None]
    for y, vjp in (
        ops.bilinear_sample.raw(np.ones((1, 4, 3, 2), dtype), far),
        ops.position_bias.raw(np.ones((1, 7, 5), dtype), far, np.arange(4, dtype=dtype), np.arange(3, dtype=dtype)),
    ):
        assert not y.any()
        assert not any(d.any() for d in vjp(np.ones_like(y)) if d is not None)


@DTYPES
def test_a_point_that_is_nan_gives_nan(dtype):
    points = np.array([[np.nan, 1], [1, np.nan], [1, 1]], dtype)[None, None]
    grid = np.arange(4, dtype=dtype), np.arange(3, dtype=dtype)
    sampled = ops.bilinear_sample.raw(np.ones((1, 4, 3, 2), dtype), points)[0]
    bias = ops.position_bias.raw(np.ones((1, 7, 5), dtype), points, *grid)[0]
    assert np.isnan(sampled[0, :2]).all() and np.isfinite(sampled[0, 2]).all()
    assert np.isnan(bias[..., :2]).all() and np.isfinite(bias[..., 2]).all()


@DTYPES
@pytest.mark.parametrize("place", [0, 5, 10, 18])
def test_nan_and_infinity_stay_in_their_rows(dtype, place):
    """Of softmax, as in NumPy: a NaN or +∞ makes its row NaN, wherever it stands; a row of −∞ is NaN too."""
    for bad in (np.nan, np.inf):
        x = np.random.default_rng(0).standard_normal((3, 19)).astype(dtype)
        x[1, place] = bad
        y = ops.softmax.raw(x)[0]
        assert np.isnan(y[1]).all() and np.isfinite(y[[0, 2]]).all()
    assert np.isnan(ops.softmax.raw(np.full((1, 19), -np.inf, dtype))[0]).all()
    x[1, place] = np.nan
    y, _ = ops.layer_norm.raw(x, np.ones(19, dtype), np.zeros(19, dtype))
    assert np.isnan(y[1]).all() and np.isfinite(y[[0, 2]]).all()


def test_a_large_negative_mask_is_zero_to_the_last_bit():
    x = np.zeros((2, 11), np.float32)
    x[:, ::2] = -100.0
    y = ops.softmax.raw(x)[0]
    assert not y[:, ::2].any()
    np.testing.assert_allclose(y[:, 1::2], 0.2, rtol=1e-6)


def test_exponentials_of_float32_are_within_their_claim():
    """Rows (x, 0) give e^x/(1 + e^x): from it e^x, where it is small beside 1."""
    x = np.linspace(-86.9, -17.5, 20_001, dtype=np.float32)
    y = ops.softmax.raw(np.stack([x, np.zeros_like(x)], -1))[0][:, 0]
    np.testing.assert_allclose(y, np.exp(x.astype(np.float64)), rtol=4e-7)
    assert math.isclose(float(ops.softmax.raw(np.array([[-87.5, 0]], np.float32))[0][0, 0]), 0, abs_tol=0)
