"""Exercises of chapter 10: the deformable relative position bias."""

import numpy as np

from minidat import ops
from minidat.tutorial.contracts import Gradient, Op, Value
from minidat.tutorial.report import Exercise

H, W, M, N = 4, 5, 3, 6


def whole_bias(table, h, w):
    row, col = np.divmod(np.arange(h * w), w)
    return table[row[:, None] - row + h - 1, col[:, None] - col + w - 1]


def a_table(rng, heads=M):
    return rng.standard_normal((heads, 2 * H - 1, 2 * W - 1))


def some_points(rng, n=N):
    """(n, 2) keys away from the kinks, up to a pixel outside the map."""
    cells = np.stack([rng.integers(-1, size, n) for size in (H, W)], -1)
    return cells + rng.uniform(0.1, 0.9, (n, 2))


def cells_per_pixel(table, h, w):
    return (table.shape[1] - 1) / 2 / (h - 1), (table.shape[2] - 1) / 2 / (w - 1)


def position_bias(table, points, h, w):
    """φ(B̂; R) of one group: (M, R, C), (N, 2) → (M, h·w, N), a displacement being the same fraction of any map"""
    cells = cells_per_pixel(table, h, w)
    grids = np.arange(h) + 0.0, np.arange(w) + 0.0
    return ops.position_bias.raw(table, points[None, None], *grids, cells=cells)[0][0]


def gradients(dbias, table, points, h, w):
    cells = cells_per_pixel(table, h, w)
    grids = np.arange(h) + 0.0, np.arange(w) + 0.0
    dtable, dpoints, _, _ = ops.position_bias.raw(table, points[None, None], *grids, cells=cells)[1](dbias[None])
    return dtable, dpoints[0, 0]


def first_head_only(dbias, table, points, h, w):
    only = np.zeros_like(dbias)
    only[0] = dbias[0]
    return gradients(dbias, table, points, h, w)[0], gradients(only, table, points, h, w)[1]


def cell(q_hat, p_hat, h):
    return ((q_hat - p_hat) / 2 + 1) / 2 * (2 * h - 2)


def window(point, h, w):
    centre = np.array([h - 1, w - 1])
    return centre - point, 2 * centre - point


