"""Where the attentions meet: each at its simplest is plain self-attention. And deformable attention against itself."""

import attentions
import loops
import numpy as np
import pytest

from minidat import ops
from minidat.attention import CONVENTIONS, DeformableAttention, MultiHeadSelfAttention, Offsets, WindowAttention
from minidat.attention.grids import grid
from minidat.attention.positions import POSITIONS
from minidat.attention.window import relative_index, shift_mask
from minidat.autograd import Tensor, gradients
from minidat.ops.coordinates import to_normalised, to_pixels
from minidat.ops.deformed_points import LIMITS

DIM, HEADS = 12, 6


def rng(seed=0):
    return np.random.default_rng(seed)


def maps(h, w, dim=DIM, seed=7):
    return Tensor(rng(seed).standard_normal((2, h, w, dim)), requires_grad=True)


def deformable(size, *, seed=0, moving=True, **options):
    """A float64 deformable attention, whose tables, norms and offsets are large enough to matter."""
    module = attentions.deformable(DIM, HEADS, size=size, rng=rng(seed), **options).to(dtype=np.float64)
    draws = rng(seed + 1)
    if moving:
        for name, t in module.parameters().items():
            t.data = t.data + draws.normal(0, 0.5 if name in ("table", "pointwise.weight") else 0.1, t.shape)
    return module


def copy_qkv(source, target):
    """query, key, value, out → qkv, out"""
    for kind in ("weight", "bias"):
        parts = [getattr(getattr(source, name), kind).data for name in ("query", "key", "value")]
        getattr(target.qkv, kind).data = np.concatenate(parts, axis=-1)
        getattr(target.out, kind).data = getattr(source.out, kind).data.copy()


def pulled(y, x, module):
    """Values and gradients for a random cotangent."""
    parameters = module.parameters()
    found = gradients(y, [x, *parameters.values()], rng(9).standard_normal(y.shape))
    return dict(zip(["x", *parameters], found, strict=True))


def assert_same(one, other, rtol=1e-9, atol=1e-11):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=rtol, atol=atol, err_msg=name)


def pairs(rows, columns, *others):
    """Options chosen so that every two values of two options meet; `others` have no more values than `rows` and `columns`."""
    return [
        (row, column, *(list(values)[(i + (k + 1) * j) % len(values)] for k, values in enumerate(others)))
        for i, row in enumerate(rows)
        for j, column in enumerate(columns)
    ]


# Other map sizes


