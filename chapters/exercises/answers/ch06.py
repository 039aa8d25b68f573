"""Answers to chapter 06: `right` ones, written otherwise than the solution; `wrong` ones, with what must be said of them."""

import numpy as np

from minidat import ops


def hat(a, n):
    return np.maximum(0, 1 - abs(a[:, None] - np.arange(n)))


def slope(a, n):
    t = a[:, None] - np.arange(n)
    return np.where((t >= -1) & (t < 1), np.where(t < 0, 1.0, -1.0), 0.0)


def sign_slope(a, n):
    t = a[:, None] - np.arange(n)
    return -np.sign(t) * (abs(t) < 1)


def boolean_slope(a, n):
    t = a[:, None] - np.arange(n)
    return ((t >= -1) & (t < 0)) - ((t >= 0) & (t < 1))


def sample_vjp(dy, z, points):
    dz, dpoints = np.zeros(z.shape), np.zeros(points.shape)
    h, w, _ = z.shape
    for n, (row, col) in enumerate(points):
        for r in range(h):
            for c in range(w):
                up, left = max(0, 1 - abs(row - r)), max(0, 1 - abs(col - c))
                dz[r, c] += up * left * dy[n]
                dpoints[n, 0] -= np.sign(row - r) * (abs(row - r) < 1) * left * (dy[n] @ z[r, c])
                dpoints[n, 1] -= np.sign(col - c) * (abs(col - c) < 1) * up * (dy[n] @ z[r, c])
    return dz, dpoints


def vjp_with(change):
    return lambda dy, z, points: change(*sample_vjp(dy, z, points))


def corners(z, points):
    h, w, c = z.shape
    y = np.zeros((len(points), c))
    for n, (row, col) in enumerate(points):
        r, s = int(np.floor(row)), int(np.floor(col))
        for i, j in ((r, s), (r, s + 1), (r + 1, s), (r + 1, s + 1)):
            if 0 <= i < h and 0 <= j < w:
                y[n] += (1 - abs(row - i)) * (1 - abs(col - j)) * z[i, j]
    return y


def corners_cut_towards_zero(z, points):
    h, w, c = z.shape
    first = points.astype(int)
    fraction = points - first
    y = np.zeros((len(points), c))
    for i, j in np.ndindex(2, 2):
        row, col = (first + np.array((i, j))).T
        weight = np.prod([part if corner else 1 - part for corner, part in zip((i, j), fraction.T)], axis=0)
        weight = weight * (row >= 0) * (row < h) * (col >= 0) * (col < w)
        y += weight[:, None] * z[row.clip(0, h - 1), col.clip(0, w - 1)]
    return y


def clipped_corners(z, points):
    return corners(np.pad(z, ((9, 9), (9, 9), (0, 0)), mode="edge"), points + 9)


def read(z, points):
    y, vjp = ops.bilinear_sample.raw(z[None], points[None, None])

    def pull(dy):
        dz, dpoints = vjp(dy[None])
        return dz[0], dpoints[0, 0]

    return y[0], pull


def clamped(mask):
    def vjp(dy, z, points):
        limit = np.array(z.shape[:2]) - 1
        dz, dq = read(z, np.clip(points, 0, limit))[1](dy)
        return dz, mask(dq, (points >= 0) & (points < limit))

    return vjp


def with_the_end(dy, z, points):
    limit = np.array(z.shape[:2]) - 1
    dz, dq = read(z, np.clip(points, 0, limit))[1](dy)
    return dz, dq * ((points >= 0) & (points <= limit))


def four_corners(dy, z, points, at_once=False):
    h, w, _ = z.shape
    dz, dpoints = np.zeros(z.shape), np.zeros(points.shape)
    for n, (row, col) in enumerate(points):
        r, c = int(np.floor(row)), int(np.floor(col))
        u, v = row - r, col - c
        for i, j in np.ndindex(2, 2):
            if 0 <= r + i < h and 0 <= c + j < w:
                across, down = (v, 1 - v)[1 - j], (u, 1 - u)[1 - i]
                wanted = z[r + i, c + j] @ dy[n]
                given = down * across * dy[n]
                dz[r + i, c + j] = given if at_once else dz[r + i, c + j] + given
                dpoints[n] += (2 * i - 1) * across * wanted, (2 * j - 1) * down * wanted
    return dz, dpoints


def assigned(dy, z, points):
    """Corner by corner with `+=`."""
    h, w, _ = z.shape
    dz, first = np.zeros(z.shape), np.floor(points).astype(int)
    for i, j in np.ndindex(2, 2):
        row, col = (first + np.array((i, j))).T
        inside = (row >= 0) & (row < h) & (col >= 0) & (col < w)
        weight = abs(1 - i - (points - first)[:, 0]) * abs(1 - j - (points - first)[:, 1])
        dz[row[inside], col[inside]] += (weight[:, None] * dy)[inside]
    return dz, four_corners(dy, z, points)[1]


def round_slope(a, n):
    return [[-np.pi / 2 * np.sin(np.pi * (x - b)) if abs(x - b) < 1 else 0.0 for b in range(n)] for x in a]


def climb(z, point, rate, steps, sign=1):
    for _ in range(steps):
        point = point + sign * rate * sample_vjp(np.ones((1, 1)), z, point[None])[1][0]
    return point


def climb_in_place(z, point, rate, steps):
    point += rate * sample_vjp(np.ones((1, 1)), z, point[None])[1][0]
    return point


def cell(z00, z01, z10, z11):
    return z00, z10 - z00, z01 - z00, z00 + z11 - z01 - z10


def half(h, w):
    return np.array([h - 1, w - 1]) / 2


