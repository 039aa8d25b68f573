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


def log_network(dbias, points, w1, b1, w2, h, w, open_=True, flat=False, scaled=True, sign=-1):
    """Exercise 10.9 by loops over pairs; each option off makes a slip."""
    dpoints, dw1, db1, dw2 = (np.zeros_like(a) for a in (points, w1, b1, w2))
    scale = np.array([8 / (h - 1), 8 / (w - 1)])
    for i, j, n in np.ndindex(h, w, len(points)):
        d = (np.array([i, j]) - points[n]) * scale
        u = np.sign(d) * np.log(1 + abs(d)) / np.log(8)
        y = u @ w1 + b1
        upstream = dbias[:, i * w + j, n]
        dw2 += np.outer(np.maximum(y, 0), upstream)
        dy = w2 @ upstream
        if open_:
            dy = np.where(y > 0, dy, 0)
        dw1 += np.outer(u, dy)
        db1 += dy
        du = w1 @ dy
        dpoints[n] += sign * du * (1 if flat else 1 / (1 + abs(d)) / np.log(8)) * (scale if scaled else 1)
    return dpoints, dw1, db1, dw2


def pairs(dbias, table, points, y, x, kappa=(1, 1)):
    """(i, j, n), displacement, gradient to R: of each pair, by loops."""
    h, w = (table.shape[1] + 1) // 2, (table.shape[2] + 1) // 2
    for i, j, n in np.ndindex(len(y), len(x), len(points)):
        far = np.array([y[i], x[j]]) - points[n]
        r, c = kappa * far + [h - 1, w - 1]
        dr = np.zeros(2)
        for a, b in np.ndindex(*table.shape[1:]):
            pull = dbias[:, i * len(x) + j, n] @ table[:, a, b]
            dr += pull * np.array([slope(r, a) * hat(c, b), hat(r, a) * slope(c, b)])
        yield (i, j, n), far, dr


def ruler(dbias, table, points, h, w, kappa, displaced=True, sign=1):
    told = pairs(dbias, table, points, np.arange(h), np.arange(w), kappa)
    return sign * sum(dr * (far if displaced else 1) for _, far, dr in told)


def moving_grid(dbias, table, points, y, x, sign=1):
    dy, dx = np.zeros(len(y)), np.zeros(len(x))
    for (i, j, _), _, dr in pairs(dbias, table, points, y, x):
        dy[i] += sign * dr[0]
        dx[j] += sign * dr[1]
    return dy, dx


def one_key(dbias, table, points, y, x):
    return moving_grid(dbias[..., :1], table, points[:1], y, x)


def hats_for_slopes(dbias, table, points, h, w):
    """Exercise 10.4 with g in the place of g′."""
    dpoints = np.zeros_like(points)
    for (_, _, n), far, _ in pairs(dbias, table, points, np.arange(h), np.arange(w)):
        r, c = far[0] + h - 1, far[1] + w - 1
        i, j = np.round(far + points[n]).astype(int)
        for a, b in np.ndindex(*table.shape[1:]):
            dpoints[n] -= hat(r, a) * hat(c, b) * (dbias[:, i * w + j, n] @ table[:, a, b])
    return loops_vjp(dbias, table, points, h, w)[0], dpoints


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
            (lambda p, h, w: (-p, [h - 1, w - 1] - p), "that is a displacement"),
            (lambda p, h, w: (np.rint([h - 1, w - 1] - p), np.rint([2 * h - 2, 2 * w - 2] - p)), "do not round"),
            (lambda p, h, w: ([2 * h - 2, 2 * w - 2] - p, [h - 1, w - 1] - p), "in another order"),
            (lambda p, h, w: ([w - 1, h - 1] - p, [2 * w - 2, 2 * h - 2] - p), "rows go with h"),
            (lambda p, h, w: ([0, 0], [h - 1, w - 1]), "on the map"),
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
            (hats_for_slopes, "g where the slope g′ belongs"),
            (lambda d, t, *a: (loops_vjp(d, t, *a)[0], loops_vjp(d, np.ones_like(t), *a)[1]), "multiply by the table"),
            (
                lambda d, t, p, h, w: loops_vjp(
                    d.reshape(len(t), w, h, -1).swapaxes(1, 2).reshape(d.shape), t, p, h, w
                ),
                "has number i·W + j",
            ),
            (lambda *a: tuple(d / (a[3] * a[4]) for d in loops_vjp(*a)), "not a mean"),
            (
                lambda d, t, p, h, w: (loops_vjp(d[..., :1], t, p[:1], h, w)[0], loops_vjp(d, t, p, h, w)[1]),
                "sum over n",
            ),
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
            (lambda m, h, w, n: count(m, h, w, n)[::-1], "in another order"),
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
    "10.9": {
        "right": [log_network],
        "wrong": [
            (lambda *a: log_network(*a, open_=False), "step 2"),
            (lambda *a: log_network(*a, flat=True), "step 4"),
            (lambda *a: log_network(*a, scaled=False), "step 5: D is λ times"),
            (lambda *a: log_network(*a, sign=1), "comes with a minus"),
            (
                lambda *a: (*log_network(*a)[:2], log_network(*a)[2] / (a[5] * a[6] * len(a[1])), log_network(*a)[3]),
                "not a mean",
            ),
            (lambda *a: log_network(*a)[1:], "4 are asked for"),
            (lambda dbias, *a: log_network(np.ones_like(dbias), *a), "cotangent of ones"),
        ],
    },
    "10.10": {
        "right": [ruler],
        "wrong": [
            (lambda *a: ruler(*a, displaced=False), "the displacement i − p"),
            (lambda *a: ruler(*a, sign=-1), "no minus"),
            (lambda *a: ruler(*a[:5], np.ones(2)), "where κ puts them"),
            (lambda *a: ruler(*a)[::-1], "swapped?"),
        ],
    },
    "10.11": {
        "right": [moving_grid],
        "wrong": [
            (lambda *a: moving_grid(*a, sign=-1), "a plus"),
            (one_key, "all keys"),
            (lambda d, t, *a: moving_grid(d[:1], t[:1], *a), "all heads"),
            (lambda *a: moving_grid(*a)[::-1], "in another order"),
        ],
    },
}
