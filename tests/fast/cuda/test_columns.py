"""Sums over rows, and a row added to all."""

import numpy as np
import pytest

from minidat.autograd.backend import asnumpy
from minidat.fast.cuda.columns import PARTS, ROWS, Parts, add_row, at_once, by_element, column_sum


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("rows", [1, 7, 8, ROWS, ROWS + 1, 257, ROWS * PARTS + 1])
@pytest.mark.parametrize("c", [1, 3, 32, 48])
def test_column_sum(rows, c, dtype, device):
    x = np.random.default_rng(0).standard_normal((rows, c)).astype(dtype)
    total = column_sum(device.asarray(x))
    assert total.dtype == dtype and total.shape == (c,)
    tolerance = {"float64": 1e-11, "float32": 1e-5}[dtype] * rows**0.5
    np.testing.assert_allclose(asnumpy(total), x.sum(0, dtype=np.float64), atol=tolerance)


@pytest.mark.parametrize("rows", [1, ROWS, ROWS + 1, 10**5, 10**7])
def test_parts_cover_the_rows_and_are_few(rows):
    parts = Parts(rows, 33)
    assert (parts.count - 1) * parts.size < rows <= parts.count * parts.size
    assert parts.count <= PARTS and parts.grid == (2, parts.count)


@pytest.mark.parametrize("c", [1, 13, 255, 256, 257, 600])
def test_add_row(c, device):
    y, b = np.random.default_rng(0).standard_normal((5, 7, c)), np.arange(float(c))
    there = device.asarray(y)
    add_row(there, device.asarray(b))
    np.testing.assert_array_equal(asnumpy(there), y + b)


def test_four_at_once_where_rows_and_addresses_allow_it(device):
    x = device.zeros(4096, dtype=np.float32)
    first = -x.data.ptr % 16 // 4  # from here on, addresses are multiples of four numbers
    aligned, apart = x[first : first + 64], x[first + 1 : first + 65]
    assert [at_once(c, aligned) for c in (1, 2, 4, 6, 8)] == [1, 1, 4, 1, 4]
    assert at_once(8, aligned, apart) == 1


@pytest.mark.parametrize("rows, c", [(1, 1), (7, 48), (10**6, 96), (3, 1000)])
def test_by_element_has_a_thread_for_each(rows, c):
    (across, down), (width, high) = by_element(rows, c)
    assert across * high >= rows > (across - 1) * high and down * width >= c > (down - 1) * width
    assert width * high <= 256 and down <= 65535
