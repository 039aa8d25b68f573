"""Sums over rows, repeatable to the bit, and a row added to every row: what a bias needs."""

from __future__ import annotations

from typing import Any

from minidat.autograd import array_module
from minidat.fast.cuda.compile import blocks, kernels

Array = Any
THREADS = 256
TILE = (32, 8)  # threads: columns, and rows at a time
PARTS = 256  # at most: enough blocks to occupy a GPU, few enough for one block per tile of columns to add them
ROWS = 64  # at least, in a part


class Parts:
    """How the rows of a matrix (rows, c) are cut into `count` parts of `size` rows, to be summed in two stages. Depends on
    shapes only, so the order of the sum is fixed.

    grid, block: for a kernel that writes a row of sums, (count, c), for each part.
    """

    def __init__(self, rows: int, c: int):
        self.size = max(ROWS, blocks(rows, PARTS))
        self.count = blocks(rows, self.size)
        self.grid, self.block = (blocks(c, TILE[0]), self.count), TILE


def column_sum(x: Array) -> Array:
    """Σ_rows x[row, column] of x (rows, c), C-contiguous: (c)."""
    sums = array_module(x).empty((Parts(*x.shape).count, x.shape[1]), x.dtype)
    first_stage(x, sums)
    return last_stage(sums)


def first_stage(x: Array, sums: Array) -> None:
    """Write a row of sums for each of the `Parts` of x (rows, c) into sums (parts, c). Both C-contiguous."""
    parts = Parts(*x.shape)
    kernels("columns.cu", x).launch("column_sums", parts.grid, parts.block, x, *x.shape, parts.size, sums)


def last_stage(sums: Array) -> Array:
    """Add up rows of partial sums (parts, c): (c). One block per tile of columns, whatever the number of rows."""
    count, c = sums.shape
    if count == 1:
        return sums[0]
    total = array_module(sums).empty(c, sums.dtype)
    kernels("columns.cu", sums).launch("column_sums", (blocks(c, TILE[0]), 1), TILE, sums, count, c, count, total)
    return total


def add_row(y: Array, b: Array) -> None:
    """y[row, column] += b[column], in place: y (…, c) C-contiguous, b (c)."""
    rows, c = y.size // b.size, b.size
    kernels("columns.cu", y).launch("add_row", *by_element(rows, c), b, rows, c, y)


def at_once(c: int, *arrays: Array) -> int:
    """How many numbers of a row of c a thread may move by one instruction: 4 where rows and addresses allow it, else 1."""
    return 4 if c % 4 == 0 and all(a.data.ptr % (4 * a.itemsize) == 0 for a in arrays) else 1


def by_element(rows: int, c: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(grid, block) with a thread for each element of a matrix (rows, c): columns along a block's x, and rows along the grid's
    x, which may be long. So no thread divides to find its row and its column."""
    width = min(c, THREADS)
    high = THREADS // width
    return (blocks(rows, high), blocks(c, width)), (width, high)
