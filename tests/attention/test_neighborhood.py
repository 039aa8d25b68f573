"""Neighbourhood attention: full attention on a map of k×k, the released neighbourhoods and sign elsewhere."""

import loops
import numpy as np
import pytest

from minidat import ops
from minidat.attention import MultiHeadSelfAttention, NeighborhoodAttention
from minidat.autograd import Tensor, gradients
from minidat.fast.numpy.neighborhood import _axis

DIM, HEADS = 12, 3


def rng(seed=0):
    return np.random.default_rng(seed)


def maps(h, w, seed=7):
    return Tensor(rng(seed).standard_normal((2, h, w, DIM)), requires_grad=True)


def neighborhood(kernel, *, sigma=1.0):
    """A float64 neighbourhood attention whose table is large enough to matter."""
    module = NeighborhoodAttention(DIM, HEADS, kernel=kernel, rng=rng()).to(dtype=np.float64)
    module.table.data = rng(1).normal(0, 1, module.table.shape) * sigma
    return module


def full_of(module):
    """Plain self-attention with the same weights."""
    full = MultiHeadSelfAttention(DIM, HEADS, rng=rng(2)).to(dtype=np.float64)
    full.load({name: module.parameters()[name].data for name in full.parameters()})
    return full


def assert_same_gradients(y, y2, x, module, full):
    """Of x and every parameter but the table, for a random cotangent. The table's is not zero."""
    parameters, others = module.parameters(), full.parameters()
    dy = rng(9).standard_normal(y.shape)
    found = gradients(y, [x, parameters["table"], *(parameters[name] for name in others)], dy)
    assert abs(found.pop(1)).max() > 1e-3
    for name, one, other in zip(["x", *others], found, gradients(y2, [x, *others.values()], dy), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("kernel", [3, 5])
def test_a_map_as_large_as_the_kernel_is_full_self_attention(kernel):
    module = neighborhood(kernel, sigma=0)
    full, x = full_of(module), maps(kernel, kernel)
    y, y2 = module(x), full(x)
    np.testing.assert_allclose(y.data, y2.data, rtol=1e-12, atol=1e-14)
    assert_same_gradients(y, y2, x, module, full)


@pytest.mark.parametrize("size", [(2, 4), (5, 3), (1, 1)])
def test_what_fills_up_a_small_map_takes_part(size):
    """Full attention on the map with zeros below and on the right; of those, keys and values are the biases."""
    module = neighborhood(5, sigma=0)
    full, x = full_of(module), maps(*size)
    y = module(x)
    filled = ops.pad(x, widths=((0, 0), (0, 5 - size[0]), (0, 5 - size[1]), (0, 0)))
    y2 = full(filled)[:, : size[0], : size[1]]
    np.testing.assert_allclose(y.data, y2.data, rtol=1e-12, atol=1e-14)
    assert y.shape == x.shape
    assert_same_gradients(y, y2, x, module, full)
    assert abs(y.data - full(x).data).max() > 1e-3  # without them


@pytest.mark.parametrize("size, kernel", [((4, 5), 3), ((9, 4), 3), ((2, 5), 3), ((11, 3), 5)])
def test_the_module_is_the_loops(size, kernel):
    module, x = neighborhood(kernel), maps(*size)
    filled = np.zeros((2, max(size[0], kernel), max(size[1], kernel), DIM))
    filled[:, : size[0], : size[1]] = x.data
    qkv = loops.linear(filled, module.qkv.weight.data, module.qkv.bias.data)
    z = loops.neighborhood_attention(qkv, module.table.data, heads=HEADS, kernel=kernel)
    expected = loops.linear(z, module.out.weight.data, module.out.bias.data)[:, : size[0], : size[1]]
    np.testing.assert_allclose(module(x).data, expected, rtol=1e-11, atol=1e-12)


def test_the_table_is_read_at_key_minus_query():
    """A large entry at (−1, +1) makes a head look up and to the right; each head has its own."""
    h, w, kernel = 7, 9, 3
    directions = [(-1, 1), (1, 0), (0, -1)]
    qkv = rng().standard_normal((2, h, w, 3 * DIM))
    table = np.zeros((HEADS, 5, 5))
    for head, (down, right) in enumerate(directions):
        table[head, down + kernel - 1, right + kernel - 1] = 1000.0
    y = ops.neighborhood_attention(qkv, table, heads=HEADS, kernel=kernel).data.reshape(2, h, w, HEADS, -1)
    v = qkv[..., 2 * DIM :].reshape(y.shape)
    for head, (down, right) in enumerate(directions):
        seen = v[:, 1 + down : h - 1 + down, 1 + right : w - 1 + right, head]
        np.testing.assert_allclose(y[:, 1:-1, 1:-1, head], seen, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("size", [(5, 6), (9, 12)], ids=["one tile", "tiles"])
def test_a_query_sees_the_nearest_keys_on_the_map_and_no_other(size):
    """Also at the border, where they lie on one side of it."""
    kernel, (h, w) = 3, size
    qkv = Tensor(rng().standard_normal((1, h, w, 3 * DIM)), requires_grad=True)
    for (row, col), (top, left) in {
        (0, 0): (0, 0),
        (1, 1): (0, 0),
        (2, 3): (1, 2),
        (0, w - 2): (0, w - 3),
        (h - 1, 2): (h - 3, 1),
        (h - 1, w - 1): (h - 3, w - 3),
    }.items():
        y = ops.neighborhood_attention(qkv, np.zeros((HEADS, 5, 5)), heads=HEADS, kernel=kernel)
        dy = np.zeros(y.shape)
        dy[0, row, col] = 1
        (dqkv,) = gradients(y, [qkv], dy)
        dv = abs(dqkv[0, :, :, 2 * DIM :])
        seen = {(top + i, left + j) for i in range(kernel) for j in range(kernel)}
        assert {tuple(map(int, at)) for at in np.argwhere(dv.max(-1) > 0)} == seen


def test_a_key_that_is_no_neighbour_weighs_nothing_however_large_it_is():
    qkv = rng().standard_normal((1, 9, 12, 3 * DIM))
    table = rng(1).standard_normal((HEADS, 5, 5))
    y = ops.neighborhood_attention(qkv, table, heads=HEADS, kernel=3).data
    qkv[0, 4, 7] *= 1e6
    y2 = ops.neighborhood_attention(qkv, table, heads=HEADS, kernel=3).data
    changed = {tuple(map(int, at)) for at in np.argwhere(~np.isclose(y, y2, rtol=1e-12).all((0, 3)))}
    assert changed == {(i, j) for i in (3, 4, 5) for j in (6, 7, 8)} and np.isfinite(y2).all()


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_every_query_meets_all_its_neighbours_in_its_band(kernel):
    for length in range(kernel, 40):
        axis = _axis(length, kernel)
        assert (axis.near.sum(-1) == kernel).all(), length
        assert len(axis.tiles.starts) * axis.tiles.length >= length > axis.tiles.starts[-1]
        assert axis.bands.starts[0] == 0 and axis.bands.starts[-1] + axis.bands.length == length


def test_an_axis_is_cut_where_bands_are_narrower():
    assert _axis(14, 7).tiles == ((0,), 14) and _axis(14, 7).bands == ((0,), 14)
    assert _axis(16, 7).tiles == ((0, 4, 8, 12), 4) and _axis(16, 7).bands == ((0, 1, 5, 6), 10)


def test_a_kernel_of_one_passes_values_on():
    module, x = neighborhood(1), maps(3, 4)
    v = x.data @ module.qkv.weight.data[:, 2 * DIM :] + module.qkv.bias.data[2 * DIM :]
    expected = v @ module.out.weight.data + module.out.bias.data
    np.testing.assert_allclose(module(x).data, expected, rtol=1e-12, atol=1e-14)


def test_parameters_are_the_released_ones():
    module = NeighborhoodAttention(64, 2, rng=rng())
    shapes = {name: t.shape for name, t in module.parameters().items()}
    assert shapes == {
        "qkv.weight": (64, 192),
        "qkv.bias": (192,),
        "table": (2, 13, 13),
        "out.weight": (64, 64),
        "out.bias": (64,),
    }
    assert 0.018 < module.table.data.std() < 0.022


@pytest.mark.parametrize("size", [(9, 4), (2, 3)])
def test_float32_stays_float32(size):
    module = NeighborhoodAttention(DIM, HEADS, kernel=3, rng=rng())
    x = Tensor(rng().standard_normal((1, *size, DIM)).astype(np.float32), requires_grad=True)
    y = module(x)
    found = gradients(y, [x, *module.parameters().values()], np.ones_like(y.data))
    assert {y.dtype, *(dx.dtype for dx in found)} == {np.dtype(np.float32)}


def attend(h=3, w=5, channels=3 * DIM, table=(HEADS, 5, 5), kernel=3):
    return ops.neighborhood_attention(np.zeros((1, h, w, channels)), np.zeros(table), heads=HEADS, kernel=kernel)


@pytest.mark.parametrize(
    "build, message",
    [
        (
            lambda: NeighborhoodAttention(12, 3, kernel=4, rng=rng()),
            "NeighborhoodAttention: kernel 4 must be odd and positive",
        ),
        (lambda: NeighborhoodAttention(12, 3, kernel=-1, rng=rng()), "kernel -1 must be odd and positive"),
        (lambda: NeighborhoodAttention(12, 5, rng=rng()), "NeighborhoodAttention: dim 12 cannot be cut into 5 heads"),
        (lambda: attend(kernel=2, table=(HEADS, 3, 3)), "neighborhood_attention: kernel 2 must be odd"),
        (lambda: attend(channels=12), "axis 'e' is 12, which 3 × 3 heads do not divide"),
        (
            lambda: attend(table=(HEADS, 7, 7)),
            r"3 heads and kernel 3 need a table of \(3, 5, 5\), input 1 has \(3, 7, 7\)",
        ),
        (lambda: attend(table=(2, 5, 5)), r"need a table of \(3, 5, 5\), input 1 has \(2, 5, 5\)"),
        (lambda: attend(table=(HEADS, 5, 7)), "neighborhood_attention: axis 'r' is 7 in input 1"),
        (lambda: attend(h=2), "a map of 2×5 has no 3×3 neighbours"),
        (lambda: attend(w=1), "a map of 3×1 has no 3×3 neighbours"),
    ],
)
def test_what_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
