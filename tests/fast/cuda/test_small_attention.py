"""Attention in one kernel: what fits, how biases and masks are met, and sums over windows in one order."""

import numpy as np
import pytest
from equal import assert_equal

from minidat import ops
from minidat.autograd.backend import asnumpy
from minidat.fast.cuda import cublas, small_attention
from minidat.fast.cuda.small_attention import BYTES, ROOMS, Heads


def normal(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape)


@pytest.fixture
def no_products(device, monkeypatch):
    """Fails where a product is asked of cuBLAS."""

    def refuse(*_, **__):
        raise AssertionError("a product by cuBLAS")

    monkeypatch.setattr(cublas, "product", refuse)


def windows(outer, n, heads, d):
    """qkv, a bias for each head, a mask for each of two windows"""
    mask = np.where(normal(2, 1, n, n) > 1, -100.0, 0.0)
    return [normal(outer, 2, n, 3 * heads * d), normal(heads, n, n), mask]


@pytest.mark.usefixtures("no_products")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("n, heads, d", [(16, 3, 16), (1, 1, 1), (7, 2, 5), (9, 2, 33)])
@pytest.mark.parametrize("parts", [256, 3], ids=["a block a window", "several windows a block"])
def test_windows(n, heads, d, parts, dtype, device, monkeypatch):
    monkeypatch.setattr(small_attention, "PARTS", parts)
    assert_equal(ops.self_attention.raw, windows(5, n, heads, d), {"heads": heads}, device, dtype)


@pytest.mark.usefixtures("no_products")
@pytest.mark.parametrize("arrays", [windows(1, 49, 2, 32), windows(1, 64, 1, 16)], ids=["49 of 32", "64 of 16"])
def test_the_windows_of_dat_tiny_fit_in_float32(arrays, device):
    assert_equal(ops.self_attention.raw, arrays, {"heads": arrays[1].shape[0]}, device, "float32")


@pytest.mark.usefixtures("no_products")
@pytest.mark.parametrize("m", [31, 32, 33, 65, 127, 128])
def test_keys_of_any_number(m, device):
    arrays = [normal(2, 3, n, 2) for n in (5, m, m)]
    assert_equal(ops.attention.raw, [*arrays, normal(2, 3, 5, m), None], {"scale": 0.3}, device, "float64")


@pytest.mark.usefixtures("no_products")
def test_a_bias_that_was_read_from_a_table_is_not_copied(device):
    """(n, m, M) seen as (M, n, m)."""
    qkv, _, mask = windows(3, 4, 2, 3)
    read = normal(4, 4, 2)
    expected, vjp = ops.self_attention.plain(qkv, read.transpose(2, 0, 1), mask, heads=2)
    there = device.asarray(qkv), device.asarray(read).transpose(2, 0, 1), device.asarray(mask)
    y, vjp_there = ops.self_attention.raw(*there, heads=2)
    np.testing.assert_allclose(asnumpy(y), expected, rtol=1e-9)
    dy = normal(*expected.shape)
    for mine, wanted in zip(vjp_there(device.asarray(dy))[:2], vjp(dy)[:2], strict=True):
        np.testing.assert_allclose(asnumpy(mine), wanted, rtol=1e-9, atol=1e-12)


def test_what_fits():
    square = [Heads(1, 1, n, n, d, d, d, d, 0, 0) for n, d in ((16, 16), (49, 32), (64, 16), (64, 32), (144, 4))]
    assert [sizes.fit(4) for sizes in square] == [True, True, True, False, False]
    assert [sizes.fit(8) for sizes in square] == [True, False, False, False, False]
    assert square[0].room() <= ROOMS[0] and ROOMS[-1] * 4 == BYTES and ROOMS[1] * 8 == BYTES


def test_large_scores_and_nan(device):
    q = np.array([[1.0], [-1.0], [np.nan]])
    k = np.array([[1000.0], [999.0]])
    y, _ = ops.attention.raw(*map(device.asarray, (q, k, np.eye(2))), None, None, scale=1.0)
    expected, _ = ops.attention.plain(q, k, np.eye(2), None, None, scale=1.0)
    np.testing.assert_allclose(asnumpy(y), expected, rtol=1e-12)
    assert np.isnan(expected[2]).all() and np.isfinite(expected[:2]).all()
