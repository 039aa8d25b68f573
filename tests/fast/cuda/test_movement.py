"""Windows, reads of a table and deformed points: permutations to the bit, sums in one order."""

import numpy as np
import pytest
from equal import assert_equal

from minidat import ops
from minidat.autograd.backend import asnumpy
from minidat.ops.deformed_points import LIMITS


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape)


@pytest.mark.parametrize("shift", [0, 1, 3, 6])
@pytest.mark.parametrize(
    ("b", "size", "c", "window"), [(1, (7, 7), 1, 7), (3, (4, 12), 5, 4), (3, (4, 12), 8, 4), (2, (6, 9), 33, 3)]
)
def test_windows_are_the_same_numbers(b, size, c, window, shift, device):
    x, options = normal(b, *size, c).astype(np.float32), {"window": window, "shift": shift}
    expected, _ = ops.window_partition.raw(x, **options)
    found, back_there = ops.window_partition.raw(device.asarray(x), **options)
    np.testing.assert_array_equal(asnumpy(found), expected)
    np.testing.assert_array_equal(asnumpy(back_there(found)[0]), x)
    merged, merge_vjp = ops.window_merge.raw(found, height=size[0], width=size[1], **options)
    np.testing.assert_array_equal(asnumpy(merged), x)
    np.testing.assert_array_equal(asnumpy(merge_vjp(merged)[0]), expected)


def test_windows_that_do_not_tile_the_map_are_an_error_here_too(device):
    with pytest.raises(ValueError, match="cannot be cut into windows"):
        ops.window_partition.raw(device.ones((1, 4, 6, 2)), window=4)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("shape", [(1,), (33,), (5, 49), (3, 4, 2)])
def test_take_adds_up_repeats(shape, axis, dtype, device):
    x = normal(4, 3, 5)
    indices = np.random.default_rng(1).integers(0, x.shape[axis], shape)
    assert_equal(ops.take.raw, [x], {"indices": indices, "axis": axis}, device, dtype)
    assert_equal(ops.take.raw, [x], {"indices": indices.astype(np.int32), "axis": axis}, device, dtype)


def test_a_gradient_of_a_table_that_is_transposed(device):
    """As window attention gives it: read as (n, m, M), used as (M, n, m)."""
    indices = np.random.default_rng(0).integers(0, 7, (4, 5))
    _, vjp = ops.take.raw(device.asarray(normal(7, 3)), indices=device.asarray(indices), axis=0)
    dy = normal(3, 4, 5)
    (expected,) = vjp(device.asarray(dy.transpose(1, 2, 0).copy()))
    (found,) = vjp(device.asarray(dy).transpose(1, 2, 0))
    np.testing.assert_array_equal(asnumpy(found), asnumpy(expected))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("limit", LIMITS)
def test_deformed_points(limit, dtype, device):
    """Also where a coordinate is cut, and on the border itself, where it is not yet."""
    offsets, reference = normal(2, 3, 131, 2), np.random.default_rng(2).uniform(-1, 1, (131, 2))
    offsets[0, 0, :4] = [[1, -1], [-1, 1], [-3, 3], [0, 0]]
    reference[:2] = 0
    options = {"limit": limit, "amplitude": (0.7, 1.3), "size": (5, 3)}
    assert_equal(ops.deformed_points.raw, [offsets, reference], options, device, dtype)


def test_points_that_are_not_numbers_stay_so(device):
    """A run that diverges must show it."""
    offsets, reference = device.asarray(np.full((1, 1, 1, 2), np.nan)), device.zeros((1, 2))
    for limit in LIMITS:
        points, _ = ops.deformed_points.raw(offsets, reference, limit=limit, amplitude=(1.0, 1.0), size=(3, 3))
        assert np.isnan(asnumpy(points)).all()


def test_an_unknown_limit_is_an_error_here_too(device):
    with pytest.raises(ValueError, match="limit 'none of these' is unknown"):
        ops.deformed_points.raw(
            device.zeros((1, 1, 1, 2)), device.zeros((1, 2)), limit="none of these", amplitude=(1.0, 1.0), size=(3, 3)
        )
