"""The paper's hard ops on drawn shapes: sizes, heads, groups, strides and maps that are not square.

Each example draws its shapes, then its numbers, and checks every gradient by finite differences with a random cotangent and
a random direction, and the value against loops.
"""

import loops
import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ops.cases import SEEDS, away_from_zero, normal, off_grid, points_around

from minidat import ops
from minidat.autograd.check import check_gradient
from minidat.ops.coordinates import output_size
from minidat.ops.deformed_points import LIMITS

SIDES = st.integers(1, 6)
FEW = st.integers(1, 3)
drawn = settings(max_examples=15)


def holds(op, arrays, rng, *, wrt, value=None, **options):
    """Value and gradients of an op on these inputs."""
    check_gradient(op.raw, arrays, rng=rng, wrt=wrt, **options)
    y, _ = op.raw(*arrays, **options)
    expected = getattr(loops, value or op.name)(*arrays, **options)
    np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-10)


@drawn
@given(SEEDS, FEW, FEW, st.tuples(SIDES, SIDES), FEW, st.integers(1, 7))
def test_bilinear_sampling(seed, b, groups, size, width, n):
    rng = np.random.default_rng(seed)
    arrays = [normal(rng, (b, *size, groups * width)), points_around(rng, (b, groups, n), *size)]
    holds(ops.bilinear_sample, arrays, rng, wrt=[0, 1])


@drawn
@given(
    SEEDS,
    FEW,
    FEW,
    FEW,
    st.tuples(SIDES, SIDES),
    st.tuples(SIDES, SIDES),
    st.integers(1, 7),
    st.sampled_from([1.0, 0.5, 2.0]),
)
def test_position_bias(seed, b, groups, per_group, queries, built, n, cells):
    """A table made for a map of `built`, read by queries of another map."""
    rng = np.random.default_rng(seed)
    table = normal(rng, (groups * per_group, *(2 * size - 1 for size in built)))
    rows, cols = (np.arange(float(size)) for size in queries)
    # R = cells·(query − key) + whole centre: keys off the grid by 0.1 … 0.4 of a cell keep R off every kink
    grid = rng.integers(-1, max(queries) + 1, (b, groups, n, 2))
    arrays = [table, grid + rng.uniform(0.1, 0.4, (b, groups, n, 2)), rows, cols]
    holds(ops.position_bias, arrays, rng, wrt=[0, 1], cells=(cells, cells))


@drawn
@given(SEEDS, FEW, FEW, FEW, st.tuples(SIDES, SIDES), st.tuples(FEW, st.integers(1, 5)), st.booleans())
def test_offset_network(seed, b, groups, width, size, stride_and_kernel, padded):
    stride, kernel = stride_and_kernel
    padding = kernel // 2 if padded else 0
    assume(min(size) + 2 * padding >= kernel)
    rng, e = np.random.default_rng(seed), width + 1  # a layer norm of one channel is 0 everywhere
    arrays = [normal(rng, s) for s in ((b, *size, groups * e), (kernel, kernel, e), e, e, e, (e, 2))]
    holds(ops.offset_network, arrays, rng, wrt=range(6), stride=stride, padding=padding)


@drawn
@given(SEEDS, FEW, FEW, st.tuples(SIDES, SIDES), st.integers(1, 9), st.sampled_from(LIMITS))
def test_deformed_points(seed, b, groups, size, n, limit):
    rng = np.random.default_rng(seed)
    reference, offsets = rng.uniform(-1, 1, (n, 2)), normal(rng, (b, groups, n, 2))
    if limit == "clamp":  # away from its kinks at ±1
        free = off_grid(rng, (b, groups, n, 2), -2, 2) * 2 - 1
        offsets = free - reference
    options = {"limit": limit, "amplitude": (0.7, 1.3), "size": size}
    holds(ops.deformed_points, [offsets, reference], rng, wrt=[0], **options)


@drawn
@given(SEEDS, st.lists(FEW, max_size=2), st.integers(1, 6), st.integers(1, 6), FEW, FEW, st.data())
def test_attention(seed, leading, n, m, d, c, data):
    """bias and mask: None, or repeated along any axes."""
    rng = np.random.default_rng(seed)

    def term():
        kept = [data.draw(st.sampled_from([size, 1])) for size in (*leading, n, m)]
        return tuple(kept[data.draw(st.integers(0, len(leading))) :])

    shapes = [data.draw(st.one_of(st.none(), st.builds(term))) for _ in range(2)]
    bias, mask = (None if shape is None else normal(rng, shape) for shape in shapes)
    arrays = [*(normal(rng, (*leading, *s)) for s in ((n, d), (m, d), (m, c))), bias, mask]
    wrt = [0, 1, 2] + ([] if bias is None else [3])
    holds(ops.attention, arrays, rng, wrt=wrt, scale=0.7)