def at_another_size(built, size, **options):
    """(a module built for one size, its parameters in one built for another with the same table size)"""
    small, large = deformable(built, **options), deformable(size, **options)
    for name, t in large.parameters().items():
        if name != "table":
            t.data = small.parameters()[name].data
    return small, large


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_on_another_map_a_displacement_is_the_same_fraction_of_it(convention):
    """Built for 3×5 and given 5×9: cells of its table are twice as far apart, so a table stretched by two reads alike."""
    small, large = at_another_size((3, 5), (5, 9), convention=convention, groups=2, limit="clamp")
    rows, cols = np.linspace(0, 4, 9), np.linspace(0, 8, 17)  # the larger table's cells in the smaller's
    weight = [np.maximum(0, 1 - abs(at[:, None] - np.arange(n))) for at, n in ((rows, 5), (cols, 9))]
    large.position.table.data = np.einsum("Rr,Cc,mrc->mRC", *weight, small.position.table.data)
    x = maps(5, 9)
    assert small.position.cells((5, 9)) == (0.5, 0.5) and large.position.cells((5, 9)) == (1, 1)
    one, other = pulled(small(x), x, small), pulled(large(x), x, large)
    np.testing.assert_allclose(small(x).data, large(x).data, rtol=1e-12, atol=1e-13)
    one["table"], stretched = np.einsum("Rr,Cc,mRC->mrc", *weight, other.pop("table")), one.pop("table")
    np.testing.assert_allclose(one.pop("table"), stretched, rtol=1e-9, atol=1e-11)
    assert_same(one, other)
    assert small(x).shape == small(x, record={}).shape == (2, 5, 9, DIM)
    np.testing.assert_allclose(small(x, record={}).data, small(x).data, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("size", [(8, 2), (4, 8), (8, 6), (4, 4), (6, 4)])
def test_windows_of_another_map_have_its_own_mask(size):
    """A map of another height, of another width, of both, and one with as many windows in another order."""
    built, other = (WindowAttention(DIM, HEADS, window=2, size=s, rng=rng(), shift=1) for s in ((4, 6), size))
    x = Tensor(maps(*size).data.astype(np.float32))
    np.testing.assert_array_equal(built(x).data, other(x).data)


@pytest.mark.parametrize("size", [(9, 6), (3, 8), (6, 8), (8, 9), (5, 11)])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_deformable_attention_on_another_map_has_its_own_grids(size, convention):
    """Built for 6×9, without a table: as one that is built for the map that it is given."""
    built, other = (deformable(s, convention=convention, groups=2, stride=2, position="log") for s in ((6, 9), size))
    x, record, expected = maps(*size), {}, {}
    np.testing.assert_array_equal(built(x, record=record).data, other(x, record=expected).data)
    assert record["size"] == expected["size"] == size and record["grid"] == expected["grid"]
    np.testing.assert_array_equal(record["reference"], expected["reference"])


def test_without_offsets_released_v2_takes_means_of_pixels():
    still = deformable((4, 6), convention="v2", kernel=2, stride=2, padding=0, learned=False, position="none")
    x = maps(4, 6)
    means = x.data.reshape(2, 2, 2, 3, 2, DIM).mean((2, 4)).reshape(2, 6, DIM)
    q = still.query(x)
    np.testing.assert_allclose(still(x).data, still.out(still.attend(q, Tensor(means), None)).data, rtol=1e-12)


@pytest.mark.parametrize("options, keys", [({"kernel": 5}, (2, 2)), ({"kernel": 4}, (3, 2)), ({"padding": 0}, (1, 1))])
def test_padding_adds_to_the_key_grid(options, keys):
    assert Offsets(stride=4, **options).key_size((8, 7)) == keys


# Degenerate cases


def test_one_window_is_full_self_attention():
    window = WindowAttention(DIM, HEADS, window=3, size=(3, 3), rng=rng()).to(dtype=np.float64)
    full = MultiHeadSelfAttention(DIM, HEADS, rng=rng(1)).to(dtype=np.float64)
    window.table.data[:] = 0
    for name, t in full.parameters().items():
        t.data = window.parameters()[name].data.copy()
    x = maps(3, 3)
    one, other = window(x), full(x)
    np.testing.assert_allclose(one.data, other.data, rtol=1e-12, atol=1e-14)
    with_table, without = pulled(one, x, window), pulled(other, x, full)
    assert with_table.pop("table").any()
    assert_same(with_table, without)


@pytest.mark.parametrize("groups", [1, 2, HEADS])
def test_deformable_attention_at_the_pixel_centres_is_full_self_attention(groups):
    still = deformable((3, 5), groups=groups, stride=1, learned=False, position="none", convention="paper")
    full = MultiHeadSelfAttention(DIM, HEADS, rng=rng(1)).to(dtype=np.float64)
    copy_qkv(still, full)
    x = maps(3, 5)
    one, other = still(x), full(x)
    np.testing.assert_allclose(one.data, other.data, rtol=1e-11, atol=1e-13)
    dy = rng(3).standard_normal(one.shape)
    (dx, dq, do), (dx2, dqkv, do2) = (
        gradients(one, [x, still.query.weight, still.out.weight], dy),
        gradients(other, [x, full.qkv.weight, full.out.weight], dy),
    )
    np.testing.assert_allclose(dx, dx2, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(dq, dqkv[:, :DIM], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(do, do2, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("options", [{"convention": "v1", "learned": False}, {"convention": "v2", "range_factor": 0.0}])
def test_zero_offsets_do_not_reproduce_full_attention_under_the_released_conventions(options):
    x = maps(3, 5)
    still = deformable((3, 5), position="none", **options)
    full = MultiHeadSelfAttention(DIM, HEADS, rng=rng(1)).to(dtype=np.float64)
    copy_qkv(still, full)
    assert abs(still(x).data - full(x).data).max() > 0.01


def test_offsets_of_zero_are_no_offsets():
    moving = deformable((3, 4), range_factor=0.0)
    still = deformable((3, 4), learned=False)
    for name, t in still.parameters().items():
        t.data = moving.parameters()[name].data
    x = maps(3, 4)
    np.testing.assert_allclose(moving(x).data, still(x).data, rtol=1e-12, atol=1e-14)


def test_no_bias_is_a_bias_of_zero():
    biased, bare = deformable((3, 4)), deformable((3, 4), position="none")
    for name, t in bare.parameters().items():
        t.data = biased.parameters()[name].data
    biased.position.table.data[:] = 0
    fixed = deformable((3, 4), position="fixed")
    for name, t in bare.parameters().items():
        fixed.parameters()[name].data = t.data
    fixed.position.table.data[:] = 0
    x = maps(3, 4)
    np.testing.assert_allclose(biased(x).data, bare(x).data, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(fixed(x).data, bare(x).data, rtol=1e-12, atol=1e-14)


# The op that chapter 09 derives, the loops, and the module


def inputs(module, x, grids):
    """The arrays of `ops.deformable_attention`, as Tensors."""
    theta = (
        module.depthwise.weight,
        module.depthwise.bias,
        module.norm.gamma,
        module.norm.beta,
        module.pointwise.weight,
    )
    key, value, out = ((layer.weight, layer.bias) for layer in (module.key, module.value, module.out))
    constants = (grids.rows, grids.cols)
    query = (module.query.weight, module.query.bias)
    return (x, *query, *theta, grids.reference, *key, *value, module.position.table, *constants, *out)


def as_one_op(module, x):
    grids = module.grids.of(x)
    options = {"stride": module.offsets.stride, "padding": module.offsets.pad, "limit": module.offsets.limit}
    options |= {"amplitude": grids.amplitude, "cells": module.position.cells(grids.size)}
    return ops.deformable_attention(*inputs(module, x, grids), **options)


SHAPES = [(1, 1, (3, 5)), (2, 2, (5, 4)), (HEADS, 1, (4, 3)), (HEADS, 2, (3, 6))]


@pytest.mark.parametrize("groups, stride, size", SHAPES)
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_module_is_the_op(convention, limit, groups, stride, size):
    assert_module_is_the_op(convention, limit, groups, stride, size)


@pytest.mark.parametrize("limit, shape, convention", pairs(LIMITS, SHAPES, CONVENTIONS))
def test_the_module_is_the_op_for_each_pair_of_options(limit, shape, convention):
    assert_module_is_the_op(convention, limit, *shape)


def assert_module_is_the_op(convention, limit, groups, stride, size):
    """On the map that it is built for, and on another one."""
    module = deformable(size, groups=groups, stride=stride, kernel=3, limit=limit, convention=convention)
    for x in (maps(*size), maps(size[0], size[1] + 2)):
        y = module(x)
        np.testing.assert_allclose(y.data, as_one_op(module, x).data, rtol=1e-11, atol=1e-13)
        found = pulled(y, x, module)
        assert_same(found, pulled(as_one_op(module, x), x, module))
        assert all(abs(dx).max() > 1e-6 for name, dx in found.items() if name != "key.bias"), "a path is dead"
    x, record = maps(*size), {}
    np.testing.assert_array_equal(module(x, record=record).data, module(x).data)
    points = -(-size[0] // stride) * -(-size[1] // stride)
    assert record["points"].shape == (2, groups, points, 2) and record["size"] == size


@pytest.mark.parametrize("padding, keys", [(0, (2, 3)), (1, (2, 3)), (2, (3, 4))])
def test_the_offset_network_has_the_padding_of_its_options(padding, keys):
    module, x, record = deformable((6, 9), stride=3, kernel=3, padding=padding), maps(6, 9), {}
    y = module(x, record=record)
    assert record["grid"] == keys and record["points"].shape == (2, 1, keys[0] * keys[1], 2)
    np.testing.assert_allclose(y.data, as_one_op(module, x).data, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_deformable_attention_is_the_loops(convention):
    module = deformable((2, 4), groups=2, stride=1, kernel=3, convention=convention)
    x = maps(2, 4)
    arrays = [t.data for t in inputs(module, x, module.grids)]
    expected = loops.deformable_attention(*arrays, stride=1, limit="tanh", amplitude=module.grids.amplitude)
    np.testing.assert_allclose(module(x).data, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("learned", [True, False])
def test_every_variant_gives_every_parameter_a_gradient(position, learned):
    module = deformable((3, 5), groups=2, stride=2, position=position, learned=learned)
    x = maps(3, 5)
    y = module(x)
    assert y.shape == x.shape and y.dtype == np.float64
    for name, dx in pulled(y, x, module).items():
        assert dx is not None and np.isfinite(dx).all() and (dx.any() or name == "key.bias"), name


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("size", [(1, 1), (1, 3), (2, 1)])
def test_maps_of_one_pixel_are_finite(size, convention, limit, position):
    assert_finite(size, convention, limit, position)


@pytest.mark.parametrize(
    "position, limit, size, convention", pairs(POSITIONS, LIMITS, [(1, 1), (1, 3), (2, 1)], CONVENTIONS)
)
def test_maps_of_one_pixel_are_finite_for_each_pair_of_options(position, limit, size, convention):
    assert_finite(size, convention, limit, position)


def assert_finite(size, convention, limit, position):
    module = deformable(size, kernel=3, convention=convention, limit=limit, position=position)
    x = maps(*size)
    y = module(x)
    assert np.isfinite(y.data).all()
    assert all(np.isfinite(dx).all() for dx in pulled(y, x, module).values())


def test_float32_stays_float32():
    for module in (
        DeformableAttention(DIM, HEADS, size=(4, 2), rng=rng()),
        DeformableAttention(DIM, HEADS, Offsets(learned=False), size=(4, 2), rng=rng()),
        WindowAttention(DIM, HEADS, window=2, size=(4, 2), rng=rng(), shift=1),
        MultiHeadSelfAttention(DIM, HEADS, rng=rng()),
    ):
        x = Tensor(rng().standard_normal((1, 4, 2, DIM)).astype(np.float32), requires_grad=True)
        y = module(x)
        assert y.dtype == np.float32
        dy = np.ones_like(y.data)
        assert {dx.dtype for dx in gradients(y, [x, *module.parameters().values()], dy)} == {np.dtype(np.float32)}


def test_heads_and_groups_are_permuted_together():
    """A group's channels, its heads' bias and their part of the keys belong together: permuting the two groups of all
    weights is a change of names."""
    module, swapped = deformable((3, 4), groups=2), deformable((3, 4), groups=2)
    halves = np.roll(np.arange(DIM), DIM // 2)
    heads = np.roll(np.arange(HEADS), HEADS // 2)
    for name in ("query", "key", "value", "out"):
        layer = getattr(swapped, name)
        layer.weight.data, layer.bias.data = layer.weight.data[halves][:, halves], layer.bias.data[halves]
    swapped.position.table.data = swapped.position.table.data[heads]
    x = maps(3, 4)
    y, y2 = module(x), swapped(Tensor(x.data[..., halves]))
    np.testing.assert_allclose(y2.data, y.data[..., halves], rtol=1e-11, atol=1e-13)


# Other position encodings, from their formulas


def test_log_position_bias_is_its_formula():
    """max(0, u W₁ + b₁) W₂ of a head's group, u = sign(D) log₂(1 + |D|)/log₂ 8, D = 4·(query − key) in normalised units."""
    h, w, groups = 4, 7, 2
    module = deformable((h, w), groups=groups, stride=2, position="log", convention="v2")
    points = rng(3).uniform(-1, 1, (2, groups, 5, 2))  # normalised
    pixels = (points + 1) / 2 * (np.array([h, w]) - 1)
    bias = module.position.bias(Tensor(pixels), module.grids).data
    w1, b1, w2 = (
        t.data for t in (module.position.hidden.weight, module.position.hidden.bias, module.position.spread.weight)
    )
    assert bias.shape == (2, HEADS, h * w, 5)
    for b, m, i, j, n in np.ndindex(2, HEADS, h, w, 5):
        query = np.array([2 * i / (h - 1) - 1, 2 * j / (w - 1) - 1])
        d = 4 * (query - points[b, m // (HEADS // groups), n])
        u = np.sign(d) * np.log2(1 + abs(d)) / 3
        expected = np.maximum(0, u @ w1 + b1) @ w2[:, m % (HEADS // groups)]
        np.testing.assert_allclose(bias[b, m, i * w + j, n], expected, rtol=1e-10, atol=1e-12)


def test_a_fixed_table_is_added_to_the_logits():
    """A table with one large entry a query makes that key's value its output."""
    module = deformable((2, 3), position="fixed", kernel=3)
    chosen = rng(2).permutation(6)
    module.position.table.data[...] = 0
    module.position.table.data[:, np.arange(6), chosen] = 1e3
    x, record = maps(2, 3), {}
    y = module(x, record=record).data.reshape(2, 6, DIM)
    v = module.value(ops.bilinear_sample(x, Tensor(record["points"]))).data
    np.testing.assert_allclose(y, module.out(Tensor(v[:, chosen])).data, rtol=1e-10, atol=1e-12)


def test_a_depthwise_convolution_of_the_queries_is_added_to_the_heads_output():
    """With values of 0, it is all that W_o is applied to."""
    module = deformable((3, 5), position="depthwise")
    module.value.weight.data[...] = 0
    module.value.bias.data[...] = 0
    x = maps(3, 5)
    q = np.pad(module.query(x).data, ((0, 0), (1, 1), (1, 1), (0, 0)))
    kernel, bias = module.position.local.weight.data, module.position.local.bias.data
    added = sum(kernel[i, j] * q[:, i : i + 3, j : j + 5] for i in range(3) for j in range(3)) + bias
    np.testing.assert_allclose(module(x).data, module.out(Tensor(added)).data, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kernel", [(5, 3), (3, 5), (1, 3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_offset_network_is_padded_by_half_the_rows_of_its_kernel(kernel, stride):
    """`padding=None`, on a map and with a kernel that are not square. Tap (k // 2, k // 2) then reads the pixel itself."""
    (k, l), (h, w) = kernel, (7, 9)  # noqa: E741
    q = rng().standard_normal((1, h, w, 2))
    only_here = np.zeros((k, l, 2))
    only_here[k // 2, k // 2] = 1
    arguments = only_here, np.zeros(2), np.ones(2), np.zeros(2), np.eye(2)
    y = ops.offset_network.raw(q, *arguments, stride=stride)[0]
    rows, cols = (h + 2 * (k // 2) - k) // stride + 1, (w + 2 * (k // 2) - l) // stride + 1
    assert y.shape == (1, 1, rows * cols, 2)
    one = q[0, 0, 0] - q[0, 0, 0].mean()
    np.testing.assert_allclose(y[0, 0, 0], ops.gelu.raw(one / np.sqrt((one**2).mean() + 1e-5))[0], rtol=1e-6)


# Windows


@pytest.mark.parametrize("size, window, shift", [((4, 6), 2, 0), ((4, 6), 2, 1), ((6, 3), 3, 2), ((3, 3), 3, 1)])
def test_window_attention_is_the_loops(size, window, shift):
    module = WindowAttention(4, 2, window=window, size=size, rng=rng(), shift=shift).to(dtype=np.float64)
    module.table.data = rng(1).standard_normal(module.table.shape)
    x = maps(*size, dim=4)
    weights = [t.data for t in (module.table, module.qkv.weight, module.qkv.bias, module.out.weight, module.out.bias)]
    expected = loops.window_attention(x.data, *weights, heads=2, window=window, shift=shift)
    np.testing.assert_allclose(module(x).data, expected, rtol=1e-10, atol=1e-12)


def test_a_token_sees_its_window_and_no_other():
    module = WindowAttention(4, 2, window=2, size=(4, 6), rng=rng(), shift=1).to(dtype=np.float64)
    x = maps(4, 6, dim=4)
    y = module(x)
    for (row, col), seen in {
        (1, 1): {(1, 1), (1, 2), (2, 1), (2, 2)},
        (0, 0): {(0, 0)},  # the corner, rolled to the far end, shares a window with the three other corners: masked
        (3, 2): {(3, 1), (3, 2)},
    }.items():
        dy = np.zeros(y.shape)
        dy[0, row, col] = 1
        (dx,) = gradients(module(x), [x], dy)
        assert {tuple(map(int, at)) for at in np.argwhere(abs(dx[0]).max(-1) > 1e-12)} == seen


def test_relative_index_and_shift_mask_are_the_released_ones():
    index = relative_index(7)
    assert index.shape == (49, 49) and (np.diag(index) == 84).all() and index[0, 1] == 83
    mask = shift_mask(56, 56, 7, 4)
    assert mask.shape == (64, 1, 49, 49) and set(np.unique(mask)) == {-100.0, 0.0}
    assert not mask[0].any() and mask[7].any() and mask[-1].any()
    np.testing.assert_array_equal(mask, mask.swapaxes(-1, -2))


# Grids


def pixels_of(module, axis=0):
    """The pixels at which undeflected points lie along an axis."""
    return np.unique(to_pixels(module.grids.reference.data[:, axis], module.grids.size[axis]))


def test_reference_points_of_the_paper_lie_on_pixels():
    module = DeformableAttention(4, 2, size=(5, 7), rng=rng(), convention="paper")
    np.testing.assert_allclose(pixels_of(module, 0), np.arange(5), atol=1e-12)
    np.testing.assert_allclose(pixels_of(module, 1), np.arange(7), atol=1e-12)
    first, second = module.grids.reference.data[:2]
    np.testing.assert_allclose(first, [-1, -1])
    np.testing.assert_allclose(second, [-1, -1 + 2 / 6])  # the column runs first


def test_reference_points_of_the_first_release():
    module = DeformableAttention(4, 2, size=(14, 7), rng=rng(), convention="v1")
    rows, cols = pixels_of(module, 0), pixels_of(module, 1)
    np.testing.assert_allclose(rows, (np.arange(14) + 0.5) * 13 / 14)
    np.testing.assert_allclose(rows[[0, -1]], [0.464, 12.536], atol=5e-4)
    np.testing.assert_allclose(cols[[0, -1]], [0.429, 5.571], atol=5e-4)
    assert module.grids.amplitude == (2 / 14, 2 / 7)
    np.testing.assert_allclose(module.grids.amplitude[0] / 2 * 13, 0.93, atol=5e-3)  # the reach in pixels


def test_reference_points_of_the_second_release():
    module = DeformableAttention(4, 2, Offsets(8, kernel=9), size=(56, 7), rng=rng(), convention="v2")
    rows = pixels_of(module, 0)
    assert module.grids.keys == (7, 1)
    np.testing.assert_allclose(rows, (np.arange(7) + 0.5) * 55 / 6)
    np.testing.assert_allclose(rows[[0, 1, -2, -1]], [4.58, 13.75, 50.4, 59.6], atol=2e-2)
    narrow = DeformableAttention(4, 2, size=(7, 5), rng=rng(), convention="v2")
    np.testing.assert_allclose(pixels_of(narrow, 0), np.arange(7) + 0.5)
    np.testing.assert_allclose(narrow.grids.reference.data[:, 0].max(), 7 / 6)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_query_coordinates(convention):
    module = DeformableAttention(4, 2, size=(5, 7), rng=rng(), convention=convention)
    for t, n in ((module.grids.rows, 5), (module.grids.cols, 7)):
        wanted = (np.arange(n) + 0.5) * (n - 1) / n if convention == "v1" else np.arange(n)
        np.testing.assert_allclose(t.data, wanted, atol=1e-12)


def test_points_stay_within_the_region_of_their_reference():
    """s·tanh reaches s/2 pixels each way at stride 1 under the paper's convention."""
    module = deformable((5, 7), range_factor=3.0)
    module.pointwise.weight.data *= 1e6
    points = module.points(Tensor(rng().standard_normal((2, 5, 7, DIM))), module.grids).data
    still = np.stack([to_pixels(module.grids.reference.data[:, i], n) for i, n in enumerate((5, 7))], -1)
    np.testing.assert_allclose(abs(points - still), 1.5, atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_pixels_and_normalised_coordinates_are_inverse(n):
    pixels = np.arange(n)
    np.testing.assert_allclose(to_pixels(to_normalised(pixels, n), n), pixels, atol=1e-15)
    assert to_normalised(0, n) == -1 and (n == 1 or to_normalised(n - 1, n) == 1)
    np.testing.assert_allclose(grid(n, "corner"), to_normalised(pixels, n))


# What is refused


def make(**options):
    return attentions.deformable(12, 6, **{"size": (3, 5), "rng": rng(), **options})


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: make(groups=5), "DeformableAttention: groups 5 must divide both dim 12 and heads 6"),
        (lambda: make(groups=4), "groups 4 must divide both dim 12 and heads 6"),
        (lambda: make(groups=0), "groups 0 must divide"),
        (lambda: make(limit="cosine"), "limit 'cosine' is unknown; choose from tanh, squash, clamp, none"),
        (
            lambda: make(position="absolute"),
            "position 'absolute' is unknown; choose from relative, none, fixed",
        ),
        (lambda: make(convention="v3"), "convention 'v3' is unknown; choose from paper, v1, v2"),
        (lambda: DeformableAttention(12, 5, size=(3, 5), rng=rng()), "dim 12 cannot be cut into 5 heads"),
        (
            lambda: MultiHeadSelfAttention(12, 5, rng=rng()),
            "MultiHeadSelfAttention: dim 12 cannot be cut into 5 heads",
        ),
        (
            lambda: WindowAttention(12, 5, window=2, size=(4, 6), rng=rng()),
            "WindowAttention: dim 12 cannot be cut",
        ),
        (
            lambda: WindowAttention(12, 6, window=4, size=(4, 6), rng=rng()),
            "a map of 4×6 cannot be cut into .*4×4",
        ),
        (
            lambda: make(position="fixed")(maps(5, 3)),
            r"DeformableAttention: a fixed table is for a map of \(3, 5\), got \(5, 3\)",
        ),
        (
            lambda: make(convention="v2", kernel=5, stride=2, learned=False)(maps(3, 5)),
            "means of 2×2 pixels of a 3×5 map do not give 2×3 keys",
        ),
        (
            lambda: make(convention="v2", kernel=8, stride=8, padding=0),
            "a map of 3×5 is too small for offsets by a kernel of 8 padded by 0",
        ),
        (
            lambda: WindowAttention(12, 6, window=2, size=(4, 6), rng=rng())(maps(6, 5)),
            "a map of 6×5 cannot be cut into windows of 2×2",
        ),
    ],
)
def test_constructors_and_calls_refuse(build, message):
    with pytest.raises(ValueError, match=message):
        build()
