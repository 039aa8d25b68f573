"""Answers to chapter 04: `right` ones, written otherwise than the solution; `wrong` ones, with what must be said of them."""

import math

import numpy as np

from minidat import ops


def norm(x):
    return ops.layer_norm.raw(x, np.ones(x.shape[-1]), np.zeros(x.shape[-1]))


def with_vjp(value, vjp):
    """An op from its value and from vjp(dy, *inputs)."""
    return lambda *inputs: (value(*inputs), lambda dy: vjp(dy, *inputs))


def add(x, f):
    return x + f(x)[0]


def block(z, mhsa, mlp, *, first=1.0, second=1.0, stale=False, normed=True):
    """The vjps in a list, called backward."""
    steps = []
    value = z
    for f in (mhsa, mlp):
        a, vjp_norm = norm(value)
        y, vjp_f = f(a)
        steps.append((vjp_norm, vjp_f))
        value = value + y

    def vjp(dout):
        d = dout
        for (vjp_norm, vjp_f), kept in zip(reversed(steps), (second, first)):
            through = vjp_f(dout if stale else d)
            d = kept * d + (vjp_norm(through)[0] if normed else through)
        return d

    return value, vjp


def block_with(**changes):
    return lambda *inputs: block(*inputs, **changes)


def post(x, f):
    """With layer norm's Jacobian for each token."""
    total = x + f(x)[0]
    s = np.sqrt(total.var(-1, keepdims=True) + 1e-5)
    hat = (total - total.mean(-1, keepdims=True)) / s
    c = x.shape[-1]

    def vjp(dy):
        J = (np.eye(c) - 1 / c - hat[:, :, None] * hat[:, None, :] / c) / s[..., None]
        d = np.einsum("nab,nb->na", J, dy)
        return d + f(x)[1](d)

    return hat, vjp


def ways(count, h, most):
    """Row by row of Pascal's triangle."""
    counts = np.ones(1)
    for _ in range(count):
        counts = np.append(counts, 0) + np.append(0, counts)
    weights = counts * h ** np.arange(count + 1)
    return counts, weights[: most + 1].sum() / (1 + h) ** count


def share(change):
    def mistaken(count, h, most):
        counts, _ = ways(count, h, most)
        return counts, change(counts, h ** np.arange(count + 1), most)

    return mistaken


def cost(c, n, e):
    linear = [(c, 3 * c), (c, c), (c, e * c), (e * c, c)]
    return sum(a * b + b for a, b in linear) + 4 * c, n * sum(a * b for a, b in linear) + 2 * n * n * c


def changed(change):
    return lambda c, n, e: change(*cost(c, n, e), c, n, e)


def drop(x, f, keep, rate):
    """Image by image."""
    kept = [k / (1 - rate) for k in keep]
    y, vjp = f(x)
    value = np.stack([x[b] + k * y[b] for b, k in enumerate(kept)])

    def back(dy):
        through = vjp(dy)  # the branch keeps the images apart, so the factor may come after it
        return np.stack([dy[b] + k * through[b] for b, k in enumerate(kept)])

    return value, back


def drop_value(x, f, keep, rate):
    return drop(x, f, keep, rate)[0]