@settings(max_examples=10)
@given(SEEDS, FEW, FEW, FEW, FEW, st.tuples(SIDES, SIDES), FEW, st.sampled_from(["tanh", "squash", "none"]))
def test_deformable_attention(seed, b, groups, heads_each, width, size, stride, limit):
    """The whole module. Its points fall where they fall; examples in which one lies next to a kink are left out."""
    rng, (h, w), kernel = np.random.default_rng(seed), size, 3
    heads = groups * heads_each
    e = heads_each * (width + 1)
    c, keys = groups * e, [output_size(side, kernel, stride, 1) for side in size]
    n, square = keys[0] * keys[1], (c, c)
    theta = [0.5 * normal(rng, s) for s in ((kernel, kernel, e), e, e, e, (e, 2))]
    reference = rng.uniform(-0.9, 0.9, (n, 2))
    arrays = [
        *(normal(rng, s) for s in ((b, h, w, c), square, c)),
        *theta,
        reference,
        *(normal(rng, s) for s in (square, c, square, c, (heads, 2 * h - 1, 2 * w - 1))),
        np.arange(float(h)),
        np.arange(float(w)),
        *(normal(rng, s) for s in (square, c)),
    ]
    options = {"stride": stride, "limit": limit, "amplitude": (0.4, 0.4)}
    points = points_of(arrays, options)
    assume((abs(points - np.round(points)) > 1e-3).all())
    constants = {8, 14, 15}
    holds(ops.deformable_attention, arrays, rng, wrt=[i for i in range(18) if i not in constants], **options)


def points_of(arrays, options):
    x, w_q, b_q, *theta = arrays[:8]
    q, _ = ops.linear.raw(x, w_q, b_q)
    offsets, _ = ops.offset_network.raw(q, *theta, stride=options["stride"])
    rest = {"limit": options["limit"], "amplitude": options["amplitude"], "size": x.shape[1:3]}
    return ops.deformed_points.raw(offsets, arrays[8], **rest)[0]


@drawn
@given(
    SEEDS,
    FEW,
    st.tuples(SIDES, SIDES),
    FEW,
    FEW,
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    FEW,
    st.integers(0, 2),
)
def test_convolutions(seed, b, size, c, d, kernel, stride, padding):
    """Kernels and maps that are not square, any stride and padding, overlapping patches and gaps between them."""
    assume(all(n + 2 * padding >= k for n, k in zip(size, kernel, strict=True)))
    rng, options = np.random.default_rng(seed), {"stride": stride, "padding": padding}
    x = normal(rng, (b, *size, c))
    holds(ops.conv2d, [x, normal(rng, (*kernel, c, d)), normal(rng, d)], rng, wrt=[0, 1, 2], **options)
    holds(ops.depthwise_conv, [x, normal(rng, (*kernel, c)), normal(rng, c)], rng, wrt=[0, 1, 2], **options)


@drawn
@given(SEEDS, FEW, FEW, FEW, st.tuples(st.integers(3, 6), st.integers(3, 12)), st.sampled_from([1, 3]))
def test_neighborhood_attention(seed, b, heads, d, size, kernel):
    rng = np.random.default_rng(seed)
    side = 2 * kernel - 1
    arrays = [normal(rng, (b, *size, 3 * heads * d)), normal(rng, (heads, side, side))]
    holds(ops.neighborhood_attention, arrays, rng, wrt=[0, 1], heads=heads, kernel=kernel)


@drawn
@given(SEEDS, FEW, FEW, FEW, st.tuples(st.integers(1, 4), st.integers(1, 4)), st.tuples(FEW, FEW), FEW, st.booleans())
def test_deformable_convolution(seed, b, groups, width, size, kernel, d, modulated):
    rng, c, taps = np.random.default_rng(seed), groups * width, kernel[0] * kernel[1]
    options = {"stride": 1, "padding": 1, "dilation": 1}
    assume(all(n + 2 >= k for n, k in zip(size, kernel, strict=True)))
    out = [output_size(n, k, 1, 1) for n, k in zip(size, kernel, strict=True)]
    offsets = off_grid(rng, (b, *out, groups, taps, 2), -1, 1)
    modulation = away_from_zero(rng, (b, *out, groups, taps)) if modulated else None
    arrays = [normal(rng, (b, *size, c)), offsets, modulation, normal(rng, (*kernel, c, d)), normal(rng, d)]
    wrt = [i for i in range(5) if arrays[i] is not None]
    holds(ops.deformable_conv, arrays, rng, wrt=wrt, **options)


@drawn
@given(SEEDS, FEW, st.tuples(SIDES, SIDES), st.tuples(FEW, FEW), FEW, st.integers(0, 2), st.booleans())
def test_roi_align(seed, b, size, bins, boxes, samples, half_pixel):
    """Boxes that reach over the edges of the map, and some that miss it."""
    rng = np.random.default_rng(seed)
    corner, sides = rng.uniform(-6, 2 * max(size), (boxes, 2)), rng.uniform(0.1, 12, (boxes, 2))
    arrays = [normal(rng, (b, *size, 2)), np.concatenate([corner, corner + sides], 1), rng.integers(0, b, boxes)]
    holds(ops.roi_align, arrays, rng, wrt=[0], size=bins, scale=0.5, samples=samples, half_pixel=half_pixel)


@drawn
@given(SEEDS, FEW, st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.sampled_from(["bilinear", "nearest"]))
def test_resizing(seed, b, size, new, mode):
    rng = np.random.default_rng(seed)
    x = normal(rng, (b, *size, 2))
    holds(ops.resize, [x], rng, wrt=[0], size=new, mode=mode)
    holds(ops.adaptive_average_pool, [x], rng, wrt=[0], size=new)
