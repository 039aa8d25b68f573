"""Where slopes jump, on purpose: whole pixels, borders, ties; and where numbers are large, equal or infinite."""

import math

import numpy as np
import pytest
from crossing import travelling

from minidat import ops
from minidat.fast.numpy import bilinear as fast_bilinear
from minidat.ops import bilinear

g, g_slope = travelling(bilinear.g), travelling(bilinear.g_slope)
FORMULATIONS = {
    "plain": travelling(ops.bilinear_sample.plain),
    "product": fast_bilinear.by_product,
    "corners": fast_bilinear.by_corners,
}
both = pytest.mark.parametrize("sample", FORMULATIONS.values(), ids=FORMULATIONS)
H, W = 4, 3
STEP = 2.0**-20  # a power of two: positions, weights and their differences are exact


def integers(rng, shape):
    """Small whole numbers as floats: their sums and products are exact, in any order."""
    return rng.integers(-8, 9, shape).astype(np.float64)


def at(*points):
    """(1, 1, N, 2)"""
    return np.array(points, float)[None, None]


# g(a, b)


def test_g_is_the_hat_function():
    value = g(np.array([-1.5, -1.0, -0.25, 0.0, 1.75, 3.0]), 3)
    np.testing.assert_array_equal(value, [[0, 0, 0], [0, 0, 0], [0.75, 0, 0], [1, 0, 0], [0, 0.25, 0.75], [0, 0, 0]])


def test_slope_of_g_at_whole_pixels_is_the_one_on_the_right():
    n = 5
    a = np.arange(-2.0, n + 2)
    value, slope = g(a, n), g_slope(a, n)
    right = (g(a + STEP, n) - value) / STEP
    left = (value - g(a - STEP, n)) / STEP
    np.testing.assert_array_equal(slope, right)
    kink = abs(a[:, None] - np.arange(n)) <= 1
    np.testing.assert_array_equal(slope != left, kink)


def test_a_product_with_the_slopes_is_two_reads():
    n, rng = 5, np.random.default_rng(0)
    a = np.concatenate([np.arange(-2.0, n + 2), rng.uniform(-2, n + 1, 20)])
    dg = rng.standard_normal((len(a), n))
    np.testing.assert_array_equal(
        fast_bilinear.along_slope(dg, a), (dg * bilinear.g_slope(a, n)).sum(-1, keepdims=True)
    )


@both
def test_slope_of_a_map_at_whole_pixels_is_the_one_on_the_right(sample):
    rng = np.random.default_rng(0)
    x = integers(rng, (1, H, W, 2))
    points = at(*((r, c) for r in range(-2, H + 2) for c in range(-2, W + 2)))
    y, vjp = sample(x, points)
    dy = integers(rng, y.shape)
    dpoints = vjp(dy)[1]
    for axis in (0, 1):
        moved = points.copy()
        moved[..., axis] += STEP
        right = (dy * (sample(x, moved)[0] - y)).sum(-1) / STEP
        np.testing.assert_array_equal(dpoints[..., axis], right[:, None])
        moved[..., axis] -= 2 * STEP
        left = (dy * (y - sample(x, moved)[0])).sum(-1) / STEP
        assert (dpoints[..., axis] != left[:, None]).any()


@both
@pytest.mark.parametrize(
    "row, value, slope",  # what each of the four rows contributes
    [
        (-2.0, [0, 0, 0, 0], [0, 0, 0, 0]),
        (-1.0, [0, 0, 0, 0], [1, 0, 0, 0]),
        (-0.25, [0.75, 0, 0, 0], [1, 0, 0, 0]),
        (0.0, [1, 0, 0, 0], [-1, 1, 0, 0]),
        (H - 1.0, [0, 0, 0, 1], [0, 0, 0, -1]),
        (H - 0.75, [0, 0, 0, 0.75], [0, 0, 0, -1]),
        (float(H), [0, 0, 0, 0], [0, 0, 0, 0]),
    ],
)
def test_border_rows(sample, row, value, slope):
    rows = np.array([3.0, 5.0, 7.0, 11.0])
    y, vjp = sample(rows.reshape(1, H, 1, 1), at((row, 0.0)))
    dx, dpoints = vjp(np.ones_like(y))
    assert y[0, 0, 0] == rows @ value
    assert dpoints[0, 0, 0, 0] == rows @ slope
    np.testing.assert_array_equal(dx[0, :, 0, 0], value)


