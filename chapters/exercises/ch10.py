"""Exercises of chapter 10: the deformable relative position bias."""

import numpy as np

from minidat import ops
from minidat.ops.bilinear import g, g_slope
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


def by_hats(dbias, table, points, h, w, *, slope=g_slope, order="C"):
    """The gradients as the chapter derives them, with another function in the place of g′, or another order of pixels."""
    down, right = np.arange(h) - points[:, :1] + h - 1, np.arange(w) - points[:, 1:] + w - 1
    gy, gx = g(down, 2 * h - 1), g(right, 2 * w - 1)
    shape = (len(table), h, w, len(points)) if order == "C" else (len(table), w, h, len(points))
    d = dbias.reshape(shape) if order == "C" else dbias.reshape(shape).swapaxes(1, 2)
    sums = {"optimize": True}
    drow = -np.einsum("nia,njb,mab,mijn->n", slope(down, 2 * h - 1), gx, table, d, **sums)
    dcol = -np.einsum("nia,njb,mab,mijn->n", gy, slope(right, 2 * w - 1), table, d, **sums)
    return np.einsum("nia,njb,mijn->mab", gy, gx, d), np.stack([drow, dcol], -1)


def without_the_table(dbias, table, points, h, w):
    return gradients(dbias, table, points, h, w)[0], by_hats(dbias, np.ones_like(table), points, h, w)[1]


LN8 = np.log(8)


def log_bias(points, w1, b1, w2, h, w):
    """The bias of a small network of the displacement: (N, 2), (2, E), (E), (E, O) → (O, h·w, N)."""
    grids, scale = (np.arange(h) + 0.0, np.arange(w) + 0.0), (8 / (h - 1), 8 / (w - 1))
    return ops.log_position_bias.raw(points[None, None], *grids, w1, b1, w2, scale=scale)[0][0]


def log_bias_vjp(dbias, points, w1, b1, w2, h, w, *, passed=True, sloped=True, scaled=True, sign=-1.0, summed=True):
    """Its gradients; each option, switched off, leaves out what its name says."""
    grid = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), -1).reshape(-1, 1, 2)
    scale = np.array([8 / (h - 1), 8 / (w - 1)])
    far = (grid - points) * scale
    u = np.sign(far) * np.log(1 + abs(far)) / LN8
    y = u @ w1 + b1
    d = dbias.transpose(1, 2, 0)
    dy = (d @ w2.T) * ((y > 0) if passed else 1)
    dd = (dy @ w1.T) * (1 / ((1 + abs(far)) * LN8) if sloped else 1)
    dpoints = sign * dd.sum(0) * (scale if scaled else 1)
    dw1, dw2 = np.einsum("pnc,pne->ce", u, dy), np.einsum("pne,pno->eo", np.maximum(y, 0), d)
    return dpoints, dw1, dy.sum((0, 1)) if summed else dy.mean((0, 1)), dw2


def a_network(rng):
    """Points and weights whose hidden numbers stay away from the kink of the maximum."""
    while True:
        points, w1, b1 = rng.uniform(0.1, 2.9, (4, 2)), rng.standard_normal((2, 5)), rng.standard_normal(5)
        w2 = rng.standard_normal((5, 3))
        grid = np.stack(np.meshgrid(np.arange(H), np.arange(W), indexing="ij"), -1).reshape(-1, 1, 2)
        far = (grid - points) * [8 / (H - 1), 8 / (W - 1)]
        if abs(np.sign(far) * np.log(1 + abs(far)) / LN8 @ w1 + b1).min() > 1e-3:
            return points, w1, b1, w2, H, W


def ruled(table, points, h, w, kappa):
    """The bias with `kappa` cells per pixel, whatever the map: (M, R, C), (N, 2), …, (2,) → (M, h·w, N)."""
    grids = np.arange(h) + 0.0, np.arange(w) + 0.0
    return ops.position_bias.raw(table, points[None, None], *grids, cells=tuple(kappa))[0][0]


def ruler_vjp(dbias, table, points, h, w, kappa, *, displaced=True):
    far = np.arange(h) - points[:, :1], np.arange(w) - points[:, 1:]
    dr, dc = to_displacements(dbias, table, kappa[0] * far[0] + h - 1, kappa[1] * far[1] + w - 1)
    weigh = far if displaced else (1, 1)
    return np.array([(dr * weigh[0]).sum(), (dc * weigh[1]).sum()])


def to_displacements(dbias, table, down, right):
    """The gradients to R, of each key with each query row (N, h) and with each query column (N, w)."""
    d = dbias.reshape(len(table), down.shape[1], right.shape[1], len(down))
    gy, gx = g(down, table.shape[1]), g(right, table.shape[2])
    slope_y, slope_x = g_slope(down, table.shape[1]), g_slope(right, table.shape[2])
    return (
        np.einsum("nia,njb,mab,mijn->ni", slope_y, gx, table, d, optimize=True),
        np.einsum("nia,njb,mab,mijn->nj", gy, slope_x, table, d, optimize=True),
    )


def a_ruler(rng):
    return a_table(rng), some_points(rng), H, W, rng.uniform(0.5, 0.9, 2)


def on_grid(table, points, y, x):
    """The bias of queries on a grid of any rows y and columns x."""
    return ops.position_bias.raw(table, points[None, None], y, x)[0][0]


def grid_vjp(dbias, table, points, y, x):
    h, w = (table.shape[1] + 1) // 2, (table.shape[2] + 1) // 2
    dr, dc = to_displacements(dbias, table, y - points[:, :1] + h - 1, x - points[:, 1:] + w - 1)
    return dr.sum(0), dc.sum(0)


