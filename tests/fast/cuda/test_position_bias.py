"""The position bias: grids of any spacing and order, points at kinks and off the table, more than one tile."""

import numpy as np
import pytest
from equal import assert_equal

from minidat import ops
from minidat.autograd.backend import asnumpy


def inputs(*, heads=2, table=(5, 7), groups=1, n=3, rows=3.0, cols=4.0, b=2, seed=0):
    """rows, cols: coordinates, or a number of them."""
    rng = np.random.default_rng(seed)
    rows, cols = (np.arange(a) if np.ndim(a) == 0 else np.array(a) for a in (rows, cols))
    points = rng.integers(-8, 4 * len(rows) + 8, (b, groups, n, 2)) / 4 + np.array([0.0, 0.5])  # on kinks, too
    return [rng.standard_normal((heads, *table)), points, rows, cols]


CASES = {
    "one of all": ({"heads": 1, "table": (1, 1), "n": 1, "rows": 1.0, "cols": 1.0, "b": 1}, (1.0, 1.0)),
    "more keys than a warp": ({"n": 33}, (1.0, 1.0)),
    "groups": ({"heads": 6, "groups": 3, "n": 9}, (1.0, 1.0)),
    "a large table": ({"heads": 1, "table": (17, 19), "rows": 9.0, "cols": 10.0, "b": 1}, (1.0, 1.0)),
    "a map in bands": ({"heads": 1, "table": (3, 5), "rows": 7.0, "cols": 100.0, "b": 1, "n": 2}, (1.0, 1.0)),
    "fine cells": ({"table": (9, 5)}, (0.25, 0.5)),
    "coarse cells": ({"table": (9, 15)}, (4.0, 2.0)),
    "no order": ({"rows": [2.0, 0.0, 1.0, 0.0], "cols": [3.0, -1.0, 0.5]}, (1.0, 1.0)),
    "far away": ({"rows": [0.0, 1e6], "cols": [-1e9, 0.0]}, (1.0, 1.0)),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", CASES)
def test_awkward_sizes(case, dtype, device):
    sizes, cells = CASES[case]
    assert_equal(ops.position_bias.raw, inputs(**sizes), {"cells": cells}, device, dtype)


def test_the_grid_may_be_of_another_dtype(device):
    """A float32 model keeps its grids in float64."""
    table, points, rows, cols = inputs()
    table, points = table.astype(np.float32), points.astype(np.float32)
    found, _ = ops.position_bias.raw(*(device.asarray(a) for a in (table, points, rows, cols)))
    expected, _ = ops.position_bias.raw(table, points, rows, cols)
    assert found.dtype == np.float32
    np.testing.assert_allclose(asnumpy(found), expected, atol=1e-6)


def test_a_map_too_wide_for_shared_memory_is_left_to_the_op(device):
    arrays = inputs(heads=1, table=(1, 3), rows=1.0, cols=513.0, b=1, n=2)
    assert_equal(ops.position_bias.raw, arrays, {}, device, "float64", served=False)
