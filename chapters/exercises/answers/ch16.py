"""Answers to chapter 16: `right` ones, written otherwise than the solution; `wrong` ones, with what must be said of them."""

import math

import numpy as np


def cubic(a, b, c, d, x):
    t = d * x
    bracket = t + c
    y_inner = b + x * bracket
    return a + x * y_inner, y_inner + (t + bracket) * x


def by_powers(a, b, c, d, x):
    return a + b * x + c * x**2 + d * x**3, b + 2 * c * x + 3 * d * x**2


def wrong_slope(a, b, c, d, x):
    y, slope = cubic(a, b, c, d, x)
    return y, slope - d * x * x


def means(dy, x_hat, gamma):
    n = 1 / len(gamma)
    return np.einsum("nc,c->n", dy, gamma * n), np.einsum("c,nc,nc->n", gamma * n, x_hat, dy)


def means_of_d(dy, x_hat, gamma):
    d = gamma * dy
    return d.mean(1), np.einsum("nc,nc->n", d, x_hat) / len(gamma)


def three_passes(dy, x_hat, gamma):
    first, second = means(dy, x_hat, gamma)
    return np.einsum("nc,c->n", dy, gamma) / len(gamma) + 0 * first, second


def merged(n1, m1, q1, n2, m2, q2):
    n = n1 + n2
    m = (n1 * m1 + n2 * m2) / n
    return [n, m, q1 + n1 * (m1 - m) ** 2 + q2 + n2 * (m2 - m) ** 2]


def tanh_cubics(m):
    y = np.tanh(m)
    u = 1 - y * y
    half, d = -y * u, u * (3 * y * y - 1) / 3
    return np.array([y - m * u + m**2 * half - m**3 * d, u - 2 * m * half + 3 * m**2 * d, half - 3 * m * d, d]).T


def about_the_middle(m):
    y = np.tanh(m)
    u = 1 - y * y
    return np.stack([y, u, -y * u, u * (3 * y * y - 1) / 3], -1)


def tanh_with(second, third):
    def answer(m):
        y = np.tanh(m)
        half, d = second(y) / 2, third(y) / 6
        a, b = y - m * (1 - y * y) + m**2 * half - m**3 * d, 1 - y * y - 2 * m * half + 3 * m**2 * d
        return np.stack([a, b, half - 3 * m * d, d], -1)

    return answer


def by_where(s, floor):
    e = np.exp(s - np.max(s))
    sums = np.einsum("nm->n", e)
    for i in range(len(s)):
        if sums[i] <= floor:
            row = np.exp(s[i] - np.max(s[i]))
            e[i], sums[i] = row, row.sum()
    return e / sums[:, None]