def a_moved_grid(rng):
    """Keys at 0.1 … 0.4 beside whole pixels, queries on whole pixels and as much above them: no displacement is whole."""
    keys = np.floor(some_points(rng)) + rng.uniform(0.5, 0.9, (N, 2))
    return a_table(rng), keys, np.arange(H) + rng.uniform(0, 0.4, H), np.arange(W) + rng.uniform(0, 0.4, W)


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
                "that is a displacement, query − key; its cell in the table is H − 1 rows and W − 1 columns further": (
                    lambda p, h, w: (-p, np.array([h - 1, w - 1]) - p)
                ),
                "a key between pixels has a window between cells: do not round": lambda p, h, w: tuple(
                    np.round(place) for place in window(p, h, w)
                ),
                "a key between pixels has a window between cells: do not round it off": lambda p, h, w: tuple(
                    np.floor(place) for place in window(p, h, w)
                ),
                "rows go with h, columns with w": lambda p, h, w: window(p, w, h),
                "that is where the window is on the map, not on the table": lambda p, h, w: (
                    np.zeros(2),
                    np.array([h - 1.0, w - 1.0]),
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
                "that has g where the slope g′ belongs: steps 4 and 5": lambda *a: by_hats(*a, slope=g),
                "the slope is of the table's numbers: multiply by the table": without_the_table,
                "query (i, j) has number i·W + j: `dbias.reshape(len(table), h, w, len(points))`": lambda *a: by_hats(
                    *a, order="F"
                ),
                "the table is read at query − key; that collects at key − query": lambda *a: (
                    gradients(*a)[0][:, ::-1, ::-1],
                    gradients(*a)[1],
                ),
                "a sum over the queries, not a mean": lambda *a: (
                    gradients(*a)[0] / (a[3] * a[4]),
                    gradients(*a)[1] / (a[3] * a[4]),
                ),
                "a cell collects from the pairs of all keys: sum over n": lambda dbias, table, points, h, w: (
                    gradients(dbias[..., :1], table, points[:1], h, w)[0],
                    gradients(dbias, table, points, h, w)[1],
                ),
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
    "10.9": Exercise(
        Gradient(
            log_bias,
            a_network,
            names=("dpoints", "dw1", "db1", "dw2", None, None),
            mistakes={
                "step 2: nothing passes where the maximum has cut": lambda *a: log_bias_vjp(*a, passed=False),
                "step 4: the slope of the logarithm is missing": lambda *a: log_bias_vjp(*a, sloped=False),
                "step 5: D is λ times pixels, so λ comes back with it": lambda *a: log_bias_vjp(*a, scaled=False),
                "step 5: D is query − key, so a key comes with a minus": lambda *a: log_bias_vjp(*a, sign=1.0),
                "b₁ is added at each pair, so its gradient is a sum over pairs, not a mean": lambda *a: log_bias_vjp(
                    *a, summed=False
                ),
            },
        ),
        [
            "Bring the heads to the end first: `d = dbias.transpose(1, 2, 0)` is (h·w, N, O), as in the steps.",
            "`dw2 = np.einsum('pne,pno->eo', hidden, d)`, and `dy = (d @ w2.T) * (hidden > 0)`.",
            "`dw1 = np.einsum('pnc,pne->ce', u, dy)`, `db1 = dy.sum((0, 1))`, `dd = (dy @ w1.T) * slope`.",
            "`dpoints = -dd.sum(0) * [8 / (h - 1), 8 / (w - 1)]`.",
        ],
    ),
    "10.10": Exercise(
        Gradient(
            ruled,
            a_ruler,
            names=(None, None, None, None, "dkappa"),
            mistakes={
                "R = κ (i − p) + …, so ∂R/∂κ is the displacement i − p of the pair, not 1": lambda *a: ruler_vjp(
                    *a, displaced=False
                ),
                "no minus: the key's minus is inside i − p already": lambda *a: -ruler_vjp(*a),
                "that is at one cell a pixel; the hats must be taken where κ puts them": lambda *a: ruler_vjp(
                    *a[:5], np.ones(2)
                ),
            },
        ),
        [
            "Which factor of the bias depends on κ_row? Write δG^y in terms of δκ_row, as step 2 did for the key.",
            "δR_row = (i − p_row) δκ_row. So each pair's slope is multiplied by its displacement in pixels, before the sum.",
            "`np.einsum('nia,njb,mab,mijn->ni', g_slope(down, 2 * h - 1), gx, table, d, optimize=True)` is the gradient to "
            "R_row of each key and each query row, with `down = kappa[0] * (np.arange(h) - points[:, :1]) + h - 1`.",
            "Multiply that by `np.arange(h) - points[:, :1]` and add everything up. The same for columns.",
        ],
    ),
    "10.11": Exercise(
        Gradient(
            on_grid,
            a_moved_grid,
            names=(None, None, "dy", "dx"),
            mistakes={
                "a query comes with a plus in R = query − key": lambda *a: tuple(-d for d in grid_vjp(*a)),
                "one query row serves all keys: sum over them": lambda dbias, table, points, y, x: grid_vjp(
                    dbias[..., :1], table, points[:1], y, x
                ),
                "one query row serves all heads: sum over them": lambda dbias, table, points, y, x: grid_vjp(
                    dbias[:1], table[:1], points, y, x
                ),
            },
        ),
        [
            "Write step 2 for y_i in place of p: what is δR_row, and for which pairs?",
            "δR_row = +δy_i, for query row i, with every key n, every query column j and every head m. Sum over those.",
            "`np.einsum('nia,njb,mab,mijn->i', …)`: the letter that stays is i.",
        ],
    ),
}
