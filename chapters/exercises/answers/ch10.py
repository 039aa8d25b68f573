"""Answers to chapter 10: `right` ones, written otherwise than the solution; `wrong` ones, with what must be said of them."""

import numpy as np

from minidat import ops


def whole_bias(table, h, w, key_first=False):
    bias = np.zeros((h * w, h * w))
    for i, j, k, m in np.ndindex(h, w, h, w):
        down, right = (k - i, m - j) if key_first else (i - k, j - m)
        bias[i * w + j, k * w + m] = table[down + h - 1, right + w - 1]
    return bias


def by_columns(table, h, w):
    row, col = np.arange(h * w) % h, np.arange(h * w) // h
    return table[row[:, None] - row + h - 1, col[:, None] - col + w - 1]


def cell(q_hat, p_hat, h):
    return ((q_hat + 1) / 2 - (p_hat + 1) / 2) * (h - 1) + h - 1


def hat(a, b):
    return max(0.0, 1.0 - abs(a - b))


def slope(a, b):
    return -np.sign(a - b) * (abs(a - b) < 1)


def bias_loops(table, points, h, w):
    heads, down, across = table.shape
    cells = (down - 1) / 2 / (h - 1), (across - 1) / 2 / (w - 1)
    bias = np.zeros((heads, h * w, len(points)))
    for i, j, n in np.ndindex(h, w, len(points)):
        r, c = (i - points[n, 0]) * cells[0] + (down - 1) / 2, (j - points[n, 1]) * cells[1] + (across - 1) / 2
        for a in range(max(0, int(r) - 1), min(down, int(r) + 3)):
            for b in range(max(0, int(c) - 1), min(across, int(c) + 3)):
                bias[:, i * w + j, n] += hat(r, a) * hat(c, b) * table[:, a, b]
    return bias


def loops_vjp(dbias, table, points, h, w, factor=True):
    _, down, across = table.shape
    cells = (down - 1) / 2 / (h - 1), (across - 1) / 2 / (w - 1)
    dtable, dpoints = np.zeros_like(table), np.zeros_like(points)
    for i, j, n in np.ndindex(h, w, len(points)):
        r, c = (i - points[n, 0]) * cells[0] + (down - 1) / 2, (j - points[n, 1]) * cells[1] + (across - 1) / 2
        d = dbias[:, i * w + j, n]
        for a in range(max(0, int(r) - 1), min(down, int(r) + 3)):
            for b in range(max(0, int(c) - 1), min(across, int(c) + 3)):
                dtable[:, a, b] += hat(r, a) * hat(c, b) * d
                dpoints[n, 0] -= slope(r, a) * hat(c, b) * (d @ table[:, a, b]) * (cells[0] if factor else 1)
                dpoints[n, 1] -= hat(r, a) * slope(c, b) * (d @ table[:, a, b]) * (cells[1] if factor else 1)
    return dtable, dpoints


def vjp_with(change):
    return lambda *a: change(*loops_vjp(*a))


def matrices(dbias, table, points, h, w):
    """Step 7 of the chapter, key by key."""
    dtable, dpoints = np.zeros_like(table), np.zeros_like(points)
    for n, (row, col) in enumerate(points):
        r, c = np.arange(h) - row + h - 1, np.arange(w) - col + w - 1
        gy = np.maximum(0, 1 - abs(r[:, None] - np.arange(2 * h - 1)))
        gx = np.maximum(0, 1 - abs(c[:, None] - np.arange(2 * w - 1)))
        sy = -np.sign(r[:, None] - np.arange(2 * h - 1)) * (gy > 0)
        sx = -np.sign(c[:, None] - np.arange(2 * w - 1)) * (gx > 0)
        for m, b in enumerate(table):
            ds = dbias[m, :, n].reshape(h, w)
            dtable[m] += gy.T @ ds @ gx
            dpoints[n] -= (sy * (ds @ gx @ b.T)).sum(), (sx * (ds.T @ gy @ b)).sum()
    return dtable, dpoints


def first_head(dbias, table, points, h, w):
    dtable, _ = loops_vjp(dbias, table, points, h, w)
    return dtable, loops_vjp(dbias[:1], table[:1], points, h, w)[1]


def features_only(dbias, table, points, h, w):
    dtable, dpoints = loops_vjp(dbias, table, points, h, w)
    return dtable, 0 * dpoints


def grouped(table, points, h, w):
    grids = np.arange(h) + 0.0, np.arange(w) + 0.0
    return ops.position_bias.raw(table, points[None], *grids)[0][0]


def alternating(table, points, h, w):
    return np.stack([bias_loops(table[m : m + 1], points[m % len(points)], h, w)[0] for m in range(len(table))])


def first_group(table, points, h, w):
    return bias_loops(table, points[0], h, w)


def count(heads, h, w, n):
    return np.zeros((heads, 2 * h - 1, 2 * w - 1)).size, np.zeros((heads, h * w, n)).size


def flipped(table):
    out = np.empty_like(table)
    _, down, across = table.shape
    for a, b in np.ndindex(down, across):
        out[:, a, b] = table[:, down - 1 - a, across - 1 - b]
    return out


