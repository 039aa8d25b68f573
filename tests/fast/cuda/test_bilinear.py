"""Bilinear sampling: at kinks, off the map, on channels and points that fit no block."""

import numpy as np
import pytest
from equal import assert_equal

from minidat import ops
from minidat.autograd.backend import asnumpy


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("b", "size", "c", "groups", "n"),
    [
        (1, (1, 1), 1, 1, 1),
        (2, (1, 7), 3, 3, 2),
        (2, (5, 3), 33, 1, 31),
        (1, (3, 4), 62, 2, 33),
        (1, (2, 3), 257, 1, 5),  # more channels than a block has threads
        (1, (2, 2), 4, 2, 300),  # more points than a block has threads
        (2, (14, 9), 10, 2, 70),
    ],
)
def test_awkward_sizes(b, size, c, groups, n, dtype, device):
    """Also points on whole pixels, where the slope is the one on the right, and far off the map."""
    points = rng().integers(-6, 4 * max(size) + 8, (b, groups, n, 2)) / 4
    points[:, :, -1] = 1e6, -1e9
    arrays = [rng().standard_normal((b, *size, c)), points]
    assert_equal(ops.bilinear_sample.raw, arrays, {}, device, dtype)


def test_every_kink_has_the_slope_on_the_right(device):
    h, w = 3, 4
    places = np.stack(np.meshgrid(np.arange(-3.0, h + 3), np.arange(-3.0, w + 3), indexing="ij"), -1).reshape(
        1, 1, -1, 2
    )
    x = rng().standard_normal((1, h, w, 5))
    y, vjp = ops.bilinear_sample.plain(x, places)
    found, vjp_there = ops.bilinear_sample.raw(device.asarray(x), device.asarray(places))
    np.testing.assert_allclose(asnumpy(found), y, atol=1e-12)
    dy = rng().standard_normal(y.shape)
    for mine, expected in zip(vjp_there(device.asarray(dy)), vjp(dy), strict=True):
        np.testing.assert_allclose(asnumpy(mine), expected, atol=1e-12)


def test_a_gradient_that_is_a_view(device):
    x, points = device.asarray(rng().standard_normal((1, 3, 4, 2))), device.asarray(rng().uniform(0, 2, (1, 1, 6, 2)))
    y, vjp = ops.bilinear_sample.raw(x, points)
    whole, view = device.ones(y.shape), device.broadcast_to(device.ones(1), y.shape)
    for one, other in zip(vjp(whole), vjp(view), strict=True):
        np.testing.assert_array_equal(asnumpy(one), asnumpy(other))