def grouped(table, points, h, w, group=None):
    """group: head → its group"""
    each = len(table) // len(points)
    group = group or (lambda m: m // each)
    return np.concatenate([position_bias(table[m : m + 1], points[group(m)], h, w) for m in range(len(table))])


def without_cells(dbias, table, points, h, w):
    dtable, dpoints = gradients(dbias, table, points, h, w)
    return dtable, dpoints / np.array(cells_per_pixel(table, h, w))


def fine_points(rng):
    """Keys on a map of 7 × 9 whose displacements stay away from the cells of a table for 4 × 5."""
    return np.stack([rng.integers(0, 7, N) + 0.3, rng.integers(0, 9, N) + 0.4], -1)


def parameters(heads, h, w, n):
    return heads * (2 * h - 1) * (2 * w - 1), heads * h * w * n


EXERCISES = {
    "10.1": Exercise(
        Value(
            whole_bias,
            lambda rng: (a_table(rng)[0], H, W),
            names=("bias",),
            mistakes={
                "that is key − query; the bias goes by query − key": lambda t, h, w: whole_bias(t, h, w).T,
                "displacement 0 is in the table's middle: add h − 1 and w − 1, or negative indices count from the end": (
                    lambda t, h, w: whole_bias(np.roll(t, (h - 1, w - 1), (0, 1)), h, w)
                ),
                "pixel (i, j) has number i·W + j: divide by the number of columns": lambda t, h, w: t[
                    tuple(
                        d[:, None] - d + n - 1
                        for d, n in zip((np.arange(h * w) % h, np.arange(h * w) // h), (h, w), strict=True)
                    )
                ],
            },
        ),
        [
            "First the row and the column of each of the h·w pixels: `np.divmod(np.arange(h * w), w)`.",
            "All differences, query minus key, as a matrix: `row[:, None] - row`. Displacement 0 is in cell h − 1.",
            "An array can be indexed with two matrices: `table[row[:, None] - row + h - 1, …]`.",
        ],
    ),
    "10.2": Exercise(
        Value(
            cell,
            lambda rng: (float(rng.uniform(-1, 1)), float(rng.uniform(-1, 1)), int(rng.integers(4, 15))),
            names=("cell",),
            mistakes={
                "the difference of two numbers in [−1, 1] is in [−2, 2]: halve it first": lambda q, p, h: (
                    (q - p + 1) / 2 * (2 * h - 2)
                ),
                "the table has 2h − 1 rows: its last one is 2h − 2": lambda q, p, h: (
                    ((q - p) / 2 + 1) / 2 * (2 * h - 1)
                ),
                "the displacement is query − key": lambda q, p, h: cell(p, q, h),
                "the table has 2h − 1 rows, the map h": lambda q, p, h: ((q - p) / 2 + 1) / 2 * (h - 1),
            },
        ),
        [
            "Steps 2 and 3: first D, half the difference, then the row of the table that D is on.",
            "−1 is row 0 and +1 the last row, 2h − 2: `(d + 1) / 2 * (2 * h - 2)`.",
        ],
    ),
    "10.3": Exercise(
        Value(
            window,
            lambda rng: (rng.uniform(-1, 5, 2), H, W),
            names=("first", "last"),
            mistakes={
                "the key is subtracted: its window moves the opposite way": lambda p, h, w: (
                    np.array([h - 1, w - 1]) + p,
                    2 * np.array([h - 1, w - 1]) + p,
                ),
                "the last query is H − 1 rows after the first, not H": lambda p, h, w: (
                    window(p, h, w)[0],
                    window(p, h, w)[1] + 1,
                ),
            },
        ),
        [
            "R = (i, j) − p + (H − 1, W − 1). Put in the query (0, 0).",
            "`first = np.array([h - 1, w - 1]) - point`. For the query (h − 1, w − 1) add that once more.",
        ],
    ),
    "10.4": Exercise(
        Gradient(
            position_bias,
            lambda rng: (a_table(rng), some_points(rng), H, W),
            names=("dtable", "dpoints", None, None),
            mistakes={
                "a point serves all heads: sum over them": first_head_only,
            },
        ),
        [
            "`d = dbias.reshape(len(table), h, w, len(points))` has the axes m, i, j, n of the derivation.",
            "Step 3 is `np.einsum('nia,njb,mijn->mab', gy, gx, d)`.",
            "In step 4 `g_slope(down, 2 * h - 1)` takes the place of gy, and all indices but n are summed: "
            "`'nia,njb,mab,mijn->n'`. Mind the minus.",
            "Put the two together with `np.stack([drow, dcol], -1)`. `optimize=True` makes a product of four arrays fast.",
        ],
    ),
    "10.5": Exercise(
        Value(
            grouped,
            lambda rng: (a_table(rng, 6), np.stack([some_points(rng) for _ in range(2)]), H, W),
            names=("bias",),
            mistakes={
                "the heads of a group follow each other: head m uses group m // (M/G), not m % G": lambda t, p, h, w: (
                    grouped(t, p, h, w, lambda m: m % len(p))
                ),
                "all heads read at the points of group 0": lambda t, p, h, w: grouped(t, p, h, w, lambda m: 0),
            },
        ),
        [
            "With M = 6 and G = 2: heads 0, 1, 2 use `points[0]`, heads 3, 4, 5 use `points[1]`.",
            "Call `position_bias` once for each group, with that group's slice of the table, and `np.concatenate` the results.",
        ],
    ),
    "10.6": Exercise(
        Value(
            parameters,
            lambda rng: tuple(int(rng.integers(a, a + 5)) for a in (2, 3, 9, 15)),
            names=("relative", "fixed"),
            mistakes={
                "each head has a table of its own": lambda m, h, w, n: parameters(1, h, w, n),
                "displacements run from −(H − 1) to H − 1: 2H − 1 of them": lambda m, h, w, n: (
                    m * (2 * h + 1) * (2 * w + 1),
                    m * h * w * n,
                ),
                "there are n keys; h·w is the number of queries": lambda m, h, w, n: parameters(m, h, w, h * w),
            },
        ),
        [
            "What is the shape of each? (M, 2H − 1, 2W − 1) for the relative one.",
            "The fixed one holds a number for every head, query and key: (M, H·W, N).",
        ],
    ),
    "10.7": Exercise(
        Value(
            lambda table: table[:, ::-1, ::-1],
            lambda rng: (a_table(rng),),
            names=("table",),
            mistakes={
                "the displacement changes its sign, not the number that stands there": lambda t: -t,
                "only the rows are turned around": lambda t: t[:, ::-1],
                "only the columns are turned around": lambda t: t[:, :, ::-1],
                "the heads stay in their order": lambda t: t[::-1, ::-1, ::-1],
            },
        ),
        [
            "Where is displacement Δ, and where −Δ? On a line: cells Δ + H − 1 and −Δ + H − 1.",
            "If one is cell a, the other is cell 2H − 2 − a: the axis is turned around. There are two such axes.",
        ],
    ),
    "10.8": Exercise(
        Op(
            position_bias,
            lambda rng: (a_table(rng), fine_points(rng), 7, 9),
            names=("dtable", "dpoints", None, None),
            mistakes={"∂R/∂p is −cells per pixel, not −1": without_cells},
        ),
        [
            "Copy `both_hats` and `position_bias`. What changes is R: the factor cells per pixel stands before (i − p).",
            "The table's size tells H₀: it has 2H₀ − 1 rows, so H₀ − 1 = (rows − 1)/2, which is also the centre.",
            "`r = (np.arange(h) - points[:, :1]) * cells[0] + (down - 1) / 2`, with `cells[0] = (down - 1) / 2 / (h - 1)`.",
            "The vjp is exercise 10.4's, with `drow * cells[0]` and `dcol * cells[1]`.",
        ],
    ),
}
