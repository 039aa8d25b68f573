"""Softmax and attention: rows that fit no warp, and every way in which a bias and a mask may be repeated."""

import numpy as np
import pytest
from equal import assert_equal

from minidat import ops
from minidat.autograd.backend import asnumpy
from minidat.fast.cuda import attention, small_attention
from minidat.fast.cuda.softmax import lanes, term


def normal(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("rows", [1, 7, 257])
@pytest.mark.parametrize("m", [1, 2, 3, 16, 31, 33, 49, 300])
def test_awkward_rows(rows, m, dtype, device):
    assert_equal(ops.softmax.raw, [3 * normal(rows, m)], {}, device, dtype)


@pytest.mark.parametrize(("m", "expected"), [(1, 1), (2, 2), (3, 2), (16, 16), (31, 16), (32, 32), (1000, 32)])
def test_lanes_divide_a_warp_and_are_no_more_than_the_row(m, expected):
    assert lanes(m) == expected


def test_large_logits_do_not_overflow(device):
    y, _ = ops.softmax.raw(device.asarray(np.array([[1e30, -1e30, 1e30], [-np.inf, 0.0, -np.inf]], np.float32)))
    np.testing.assert_array_equal(asnumpy(y), [[0.5, 0, 0.5], [0, 1, 0]])


REPEATS = {  # leading axes of a term, beside scores of leading axes (2, 3, 4)
    "none": None,
    "one matrix": (),
    "each": (2, 3, 4),
    "last axis": (4,),
    "last two": (3, 4),
    "middle": (3, 1),
    "first": (2, 1, 1),
    "first two": (2, 3, 1),
    "apart": (2, 1, 4),
    "ones": (1, 1, 1),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("mask", ["none", "middle", "apart"])
@pytest.mark.parametrize("bias", REPEATS)
def test_bias_and_mask_are_repeated_as_numpy_does(bias, mask, dtype, device):
    lead, n, m = (2, 3, 4), 5, 7
    terms = [None if REPEATS[kind] is None else normal(*REPEATS[kind], n, m) for kind in (bias, mask)]
    arrays = [normal(*lead, n, 3), normal(*lead, m, 3), normal(*lead, m, 2), *terms]
    assert_equal(ops.attention.raw, arrays, {"scale": 0.4}, device, dtype)


@pytest.mark.parametrize(
    ("shape", "inner", "count", "copied"),
    [((5, 7), 24, 1, False), ((4, 5, 7), 1, 4, False), ((3, 1, 5, 7), 4, 3, False), ((2, 1, 4, 5, 7), 1, 24, True)],
)
def test_only_a_term_repeated_between_its_axes_is_copied(shape, inner, count, copied, device):
    found = term(device.ones(shape), (2, 3, 4, 5, 7))
    assert (found.inner, found.count) == (inner, count) and (found.array.size == 2 * 3 * 4 * 5 * 7) == copied


def test_a_mask_may_be_of_another_dtype(device):
    """A float64 model has a float32 mask; NumPy adds it all the same."""
    qkv, mask = normal(2, 3, 4, 12), np.where(normal(3, 1, 4, 4) > 0.5, np.float32(-100), np.float32(0))
    expected, vjp = ops.self_attention.raw(qkv, None, mask, heads=2)
    found, vjp_there = ops.self_attention.raw(device.asarray(qkv), None, device.asarray(mask), heads=2)
    np.testing.assert_allclose(asnumpy(found), expected, rtol=1e-9)
    dy = normal(*expected.shape)
    np.testing.assert_allclose(asnumpy(vjp_there(device.asarray(dy))[0]), vjp(dy)[0], rtol=1e-9, atol=1e-12)


@pytest.fixture(params=[0, 1 << 30], ids=["in place", "copied"])
def heads_copied(request, monkeypatch):
    """Whether heads are copied before their products; there are products, whatever fits one kernel."""
    monkeypatch.setattr(small_attention, "BYTES", 0)
    monkeypatch.setattr(attention, "COPIED", request.param)
    return bool(request.param)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_windows_of_a_stage(dtype, heads_copied, device):
    """Window attention's own shapes: a bias for each head, a mask for each window."""
    arrays = [normal(2, 4, 49, 3 * 2 * 8), normal(2, 49, 49), np.where(normal(4, 1, 49, 49) > 1, -100.0, 0.0)]
    assert_equal(ops.self_attention.raw, arrays, {"heads": 2}, device, dtype)


def test_heads_are_cut_from_tokens_and_merged(heads_copied, device):
    """Those that were not copied for their products are merged without a copy, too."""
    q, k, v = (normal(2, n, 3, 4).swapaxes(1, 2) for n in (5, 6, 6))
    bias, options = normal(2, 3, 5, 6), {"scale": 0.5}
    assert_equal(ops.attention.raw, [q, k, v, bias, None], options, device, "float64")
    there = [device.asarray(a.swapaxes(1, 2).copy()).swapaxes(1, 2) for a in (q, k, v)]
    y, vjp = ops.attention.raw(*there, device.asarray(bias), None, **options)
    for array in (y, *vjp(y)[:3]):
        assert array.swapaxes(1, 2).flags.c_contiguous != heads_copied


def test_a_large_bias_is_not_kept_beside_the_weights(device, monkeypatch):
    """The position bias is as large as the scores; where P is kept, backward needs its shape alone."""
    monkeypatch.setattr(small_attention, "BYTES", 0)
    q, bias = device.asarray(normal(2, 3, 5, 4)), device.asarray(normal(2, 3, 5, 5))
    _, vjp = ops.attention.raw(q, q, q, bias, None, scale=0.5)
    kept = [cell.cell_contents for cell in vjp.__closure__ if isinstance(cell.cell_contents, device.ndarray)]
    assert kept and not any(np.array_equal(asnumpy(array), asnumpy(bias)) for array in kept)
