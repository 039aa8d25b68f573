"""Layer norm on sizes that fit no warp and no block."""

import numpy as np
import pytest
from equal import assert_equal

from minidat import ops
from minidat.autograd.backend import asnumpy


def inputs(rows, c, dtype=np.float64):
    rng = np.random.default_rng(rows + c)
    x = 3 + 2 * rng.standard_normal((rows, c))
    return [a.astype(dtype) for a in (x, rng.standard_normal(c), rng.standard_normal(c))]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("rows", [1, 31, 33, 257])
@pytest.mark.parametrize("c", [1, 3, 48, 768])
def test_awkward_sizes(rows, c, dtype, device):
    assert_equal(ops.layer_norm.raw, inputs(rows, c), {}, device, dtype)


def test_many_rows_are_summed_part_by_part(device):
    assert_equal(ops.layer_norm.raw, inputs(64 * 256 + 1, 3), {"eps": 1e-3}, device, "float64")


def test_a_large_mean_does_not_cancel(device):
    x, gamma, beta = inputs(5, 48, np.float32)
    y, _ = ops.layer_norm.raw(device.asarray(x + np.float32(4096)), device.asarray(gamma), device.asarray(beta))
    expected, _ = ops.layer_norm.plain((x + np.float32(4096)).astype(np.float64), gamma, beta)
    np.testing.assert_allclose(asnumpy(y), expected, atol=2e-3)
