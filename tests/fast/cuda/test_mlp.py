"""The MLP on sizes that fit no warp and no block."""

import numpy as np
import pytest
from equal import assert_equal

from minidat import ops


def inputs(leading, c, e, d):
    rng = np.random.default_rng(c)
    shapes = (*leading, c), (c, e), (e,), (e, d), (d,)
    return [rng.standard_normal(shape) for shape in shapes]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("leading", "c", "e", "d"),
    [((1,), 1, 1, 1), ((31,), 3, 5, 2), ((33,), 48, 192, 48), ((257,), 3, 33, 7), ((2, 5, 7), 3, 65, 4), ((), 5, 3, 2)],
)
def test_awkward_sizes(leading, c, e, d, dtype, device):
    assert_equal(ops.mlp.raw, inputs(leading, c, e, d), {}, device, dtype)


def test_a_gradient_that_is_not_contiguous(device):
    x, *weights = (device.asarray(a) for a in inputs((6, 4), 3, 5, 2))
    _, vjp = ops.mlp.raw(x, *weights)
    dy = device.asarray(np.random.default_rng(0).standard_normal((2, 4, 6))).T
    for strided, whole in zip(vjp(dy), vjp(device.ascontiguousarray(dy)), strict=True):
        np.testing.assert_array_equal(strided.get(), whole.get())