ANSWERS = {
    "6.1": {
        "right": [slope],
        "wrong": [
            (lambda a, n: -slope(a, n), "(sign?)"),
            (lambda a, n: slope(a, n).T, "transposed?"),
            (sign_slope, "take the slope on the right"),
            (lambda a, n: -slope(n - 1 - a, n)[:, ::-1], "slope on the left"),
            (boolean_slope, "make numbers of the first"),
            (lambda a, n: slope(a, n) != 0, "where the hat falls its slope is −1"),
        ],
    },
    "6.2": {
        "right": [sample_vjp, lambda dy, z, p: list(read(z, p)[1](dy))],
        "wrong": [
            (vjp_with(lambda dz, dp: (dz, dp * [-1, 1])), "dpoints[..., 0]: yours"),
            (vjp_with(lambda dz, dp: (dz, dp * [-1, 1])), "(sign?)"),
            (vjp_with(lambda dz, dp: (dz, dp[:, ::-1])), "(row and col swapped?)"),
            (vjp_with(lambda dz, dp: (dz.swapaxes(0, 1), dp)), "dz has shape (5, 4, 3), but (4, 5, 3)"),
            (vjp_with(lambda dz, dp: (dz, dp.T)), "dpoints has shape (2, 6), but (6, 2) is asked for (transposed?)"),
            (vjp_with(lambda dz, dp: (2 * dz, dp)), "× 2: a factor?"),
            (vjp_with(lambda dz, dp: (dz, dp * [1, 0])), "a term missing?"),
            (vjp_with(lambda dz, dp: (dz, None)), "dpoints is None: not done yet"),
            (vjp_with(lambda dz, dp: dz), "one ndarray, but 2 are asked for: dz, dpoints"),
            (vjp_with(lambda dz, dp: (dz, dp * np.nan)), "is nan"),
            (lambda dy, z, p: sample_vjp(np.ones(dy.shape), z, p), "cotangent of ones"),
            (lambda dy, z, p: sample_vjp(dy * [1, 0, 0], z, p), "dz["),
            (
                lambda dy, z, p: (sample_vjp(dy, z, p)[0], sample_vjp(dy * [1, 0, 0], z, p)[1]),
                "sum over the channels is missing",
            ),
            (lambda dy, z, p: dy @ z, "raises ValueError"),
        ],
    },
    "6.3": {
        "right": [corners, lambda z, p: read(z, p)[0]],
        "wrong": [
            (clipped_corners, "clipping an index is not enough"),
            (corners_cut_towards_zero, "cuts towards zero"),
            (lambda z, p: corners(z, p[:, ::-1]), "y["),
            (lambda z, p: corners(z, np.floor(p)), "y["),
        ],
    },
    "6.4": {
        "right": [lambda d, h, w: np.stack([d[:, 0] * (h - 1), d[:, 1] * (w - 1)], -1) / 2],
        "wrong": [
            (lambda d, h, w: d * np.array([h, w]) / 2, "H − 1 and W − 1"),
            (lambda d, h, w: d / half(h, w), "this divides"),
            (lambda d, h, w: d * half(w, h), "rows go with H"),
            (lambda d, h, w: -d * half(h, w), "(sign?)"),
            (lambda d, h, w: 2 * d * half(h, w), "× 2: a factor?"),
        ],
    },
    "6.5": {
        "right": [cell],
        "wrong": [
            (lambda a, b, c, d: cell(a, c, b, d), "u goes down the rows"),
            (lambda a, b, c, d: (*cell(a, b, c, d)[:3], -cell(a, b, c, d)[3]), "times u v: yours"),
            (lambda a, b, c, d: (a, c - a, b - a, d - a), "times u v: yours"),
            (lambda a, b, c, d: cell(a, b, c, d)[:3], "3 results, but 4 are asked for"),
        ],
    },
    "6.6": {
        "right": [clamped(lambda dq, free: np.where(free, dq, 0))],
        "wrong": [
            (clamped(lambda dq, free: dq), "a clamped coordinate does not move"),
            (clamped(lambda dq, free: dq * free.all(-1, keepdims=True)), "each coordinate is clamped by itself"),
            (clamped(lambda dq, free: -dq * free), "(sign?)"),
            (lambda dy, z, p: read(z, p)[1](dy), "clamp first"),
            (with_the_end, "the slope there is 0: `<`"),
        ],
    },
    "6.7": {
        "right": [climb],
        "wrong": [
            (lambda z, p, rate, steps: climb(z, p, rate, steps, sign=-1), "add the gradient to climb"),
            (lambda z, p, rate, steps: p + steps * (climb(z, p, rate, 1) - p), "gradient of the start"),
            (climb_in_place, "it writes to its argument 1"),
        ],
    },
    "6.8": {
        "right": [four_corners, sample_vjp],
        "wrong": [
            (assigned, "use np.add.at"),
            (lambda *a: four_corners(*a, at_once=True), "dz["),
            (
                lambda dy, z, p: (four_corners(dy, z, p)[0], four_corners(dy * [1, 0, 0], z, p)[1]),
                "sum over the channels is missing",
            ),
            (lambda dy, z, p: (four_corners(dy, z, p)[0], four_corners(dy, z, p)[1][:, ::-1]), "row and col swapped?"),
            (lambda dy, z, p: (-four_corners(dy, z, p)[0], four_corners(dy, z, p)[1]), "(sign?)"),
        ],
    },
    "6.9": {
        "right": [round_slope],
        "wrong": [
            (lambda a, n: np.array(round_slope(a, n)) / np.pi, "inner derivative is missing"),
            (lambda a, n: 2 * np.array(round_slope(a, n)), "½ in front"),
            (lambda a, n: -np.pi / 2 * np.sin(np.pi * (a[:, None] - np.arange(n))), "from distance 1 on"),
            (lambda a, n: -np.array(round_slope(a, n)), "(sign?)"),
        ],
    },
}
