"""Answers to chapter 11: `right` ones, written otherwise than the solution; `wrong` ones, with what must be said of them."""

from math import ceil, isqrt

import numpy as np


def product(a, b):
    """Multiply-adds of a product of matrices of these shapes."""
    assert a[1] == b[0]
    return a[0] * a[1] * b[1]


def omega_mhsa(h, w, dim):
    n = h * w
    return 4 * product((n, dim), (dim, dim)), product((n, dim), (dim, n)) + product((n, n), (n, dim))


def omega(h, w, dim, stride, kernel, rounded=ceil):
    n, points = h * w, rounded(h / stride) * rounded(w / stride)
    queries, keys = 2 * product((n, dim), (dim, dim)), 2 * product((points, dim), (dim, dim))
    depthwise, pointwise = points * kernel**2 * dim, product((points, dim), (dim, 2))
    return queries + keys + 2 * n * points * dim, depthwise + pointwise


def training_step(n, widths):
    forward = backward = 0
    for i in range(len(widths) - 1):
        work = n * widths[i] * widths[i + 1]
        forward += work
        backward += work + (work if i else 0)
    return forward, backward


def crossover(dim):
    return isqrt(2 * dim) + 1


def bias_work(heads, h, w, n):
    rows = product((h, 2 * h - 1), (2 * h - 1, 2 * w - 1))
    columns = product((h, 2 * w - 1), (2 * w - 1, w))
    return heads * n * rows, heads * n * columns, heads * n * h * w * 4


def stored_bytes(batch, heads, groups, h, w, n):
    pairs = batch * h * w * n
    return pairs * heads * 4, pairs * groups * 2 * 4, batch * groups * (h + w) * n * 4


def cheapest_fit(h, w, dim, kernel, budget):
    strides = [r for r in range(1, h + w) if sum(omega(h, w, dim, r, kernel)) <= budget]
    return min(strides, default=0)


def most_points(h, w, dim, window, kernel, network=True, keys=True):
    """Exercise 11.8 by trying: one point more until it costs too much."""
    n, limit = h * w, product((h * w, dim), (dim, 4 * dim)) + 2 * h * w * window**2 * dim
    points = 0
    while True:
        more = points + 1
        work = 2 * n * more * dim + 2 * n * dim**2 + 2 * (more if keys else n) * dim**2
        if work + (network and (kernel**2 + 2) * more * dim) > limit:
            return points
        points = more


def forget(n, dim, heads, again=1, backward=2):
    forward = 4 * product((n, dim), (dim, dim)) + 2 * product((n, dim), (dim, n))
    kept = forward * (1 + backward)
    return kept, kept + again * product((n, dim), (dim, n)), np.zeros((heads, n, n), np.float32).nbytes


def alone(h, w, dim, kernel, budget):
    return min([r for r in range(1, h + w) if omega(h, w, dim, r, kernel)[0] <= budget], default=0)


ANSWERS = {
    "11.1": {
        "right": [omega_mhsa],
        "wrong": [
            (lambda *i: (omega_mhsa(*i)[0] * 3 // 4, omega_mhsa(*i)[1]), "four of them"),
            (lambda *i: (omega_mhsa(*i)[0], omega_mhsa(*i)[1] // 2), "two products"),
            (lambda h, w, c: (4 * h * w * c * c, 2 * h * w * c), "every key"),
            (lambda *i: omega_mhsa(*i)[::-1], "in another order"),
            (lambda *i: sum(omega_mhsa(*i)), "2 are asked for"),
        ],
    },
    "11.2": {
        "right": [omega],
        "wrong": [
            (lambda *i: omega(*i, rounded=int), "rounded up"),
            (
                lambda h, w, c, r, k: (
                    4 * h * w * c * c + 2 * h * w * ceil(h / r) * ceil(w / r) * c,
                    omega(h, w, c, r, k)[1],
                ),
                "not at every pixel",
            ),
            (lambda h, w, c, r, k: (omega(h, w, c, r, k)[0], ceil(h / r) * ceil(w / r) * c * k * k), "depthwise"),
            (lambda h, w, c, r, k: (omega(h, w, c, r, k)[0], h * w * c * (k * k + 2)), "works at the points"),
        ],
    },
    "11.3": {
        "right": [training_step],
        "wrong": [
            (lambda n, c: (training_step(n, c)[0], 2 * training_step(n, c)[0]), "wants no gradient"),
            (lambda n, c: (training_step(n, c)[0], training_step(n, c)[0]), "two products for each layer"),
            (lambda n, c: (n * sum(c), 2 * n * sum(c)), "product of its two widths"),
            (lambda n, c: (training_step(n, c)[0], sum(training_step(n, c))), "together"),
        ],
    },
    "11.4": {
        "right": [crossover],
        "wrong": [
            (lambda c: isqrt(2 * c), "must cost more"),
            (lambda c: 2 * c + 1, "the side squared"),
            (lambda c: isqrt(c) + 1, "two products and four projections"),
            (lambda c: isqrt(4 * c) + 1, "is n > 2C"),
        ],
    },
    "11.5": {
        "right": [bias_work],
        "wrong": [
            (lambda m, h, w, n: bias_work(m, w, h, n), "changed places"),
            (lambda m, h, w, n: bias_work(1, h, w, n), "each head"),
            (lambda m, h, w, n: bias_work(m, h, w, 1), "each point"),
        ],
    },
    "11.6": {
        "right": [stored_bytes],
        "wrong": [
            (lambda *i: tuple(n // 4 for n in stored_bytes(*i)), "4 for each number"),
            (lambda *i: (stored_bytes(*i)[0], stored_bytes(*i)[1] // 2, stored_bytes(*i)[2]), "a row and a column"),
            (lambda b, m, g, h, w, n: stored_bytes(b, m, m, h, w, n), "not for each head"),
        ],
    },
    "11.7": {
        "right": [cheapest_fit],
        "wrong": [
            (alone, "the offset network is part of Ω"),
            (lambda h, w, c, k, budget: cheapest_fit(h, w, c, k, budget - 1), "as large as the budget"),
            (lambda *i: cheapest_fit(*i) or max(i[0], i[1]), "0 where no stride fits"),
        ],
    },
    "11.8": {
        "right": [most_points],
        "wrong": [
            (lambda *i: most_points(*i, network=False), "the offset network"),
            (lambda *i: most_points(*i, keys=False), "the projections differ"),
            (lambda *i: most_points(*i) + 1, "still fits"),
            (lambda h, w, c, window, k: window**2, "own number of keys"),
        ],
    },
    "11.9": {
        "right": [forget],
        "wrong": [
            (lambda *i: forget(*i, backward=0), "a step three times"),
            (lambda *i: forget(*i, again=2), "only q kᵀ"),
            (lambda n, c, m: (forget(n, c, m)[0], forget(n, c, m)[0] * 4 // 3, forget(n, c, m)[2]), "still there"),
            (lambda n, c, m: (*forget(n, c, m)[:2], forget(n, c, 1)[2]), "each head"),
            (lambda *i: (*forget(*i)[:2], forget(*i)[2] // 4), "4 for each number"),
        ],
    },
}