def test_formulations_agree_exactly_on_pixels_and_borders():
    rng = np.random.default_rng(1)
    x = integers(rng, (2, H, W, 6))
    steps = [np.arange(-2.0, n + 1.25, 0.5) for n in (H, W)]  # whole and half pixels, on the border and beyond
    grid = np.stack(np.meshgrid(*steps, indexing="ij"), -1).reshape(1, 1, -1, 2)
    points = np.broadcast_to(grid, (2, 3, *grid.shape[2:]))
    (y, vjp), *others = (sample(x, points) for sample in FORMULATIONS.values())
    dy = integers(rng, y.shape)
    for other, other_vjp in others:
        np.testing.assert_array_equal(other, y)
        for one, two in zip(vjp(dy), other_vjp(dy), strict=True):
            np.testing.assert_array_equal(one, two)


@both
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_far_outside_is_zero_and_so_are_the_gradients(sample, dtype):
    x = np.ones((1, H, W, 2), dtype)
    far = at(
        (-50, 1), (1, 1e6), (-1e9, -1e9), (H, 1), (1, -1), (H + 0.5, W + 0.5), (1e30, 1), (np.inf, 1), (1, -np.inf)
    ).astype(dtype)
    y, vjp = sample(x, far)
    assert not y.any()
    dx, dpoints = vjp(np.ones_like(y))
    assert not dx.any()
    on_the_edge = (far == -1).any(-1)  # at −1 the slope on the right is that of the first pixel
    assert not dpoints[~on_the_edge].any() and dpoints[on_the_edge].any()


@both
def test_a_point_and_its_mirror_image(sample):
    rng = np.random.default_rng(2)
    x, points = rng.standard_normal((1, H, W, 2)), rng.uniform(-1.5, 4.5, (1, 1, 9, 2))
    mirrored = np.array([H - 1.0, W - 1.0]) - points
    np.testing.assert_allclose(sample(x[:, ::-1, ::-1], mirrored)[0], sample(x, points)[0], atol=1e-12)
    swapped = sample(x.swapaxes(1, 2), points[..., ::-1])[0]
    np.testing.assert_allclose(swapped, sample(x, points)[0], atol=1e-12)


def test_position_bias_at_whole_displacements_takes_the_slope_on_the_right_of_the_displacement():
    table = integers(np.random.default_rng(3), (1, 5, 3))
    rows, cols, points = np.arange(3.0), np.arange(2.0), at((1.0, 0.0), (3.0, 1.0), (-2.0, 2.0))
    y, vjp = ops.position_bias.raw(table, points, rows, cols)
    dy = integers(np.random.default_rng(4), y.shape)
    moved = points - np.array([STEP, 0.0])  # the displacement grows as its point goes back
    right = (dy * (ops.position_bias.raw(table, moved, rows, cols)[0] - y)).sum((0, 1, 2)) / -STEP
    np.testing.assert_array_equal(vjp(dy)[1][0, 0, :, 0], right)


# Limits of the deformed points


@pytest.mark.parametrize("free, slope", [(-1.0, 1), (1.0, 1), (1.5, 0), (-1.001, 0), (0.5, 1)])
def test_clamped_points_pass_no_gradient(free, slope):
    offsets, reference = np.full((1, 1, 1, 2), free), np.zeros((1, 2))
    y, vjp = ops.deformed_points.raw(offsets, reference, limit="clamp", amplitude=(1, 1), size=(5, 9))
    np.testing.assert_array_equal(y[0, 0, 0], (np.clip(free, -1, 1) + 1) * np.array([2, 4]))
    np.testing.assert_array_equal(vjp(np.ones_like(y))[0][0, 0, 0], slope * np.array([2, 4]))


def test_tanh_keeps_huge_offsets_within_reach():
    offsets = np.array([1e30, -1e30]).reshape(1, 1, 1, 2)
    y, vjp = ops.deformed_points.raw(offsets, np.zeros((1, 2)), limit="tanh", amplitude=(0.5, 0.25), size=(5, 9))
    np.testing.assert_array_equal(y[0, 0, 0], [3.0, 3.0])
    assert not vjp(np.ones_like(y))[0].any()


# GELU


def exact_gelu(x):
    cdf = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in x])
    return x * cdf, cdf + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def test_float32_gelu_is_within_rounding_of_the_exact_one():
    x = np.linspace(-10, 10, 100_001, dtype=np.float32)  # more than three blocks
    value, slope = exact_gelu(x.astype(np.float64))
    y, vjp = ops.gelu.raw(x)
    np.testing.assert_allclose(y, value, rtol=2**-23, atol=5e-7)
    np.testing.assert_allclose(vjp(np.ones_like(x))[0], slope, rtol=0, atol=5e-7)


def test_float32_gelu_keeps_small_numbers_relative_to_their_size_and_nan():
    x = np.concatenate([[0.0], np.geomspace(1e-38, 1, 1001)]).astype(np.float32)
    x = np.concatenate([x, -x])
    np.testing.assert_allclose(ops.gelu.raw(x)[0], exact_gelu(x.astype(np.float64))[0], rtol=1e-6)
    assert np.isnan(ops.gelu.raw(np.full(3, np.nan, np.float32))[0]).all()