def bias_on(vjp):
    return lambda table, points, h, w: (
        bias_loops(table, points, h, w),
        lambda dbias: vjp(dbias, table, points, h, w),
    )


def unstretched(table, points, h, w):
    """Cells of 1 on any map."""
    grids = np.arange(h) + 0.0, np.arange(w) + 0.0
    bias, pull = ops.position_bias.raw(table, points[None, None], *grids)
    return bias[0], lambda dbias: (pull(dbias[None])[0], pull(dbias[None])[1][0, 0])


ANSWERS = {
    "10.1": {
        "right": [whole_bias],
        "wrong": [
            (lambda t, h, w: whole_bias(t, h, w, key_first=True), "goes by query − key"),
            (lambda t, h, w: whole_bias(t, h, w).T, "goes by query − key"),
            (by_columns, "divide by the number of columns"),
            (lambda t, h, w: whole_bias(np.roll(t, (h - 1, w - 1), (0, 1)), h, w), "in the table's middle"),
            (lambda t, h, w: whole_bias(t[::-1], h, w), "bias["),
            (lambda t, h, w: whole_bias(t.T, h, w), "raises IndexError"),
        ],
    },
    "10.2": {
        "right": [cell],
        "wrong": [
            (lambda q, p, h: (q - p + 1) / 2 * (2 * h - 2), "halve it first"),
            (lambda q, p, h: ((q - p) / 2 + 1) / 2 * (2 * h - 1), "2h − 2"),
            (lambda q, p, h: cell(p, q, h), "query − key"),
            (lambda q, p, h: ((q - p) / 2 + 1) / 2 * (h - 1), "the map h"),
        ],
    },
    "10.3": {
        "right": [lambda p, h, w: ([h - 1 - p[0], w - 1 - p[1]], [2 * h - 2 - p[0], 2 * w - 2 - p[1]])],
        "wrong": [
            (lambda p, h, w: ([h - 1, w - 1] - -p, [2 * h - 2, 2 * w - 2] - -p), "the opposite way"),
            (lambda p, h, w: ([h - 1, w - 1] - p, [2 * h - 1, 2 * w - 1] - p), "not H"),
            (lambda p, h, w: ([w - 1, h - 1] - p[::-1], [2 * w - 2, 2 * h - 2] - p[::-1]), "swapped?"),
        ],
    },
    "10.4": {
        "right": [loops_vjp, matrices],
        "wrong": [
            (vjp_with(lambda dt, dp: (dt, -dp)), "(sign?)"),
            (vjp_with(lambda dt, dp: (-dt, dp)), "(sign?)"),
            (vjp_with(lambda dt, dp: (dt, dp[:, ::-1])), "swapped?"),
            (vjp_with(lambda dt, dp: (dt.swapaxes(1, 2), dp)), "dtable has shape (3, 9, 7)"),
            (vjp_with(lambda dt, dp: (dt[:, ::-1, ::-1], dp)), "dtable["),
            (vjp_with(lambda dt, dp: (dt, dp * [1, 0])), "is a term missing?"),
            (features_only, "is a term missing?"),
            (first_head, "sum over them"),
            (lambda dbias, *a: loops_vjp(np.ones_like(dbias), *a), "cotangent of ones"),
        ],
    },
    "10.5": {
        "right": [grouped],
        "wrong": [
            (alternating, "head m uses group m // (M/G)"),
            (first_group, "group 0"),
            (lambda t, p, h, w: grouped(t, p[::-1], h, w), "bias["),
        ],
    },
    "10.6": {
        "right": [count],
        "wrong": [
            (lambda m, *a: count(1, *a), "a table of its own"),
            (lambda m, h, w, n: (count(m, h + 1, w + 1, n)[0], m * h * w * n), "2H − 1"),
            (lambda m, h, w, n: count(m, h, w, h * w), "there are n keys"),
            (lambda m, h, w, n: count(m, h, w, n)[::-1], "relative: yours"),
        ],
    },
    "10.7": {
        "right": [flipped],
        "wrong": [
            (lambda t: t[:, ::-1], "only the rows"),
            (lambda t: t[:, :, ::-1], "only the columns"),
            (lambda t: -t, "changes its sign, not the number"),
            (lambda t: t[::-1, ::-1, ::-1], "in their order"),
            (lambda t: -t[:, ::-1, ::-1], "(sign?)"),
            (lambda t: t.swapaxes(1, 2), "has shape (3, 9, 7)"),
        ],
    },
    "10.8": {
        "right": [bias_on(loops_vjp)],
        "wrong": [
            (bias_on(lambda *a: loops_vjp(*a, factor=False)), "not −1"),
            (bias_on(vjp_with(lambda dt, dp: (dt, -dp))), "(sign?)"),
            (unstretched, "y["),
            (lambda *a: bias_loops(*a), "a pair (y, vjp)"),
            (bias_on(lambda dbias, *a: loops_vjp(np.ones_like(dbias), *a)), "cotangent of ones"),
        ],
    },
}