ANSWERS = {
    "4.1": {
        "right": [lambda x, f: (f(x)[0] + x, lambda dy: (f(x)[1](dy) + dy,))],
        "wrong": [
            (with_vjp(add, lambda dy, x, f: f(x)[1](dy)), "the plus sign's own term"),
            (with_vjp(add, lambda dy, x, f: dy), "the way through the branch is missing"),
            (with_vjp(add, lambda dy, x, f: dy - f(x)[1](dy)), "dx["),
            (with_vjp(add, lambda dy, x, f: -dy - f(x)[1](dy)), "(sign?)"),
            (with_vjp(add, lambda dy, x, f: 1 + f(x)[1](np.ones(dy.shape))), "cotangent of ones"),
            (lambda x, f: f(x), "y["),
            (lambda x, f: x + f(x)[0], "does not return a pair"),
            (lambda x, f: x + f(x), "raises"),
        ],
    },
    "4.2": {
        "right": [block],
        "wrong": [
            (block_with(stale=True), "all that has arrived at z'"),
            (block_with(first=0.0), "equation (4)'s plus sign"),
            (block_with(second=0.0), "equation (5)'s plus sign"),
            (block_with(normed=False), "the norms are forgotten"),
            (lambda z, f, g: (block(z, f, g)[0], lambda dy: -block(z, f, g)[1](dy)), "(sign?)"),
            (lambda z, f, g: block(z, g, f), "y["),
        ],
    },
    "4.3": {
        "right": [
            lambda x, f: (norm(add(x, f))[0], lambda dy: (lambda d: d + f(x)[1](d))(norm(add(x, f))[1](dy)[0])),
        ],
        "wrong": [
            (
                lambda x, f: (post(x, f)[0], lambda dy: dy + f(x)[1](norm(add(x, f))[1](dy)[0])),
                "term passes it too",
            ),
            (
                lambda x, f: (post(x, f)[0], lambda dy: norm(add(x, f))[1](dy)[0] + f(x)[1](dy)),
                "what has come through the norm",
            ),
            (lambda x, f: (post(x, f)[0], lambda dy: dy + f(x)[1](dy)), "dx["),
            (lambda x, f: (post(x, f)[0], lambda dy: -post(x, f)[1](dy)), "(sign?)"),
            (lambda x, f: (x + f(norm(x)[0])[0], lambda dy: dy), "y["),
        ],
    },
    "4.4": {
        "right": [lambda n, a: ((1 + n * a) ** 0.5, math.exp(n * math.log1p(a) / 2))],
        "wrong": [
            (lambda n, a: (1 + n * a, (1 + a) ** n), "that is the variance"),
            (lambda n, a: (math.sqrt(n * a), math.sqrt((1 + a) ** n)), "variance 1 before the first branch"),
            (lambda n, a: (math.sqrt((1 + a) ** n), math.sqrt(1 + n * a)), "pre-norm: yours"),
            (lambda n, a: math.sqrt(1 + n * a), "2 are asked for"),
        ],
    },
    "4.5": {
        "right": [ways],
        "wrong": [
            (share(lambda n, h, k: (n * h)[:k].sum() / (n * h).sum()), "at most K"),
            (share(lambda n, h, k: n[: k + 1].sum() / n.sum()), "k times"),
            (share(lambda n, h, k: (n * h)[: k + 1].sum()), "divide it by"),
            (lambda count, h, most: (ways(count, h, most)[0][1:], 0.0), "is asked for"),
            (lambda count, h, most: (2 * ways(count, h, most)[0], 0.0), "× 2: a factor?"),
        ],
    },
    "4.6": {
        "right": [cost],
        "wrong": [
            (changed(lambda p, m, c, n, e: (p - 4 * c, m)), "the layer norms are missing"),
            (changed(lambda p, m, c, n, e: (p - 2 * c, m)), "two layer norms"),
            (changed(lambda p, m, c, n, e: (p - (5 + e) * c, m)), "the biases are missing"),
            (changed(lambda p, m, c, n, e: (p, m - n * n * c)), "N² C multiplications each"),
            (changed(lambda p, m, c, n, e: (p, m - 2 * n * n * c)), "P v are missing"),
            (changed(lambda p, m, c, n, e: (p, (4 + 2 * e) * c * c + 2 * n * n * c)), "N times the matrices"),
        ],
    },
    "4.7": {
        "right": [drop],
        "wrong": [
            (with_vjp(drop_value, lambda dy, x, f, keep, r: dy + f(x)[1](dy)), "masked and divided too"),
            (
                with_vjp(drop_value, lambda dy, x, f, keep, r: dy + f(x)[1](keep[:, None, None] * dy)),
                "is divided by 1 − r",
            ),
            (
                with_vjp(drop_value, lambda dy, *a: a[2][:, None, None] / (1 - a[3]) * (dy + a[1](a[0])[1](dy))),
                "the road never",
            ),
            (with_vjp(drop_value, lambda dy, *a: -drop(*a)[1](dy)), "(sign?)"),
            (with_vjp(drop_value, lambda dy, *a: drop(*a)[1](np.ones(dy.shape))), "cotangent of ones"),
            (lambda x, f, keep, r: (x + keep[:, None, None] * f(x)[0], None), "does not return a pair"),
            (lambda x, f, keep, r: drop(x, f, keep, 0.0), "y["),
        ],
    },
}