def test_float32_gelu_takes_arrays_in_any_order():
    x = np.random.default_rng(0).standard_normal((6, 10)).astype(np.float32)
    for view in (x.T, x[::2, 1::3], x[:, 3]):
        y, vjp = ops.gelu.raw(view)
        plain, plain_vjp = ops.gelu.raw(view.copy())
        np.testing.assert_array_equal(y, plain)
        np.testing.assert_array_equal(vjp(view)[0], plain_vjp(view)[0])


def test_float64_gelu_is_exact():
    x = np.linspace(-6, 6, 101)
    value, slope = exact_gelu(x)
    y, vjp = ops.gelu.raw(x)
    np.testing.assert_allclose(y, value, atol=1e-15)
    np.testing.assert_allclose(vjp(np.ones_like(x))[0], slope, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gelu_of_large_numbers_and_of_a_single_one(dtype):
    x = np.array([-1e18, -300, 0, 300, 1e18], dtype)
    y, vjp = ops.gelu.raw(x)
    np.testing.assert_array_equal(y, [0, 0, 0, 300, dtype(1e18)])
    np.testing.assert_array_equal(vjp(np.ones_like(x))[0], [0, 0, 0.5, 1, 1])
    assert ops.gelu.raw(np.array(0.0, dtype))[0].shape == ()


# Softmax and layer norm


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmax_of_infinities_and_huge_logits(dtype):
    x = np.array([[0, -np.inf, 0], [1e30, -1e30, 1e30], [5, 5, -np.inf]], dtype)
    y, vjp = ops.softmax.raw(x)
    np.testing.assert_array_equal(y, [[0.5, 0, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    dx = vjp(np.array([[1, 2, 3]], dtype).repeat(3, 0))[0]
    np.testing.assert_array_equal(dx, [[-0.5, 0, 0.5], [-0.5, 0, 0.5], [-0.25, 0.25, 0]])


def test_log_softmax_of_infinities_and_huge_logits():
    x = np.array([[0, -np.inf, 0], [1e30, -1e30, 1e30]])
    y, vjp = ops.log_softmax.raw(x)
    half = -math.log(2)
    np.testing.assert_allclose(y, [[half, -np.inf, half], [half, -2e30, half]])
    assert np.isfinite(vjp(np.ones_like(y))[0]).all()


def test_attention_to_masked_keys_is_none():
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((n, 4)) for n in (3, 5, 5))
    mask = np.array([0, 0, -np.inf, 0, -np.inf])
    y, vjp = ops.attention.raw(q, k, v, None, mask, scale=0.5)
    np.testing.assert_allclose(y, ops.attention.raw(q, k[[0, 1, 3]], v[[0, 1, 3]], None, None, scale=0.5)[0])
    _, dk, dv, *_ = vjp(np.ones_like(y))
    assert not dk[[2, 4]].any() and not dv[[2, 4]].any() and dv[[0, 1, 3]].all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("constant", [0.0, 3.0, -1e4])
def test_layer_norm_of_a_constant_row(dtype, constant):
    x, gamma, beta = np.full((2, 8), constant, dtype), np.full(8, 2, dtype), np.arange(8).astype(dtype)
    y, vjp = ops.layer_norm.raw(x, gamma, beta)
    np.testing.assert_array_equal(y, [beta, beta])
    dx, dgamma, dbeta = vjp(np.eye(2, 8, dtype=dtype))
    np.testing.assert_allclose(dx[0], (np.eye(8)[0] - 1 / 8) * 2 / math.sqrt(1e-5), rtol=1e-5)
    assert not dgamma.any()
    np.testing.assert_array_equal(dbeta, [1, 1, 0, 0, 0, 0, 0, 0])


# Ties


@pytest.mark.parametrize(
    "name, inputs, options, slopes",
    [
        ("relu", [[-1.0, 0.0, 1.0]], {}, [[0, 0, 1]]),
        ("abs", [[-1.0, 0.0, 1.0]], {}, [[-1, 0, 1]]),
        ("clip", [[-3.0, -2.0, 0.0, 1.0, 1.5]], {"low": -2.0, "high": 1.0}, [[0, 1, 1, 1, 0]]),
        ("maximum", [[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]], {}, [[0, 1, 1], [1, 0, 0]]),
        ("max", [[4.0, 7.0, 7.0, 7.0, 7.0]], {}, [[0, 0.25, 0.25, 0.25, 0.25]]),
    ],
)
def test_ties_are_broken_as_documented(name, inputs, options, slopes):
    y, vjp = getattr(ops, name).raw(*map(np.array, inputs), **options)
    for dx, slope in zip(vjp(np.ones_like(y)), slopes, strict=True):
        np.testing.assert_array_equal(dx, slope)