def all_again(s, floor):
    e = np.exp(s - s.max())
    if (e.sum(-1) <= floor).any():
        e = np.exp(s - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def every_row(s, floor):
    e = np.exp(s - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def no_fallback(s, floor):
    e = np.exp(s - s.max())
    return e / e.sum(-1, keepdims=True)


def reads(z, a):
    padded = np.pad(z, ((0, 0), (2, 2)))[:, :]  # on purpose: an array with an axis of n
    first = np.clip(np.floor(a), -2, z.shape[1])
    i, b = np.arange(len(a)), first.astype(int) + 2
    after = a - np.floor(a)
    return padded[i, b] * (1 - after) + padded[i, np.minimum(b + 1, z.shape[1] + 3)] * after


def gathered(z, a):
    n, total = z.shape[1], 0
    for side in (0, 1):
        b = np.floor(a).astype(int) + side
        on = (b >= 0) & (b <= n - 1)
        total = total + np.take_along_axis(z, np.clip(b, 0, n - 1)[:, None], 1)[:, 0] * on * (1 - abs(a - b))
    return total


def clipped(z, a):
    b = np.clip(np.floor(a).astype(int), 0, z.shape[1] - 2)
    i = np.arange(len(a))
    return z[i, b] * (1 - (a - b)) + z[i, b + 1] * (a - b)


def swapped(z, a):
    after = a - np.floor(a)
    return gathered(z, np.floor(a) + np.where(after > 0, 1 - after, 0))


def product(z, a):
    return (z * np.maximum(0, 1 - abs(a[:, None] - np.arange(z.shape[1])))).sum(1)


def share(h, w, k):
    r = k // 2
    return math.prod((k * n - sum(2 * i for i in range(1, r + 1))) / n**2 for n in (h, w))


def exp(x, digits=9):
    n = np.floor(x * np.float32(1.4426950408889634) + np.float32(0.5))
    r = x - n * np.float32(0.69314575) - n * np.float32(1.4286068e-06)
    total = term = np.ones_like(r)
    for k in range(1, digits):
        term = term * r * np.float32(1 / k)
        total = total + term
    return np.ldexp(total, n.astype(np.int32))


def exp_carelessly(x):
    n = np.rint(x * np.float32(1.4426950408889634))
    r = x - n * np.float32(math.log(2))
    total = term = np.ones_like(r)
    for k in range(1, 9):
        term = term * r * np.float32(1 / k)
        total = total + term
    return np.ldexp(total, n.astype(np.int32))


def serial(t1, tp, p):
    s = (p * tp - t1) / (p * t1 - t1)
    return [s, t1 / (s * t1)]


ANSWERS = {
    "16.1": {
        "right": [cubic],
        "wrong": [
            (by_powers, "nine are enough"),
            (wrong_slope, "slope["),
            (lambda a, b, c, d, x: cubic(a, b, c, d, x)[0], "but 2 are asked for"),
        ],
    },
    "16.2": {
        "right": [means],
        "wrong": [
            (means_of_d, "makes an array of (n, c)"),
            (lambda dy, x_hat, gamma: tuple(20 * m for m in means(dy, x_hat, gamma)), "a factor?"),
            (lambda dy, x_hat, gamma: means(dy, x_hat, gamma)[::-1], "mean d["),
            (three_passes, "two are enough"),
        ],
    },
    "16.3": {
        "right": [merged],
        "wrong": [
            (
                lambda n1, m1, q1, n2, m2, q2: (n1 + n2, (m1 + m2) / 2, merged(n1, m1, q1, n2, m2, q2)[2]),
                "weigh their means",
            ),
            (lambda *given: (*merged(*given)[:2], given[2] + given[5]), "own block's mean"),
            (lambda *given: merged(*given)[:2], "but 3 are asked for"),
        ],
    },
    "16.4": {
        "right": [tanh_cubics],
        "wrong": [
            (about_the_middle, "coefficients["),
            (tanh_with(lambda y: -2 * y, lambda y: (1 - y * y) * (6 * y * y - 2)), "a minus and a y'"),
            (tanh_with(lambda y: -2 * y * (1 - y * y), lambda y: -2 * (1 - y * y) ** 2), "two terms"),
            (lambda m: tanh_cubics(m).T, "transposed?"),
        ],
    },
    "16.5": {
        "right": [by_where],
        "wrong": [
            (all_again, "exponentials for 300 scores"),
            (every_row, "one by one, where 0 are lost"),
            (no_fallback, "p["),
        ],
    },
    "16.6": {
        "right": [gathered],
        "wrong": [
            (product, "an axis of n"),
            (reads, "an axis of n"),
            (clipped, "value["),
            (swapped, "value["),
        ],
    },
    "16.7": {
        "right": [share],
        "wrong": [
            (lambda h, w, k: k * k / (h * w), "lead off the map"),
            (lambda h, w, k: k / w * (h * k - k // 2 * (k // 2 + 1)) / h**2, "borders of their own"),
            (lambda h, w, k: share(h, w, k) * h * w, "share: yours"),
        ],
    },
    "16.8": {
        "right": [exp],
        "wrong": [
            (np.exp, "it calls np.exp"),
            (lambda x: np.array([math.exp(value) for value in x], np.float32), "too few for e^x"),
            (exp_carelessly, "the rounding of n ln 2"),
            (lambda x: exp(x, 5), "of it"),
            (lambda x: exp(x).astype(float), "float32 is asked for"),
        ],
    },
    "16.9": {
        "right": [serial],
        "wrong": [
            (lambda t1, tp, p: (1 - serial(t1, tp, p)[0],) * 2, "side by side"),
            (lambda t1, tp, p: serial(t1, tp, p)[0], "but 2 are asked for"),
            (lambda t1, tp, p: (tp / t1, t1 / tp), "s: yours"),
        ],
    },
}
