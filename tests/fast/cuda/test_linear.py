"""Products and biases: any number of tokens, views as they lie."""

import numpy as np
import pytest
from equal import assert_equal

from minidat import ops
from minidat.autograd.backend import asnumpy


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(("shape", "d"), [((1, 1), 1), ((257, 3), 2), ((5, 7, 33), 31), ((48,), 5)])
def test_linear(shape, d, biased, dtype, device):
    arrays = [normal(*shape), normal(shape[-1], d), normal(d) if biased else None]
    assert_equal(ops.linear.raw, arrays, {}, device, dtype)


@pytest.mark.parametrize("repeated", [False, True])
def test_a_gradient_that_is_a_view(repeated, device):
    x, w, b = (device.asarray(normal(*shape)) for shape in ((4, 5, 3), (3, 2), (2,)))
    _, vjp = ops.linear.raw(x, w, b)
    dy = (
        device.broadcast_to(device.asarray(normal(1, 1, 2)), (4, 5, 2))
        if repeated
        else device.asarray(normal(5, 4, 2)).swapaxes(0, 1)
    )
    for one, other in zip(vjp(dy), vjp(dy.copy()), strict=True):
        np.testing.assert_allclose(asnumpy(one), asnumpy(other), rtol=1e-12)


def test_products_of_views(device):
    x, y = normal(2, 5, 3, 4), normal(2, 5, 3, 7)
    expected, vjp = ops.matmul.raw(x.transpose(0, 2, 1, 3), y.transpose(0, 2, 3, 1).swapaxes(-1, -2)[..., :4, :])
    there = (
        device.asarray(x).transpose(0, 2, 1, 3),
        device.asarray(y).transpose(0, 2, 3, 1).swapaxes(-1, -2)[..., :4, :],
    )
    found, vjp_there = ops.matmul.raw(*there)
    np.testing.assert_allclose(asnumpy(found), expected, rtol=1e-12)
    dz = normal(*expected.shape)
    for mine, wanted in zip(vjp_there(device.asarray(dz)), vjp(dz), strict=True):
        np.testing.assert_allclose(asnumpy(mine), wanted, rtol=1e-12)
