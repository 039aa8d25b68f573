"""NumPy's position bias on large maps, by windows of the table: the op's numbers and gradients, also off the table."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidat import ops
from minidat.fast.numpy import position_bias as module


def case(rng, h, w, groups, keys, spread, heads=None):
    table = rng.standard_normal((heads or 2 * groups, 2 * h - 1, 2 * w - 1))
    points = rng.uniform(-spread, max(h, w) + spread, (2, groups, keys, 2))
    return table, points, np.arange(h) - 0.0, np.arange(w) + 0.0


def agree(arrays):
    (y, vjp), (y2, vjp2) = module.by_windows(*arrays), ops.position_bias.plain(*arrays)
    np.testing.assert_allclose(y, y2, atol=1e-12)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    for one, other in zip(vjp(dy)[:2], vjp2(dy)[:2], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-11)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(1, 3),
    st.integers(1, 5),
    st.sampled_from([0.0, 3.0, 40.0]),
)
def test_windows_are_the_op(seed, h, w, groups, keys, spread):
    agree(case(np.random.default_rng(seed), h, w, groups, keys, spread))


def test_more_keys_than_a_block():
    agree(case(np.random.default_rng(0), 5, 4, 2, 2 * module.KEYS + 3, 2.0))


def test_at_whole_displacements_and_on_the_tables_edge_the_slopes_are_the_ops():
    table, _, rows, cols = case(np.random.default_rng(0), 4, 5, 1, 1, 0.0)
    places = np.stack(np.meshgrid(np.arange(-6.0, 10), np.arange(-6.0, 10), indexing="ij"), -1)
    agree((table, places.reshape(1, 1, -1, 2), rows, cols))


@pytest.mark.parametrize("place", [[-1e30, 0], [0, 1e30], [np.inf, 1], [1, -np.inf], [-np.inf, np.inf]])
def test_far_away_is_zero_and_has_no_gradient(place):
    table, _, rows, cols = case(np.random.default_rng(0), 4, 5, 1, 1, 0.0)
    y, vjp = module.by_windows(table, np.array(place)[None, None, None], rows, cols)
    assert not y.any()
    assert not any(d.any() for d in vjp(np.ones_like(y))[:2])


def test_a_point_that_is_nan_gives_nan():
    table, points, rows, cols = case(np.random.default_rng(0), 4, 5, 1, 3, 0.0)
    points[0, 0, 1, 0] = np.nan
    y, _ = module.by_windows(table, points, rows, cols)
    assert np.isnan(y[0, :, :, 1]).all() and np.isfinite(y[0, :, :, [0, 2]]).all() and np.isfinite(y[1]).all()


@pytest.mark.parametrize(
    ("side", "spacing", "cells", "windows"),
    [
        (20, 1.0, (1.0, 1.0), True),
        (19, 1.0, (1.0, 1.0), False),
        (20, 0.5, (1.0, 1.0), False),
        (20, 1.0, (0.5, 1.0), False),
    ],
)
def test_large_maps_with_a_query_on_each_pixel_are_read_by_windows(monkeypatch, side, spacing, cells, windows):
    used = []
    monkeypatch.setattr(module, "by_windows", lambda *arrays: used.append(arrays))
    table, points, rows, cols = case(np.random.default_rng(0), side, side, 1, 1, 0.0)
    module.position_bias(table, points, spacing * rows, cols, cells=cells)
    assert bool(used) == windows
