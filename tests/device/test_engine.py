"""The engine on the device: leaves, cotangents and sums of gradients stay there."""

import numpy as np
import pytest

from minidat import Tensor, ops
from minidat.autograd import asnumpy, gradients

SHAPE = (2, 3)


@pytest.fixture
def leaf(on_device):
    return lambda seed=0: Tensor(on_device(np.random.default_rng(seed).standard_normal(SHAPE)), requires_grad=True)


def test_a_scalar_starts_from_one_there(leaf, device):
    x = leaf()
    (x * x).sum().backward()
    assert isinstance(x.grad, device.ndarray)
    np.testing.assert_array_equal(asnumpy(x.grad), 2 * asnumpy(x.data))


def test_grad_adds_up_over_passes_and_paths(leaf, on_device):
    x, w = leaf(), leaf(1)
    dy = on_device(np.arange(6.0).reshape(SHAPE))
    for _ in range(2):
        (x * w + x).backward(dy)
    expected = 2 * asnumpy(dy)
    np.testing.assert_allclose(asnumpy(x.grad), expected * (asnumpy(w.data) + 1), rtol=1e-14)
    np.testing.assert_allclose(asnumpy(w.grad), expected * asnumpy(x.data), rtol=1e-14)


def test_leaves_have_arrays_of_their_own_and_dy_stays(leaf, on_device):
    x, y = leaf(), leaf(1)
    dy = on_device(np.full(SHAPE, 5.0))
    (x + y).backward(dy)
    x.grad += 1
    for array in (dy, y.grad):
        np.testing.assert_array_equal(asnumpy(array), 5)


def test_operators_take_numbers_and_arrays_of_the_device(leaf, device, on_device):
    x = leaf()
    other = on_device(np.ones(SHAPE))
    for y in (2 - x, x / 2.0, 1 / x, x**2, -x, other + x, other * x, x @ other.T, x[..., None, 0], x.max(axis=-1)):
        assert isinstance(y.data, device.ndarray)
        (dx,) = gradients(y, [x], device.ones_like(y.data))
        assert isinstance(dx, device.ndarray) and dx.shape == SHAPE


def test_arrays_of_the_host_are_refused(leaf):
    for use in (lambda x: x * np.ones(SHAPE), lambda x: ops.matmul(np.ones((3, 2)), x), lambda x: np.ones(SHAPE) + x):
        with pytest.raises(TypeError, match=r"Unsupported type|has incorrect type"):
            use(leaf())


def test_a_tensor_shows_itself(leaf):
    assert "shape=(2, 3), dtype=float64" in repr(leaf())
