"""Answers to chapter 02: `right` ones, written otherwise than the solution; `wrong` ones, with what must be said of them."""

import math

import numpy as np

from minidat import ops


def sum_to(d, shape):
    padded = (1,) * (d.ndim - len(shape)) + tuple(shape)
    axes = tuple(i for i, n in enumerate(padded) if n == 1)
    return d.sum(axis=axes).reshape(shape)


def only_leading(d, shape):
    return d.sum(axis=tuple(range(d.ndim - len(shape))))


def mean_to(d, shape):
    return sum_to(d, shape) * math.prod(shape) / d.size


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def linear_vjp(dy, x, w, b):
    dx, dw, db = np.zeros(x.shape), np.zeros(w.shape), np.zeros(b.shape)
    for at in np.ndindex(*x.shape[:-1]):
        dx[at] = w @ dy[at]
        dw += np.outer(x[at], dy[at])
        db += dy[at]
    return dx, dw, db


def log_softmax_vjp(dl, x):
    """Row by row, with the Jacobian."""
    return np.stack([(np.eye(len(row)) - softmax(row)).T @ d for d, row in zip(dl, x)])


def cross_entropy_vjp(d, logits, targets):
    return log_softmax_vjp(-targets * d / len(logits), logits)


def layer_norm_vjp(dy, x, gamma, beta, eps):
    """The long way: through x̂, the variance, the mean."""
    c, mean = x.shape[-1], x.mean(-1, keepdims=True)
    var = ((x - mean) ** 2).mean(-1, keepdims=True)
    r = (var + eps) ** -0.5
    d = dy * gamma
    dvar = (d * (x - mean)).sum(-1, keepdims=True) * -0.5 * r**3
    dmean = -r * d.sum(-1, keepdims=True)
    return d * r + dvar * 2 * (x - mean) / c + dmean / c, ((x - mean) * r * dy).sum(0), dy.sum(0)


def norm_with(change):
    """change(d, x̂) → dx · s, for γ dy and x̂"""

    def vjp(dy, x, gamma, beta, eps):
        s = np.sqrt(x.var(-1, keepdims=True) + eps)
        x_hat = (x - x.mean(-1, keepdims=True)) / s
        return change(gamma * dy, x_hat) / s, (dy * x_hat).sum(0), dy.sum(0)

    return vjp


def mean(a):
    return a.mean(-1, keepdims=True)


def gelu_vjp(dy, x):
    return dy * ops.gelu.raw(x)[1](np.ones(x.shape))[0]


def density(x):
    return np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def mlp_vjp(dy, x, gamma, beta, w1, b1, w2, b2):
    """Without the package's vjps."""
    s = np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    h = (gamma * (x - mean(x)) / s + beta) @ w1 + b1
    g = ops.gelu.raw(h)[0]
    dh = gelu_vjp(dy @ w2.T, h)
    dx, dgamma, dbeta = layer_norm_vjp(dh @ w1.T, x, gamma, beta, 1e-5)
    return dy + dx, dgamma, dbeta, (gamma * (x - mean(x)) / s + beta).T @ dh, dh.sum(0), g.T @ dy, dy.sum(0)


def without_gelu(dy, x, gamma, beta, w1, b1, w2, b2):
    *_, dw2, db2 = mlp_vjp(dy, x, gamma, beta, w1, b1, w2, b2)
    a, norm = ops.layer_norm.raw(x, gamma, beta)
    da, dw1, db1 = ops.linear.raw(a, w1, b1)[1](dy @ w2.T)
    dx, dgamma, dbeta = norm(da)
    return dy + dx, dgamma, dbeta, dw1, db1, dw2, db2


def without_norm(dy, x, gamma, beta, w1, b1, w2, b2):
    _, *rest = mlp_vjp(dy, x, gamma, beta, w1, b1, w2, b2)
    h = ops.layer_norm.raw(x, gamma, beta)[0] @ w1 + b1
    return dy + gelu_vjp(dy @ w2.T, h) @ w1.T, *rest


def rms_norm_vjp(dy, x, gamma, eps):
    """Row by row, with the Jacobian."""
    dx, dgamma = np.zeros(x.shape), np.zeros(gamma.shape)
    for n, row in enumerate(x):
        s = math.sqrt(row @ row / len(row) + eps)
        J = np.eye(len(row)) / s - np.outer(row, row) / len(row) / s**3
        dx[n] = J @ (gamma * dy[n])
        dgamma += dy[n] * row / s
    return dx, dgamma


def rms_with(change):
    def vjp(dy, x, gamma, eps):
        s = np.sqrt(mean(x * x) + eps)
        return change(gamma * dy, x / s) / s, (dy * x / s).sum(0)

    return vjp


def stands_out(dy, x):
    """Column by column."""
    dx = np.zeros(x.shape)
    for c in range(x.shape[1]):
        dx[np.argmax(x[:, c]), c] = dy[c]
        dx[:, c] -= dy[c] / len(x)
    return dx


def index_vjp(dy, x, rho):
    return np.eye(len(x))[rho].T @ dy


def buffered(dy, x, rho):
    dx = np.zeros(x.shape)
    dx[rho] += dy
    return dx


def sort_vjp(dy, x):
    """By the rank of each number."""
    ranks = x.argsort(-1).argsort(-1)
    return np.take_along_axis(dy, ranks, -1)


def conv_vjp(dy, x, w):
    """Window by window, in loops."""
    dx, dw = np.zeros(x.shape), np.zeros(w.shape)
    for i, j in np.ndindex(*dy.shape[:2]):
        for p, q in np.ndindex(3, 3):
            at = 2 * i + p - 1, 2 * j + q - 1
            if 0 <= at[0] < x.shape[0] and 0 <= at[1] < x.shape[1]:
                dx[at] += w[p, q] @ dy[i, j]
                dw[p, q] += np.outer(x[at], dy[i, j])
    return dx, dw


def conv_overwritten(dy, x, w):
    """As `conv_vjp` tap by tap, but each tap overwrites what the taps before it have brought."""
    dx = np.zeros((x.shape[0] + 2, x.shape[1] + 2, x.shape[2]))
    for p, q in np.ndindex(3, 3):
        dx[p : p + 2 * len(dy) : 2, q : q + 2 * dy.shape[1] : 2] = dy @ w[p, q].T
    return dx[1:-1, 1:-1], conv_vjp(dy, x, w)[1]


def changed(vjp, change):
    return lambda *inputs: change(*vjp(*inputs))


def ones(vjp):
    return lambda dy, *inputs: vjp(np.ones(np.shape(dy)), *inputs)


ANSWERS = {
    "2.1": {
        "right": [sum_to],
        "wrong": [
            (mean_to, "not the mean"),
            (only_leading, "(3, 4) to (1, 4): d has shape (3, 4), but (1, 4) is asked for"),
            (lambda d, shape: d, "(3, 4) to (4,): d has shape (3, 4), but (4,) is asked for"),
            (lambda d, shape: -sum_to(d, shape), "(sign?)"),
            (lambda d, shape: sum_to(d, shape).reshape(-1), "is asked for"),
            (lambda d, shape: d[0] if d.ndim > len(shape) else d[:1], "do not take the first"),
        ],
    },
    "2.2": {
        "right": [linear_vjp],
        "wrong": [
            (changed(linear_vjp, lambda dx, dw, db: (dx, dw.T, db)), "dW has shape (5, 3), but (3, 5)"),
            (changed(linear_vjp, lambda dx, dw, db: (dx, dw / 8, db / 8)), "not the mean"),
            (lambda dy, x, w, b: (dy @ w.T, x[0].T @ dy[0], dy[0].sum(0)), "those of the first"),
            (lambda dy, x, w, b: (dy @ w.T, x.swapaxes(-1, -2) @ dy, dy.sum(0)), "dW has shape (2, 3, 5)"),
            (lambda dy, x, w, b: (dy @ w, x.T @ dy, dy.sum()), "raises ValueError"),
            (changed(linear_vjp, lambda dx, dw, db: (-dx, dw, db)), "(sign?)"),
            (ones(linear_vjp), "cotangent of ones"),
        ],
    },
    "2.3": {
        "right": [log_softmax_vjp],
        "wrong": [
            (lambda dl, x: dl, "the second term is missing"),
            (lambda dl, x: softmax(x) * (dl - (dl * softmax(x)).sum(-1, keepdims=True)), "the vjp of softmax"),
            (lambda dl, x: dl - softmax(x) * dl.sum(), "keepdims"),
            (lambda dl, x: dl - softmax(x) * (dl * softmax(x)).sum(-1, keepdims=True), "y stands outside"),
            (lambda dl, x: -log_softmax_vjp(dl, x), "(sign?)"),
            (lambda dl, x: log_softmax_vjp(dl, x).T, "transposed?"),
            (ones(log_softmax_vjp), "cotangent of ones"),
        ],
    },
    "2.4": {
        "right": [cross_entropy_vjp],
        "wrong": [
            (lambda d, x, t: d * (softmax(x) - t), "1/B is missing"),
            (lambda d, x, t: d * (softmax(x) - t) / x.size, "not of images times classes"),
            (lambda d, x, t: -cross_entropy_vjp(d, x, t), "points uphill"),
            (lambda d, x, t: -d * t / len(x), "go back through it as well"),
            (lambda d, x, t: d * (x - t) / len(x), "through a softmax first"),
            (lambda d, x, t: cross_entropy_vjp(1.0, x, t), "cotangent of ones"),
            (lambda d, x, t: cross_entropy_vjp(d, x, t).T, "transposed?"),
        ],
    },
    "2.5": {
        "right": [layer_norm_vjp],
        "wrong": [
            (
                lambda dy, x, g, b, e: (layer_norm_vjp(dy, x, 1, b, e)[0], *layer_norm_vjp(dy, x, g, b, e)[1:]),
                "γ is missing",
            ),
            (norm_with(lambda d, x: d - x * mean(d * x)), "the mean of d is missing"),
            (norm_with(lambda d, x: d - mean(d)), "the term along x̂ is missing"),
            (norm_with(lambda d, x: d), "both means are missing"),
            (lambda dy, x, g, b, e: layer_norm_vjp(dy, x, g, b, 0.0), "ε is missing"),
            (norm_with(lambda d, x: -(d - mean(d) - x * mean(d * x))), "(sign?)"),
            (changed(layer_norm_vjp, lambda dx, dg, db: (dx, db, dg)), "dgamma["),
            (ones(layer_norm_vjp), "cotangent of ones"),
        ],
    },
    "2.6": {
        "right": [gelu_vjp],
        "wrong": [
            (lambda dy, x: gelu_vjp(dy, x) - dy * x * density(x), "a second term"),
            (lambda dy, x: gelu_vjp(dy, x) + dy * (1 - x) * density(x), "φ is multiplied by x"),
            (
                lambda dy, x: gelu_vjp(dy, x) + dy * x * density(x) * (math.sqrt(2 * math.pi) - 1),
                "the factor 1/√(2π)",
            ),
            (lambda dy, x: -gelu_vjp(dy, x), "(sign?)"),
            (ones(gelu_vjp), "cotangent of ones"),
        ],
    },
    "2.7": {
        "right": [mlp_vjp],
        "wrong": [
            (without_gelu, "the GELU is left out"),
            (without_norm, "the layer norm is left out"),
            (lambda dy, *a: (mlp_vjp(dy, *a)[0] - dy, *mlp_vjp(dy, *a)[1:]), "the one beside the branch is missing"),
            (changed(mlp_vjp, lambda *d: (*d[:3], d[3].T, *d[4:])), "transposed?"),
            (changed(mlp_vjp, lambda *d: (*d[:5], d[5], -d[6])), "(sign?)"),
            (changed(mlp_vjp, lambda *d: d[:1]), "1 results, but 7 are asked for"),
            (ones(mlp_vjp), "cotangent of ones"),
        ],
    },
    "2.8": {
        "right": [rms_norm_vjp],
        "wrong": [
            (rms_with(lambda d, x: d - mean(d) - x * mean(d * x)), "no mean of d"),
            (rms_with(lambda d, x: d), "the term along x̂ is missing"),
            (rms_with(lambda d, x: d + x * mean(d * x)), "dx["),
            (changed(rms_norm_vjp, lambda dx, dg: (-dx, dg)), "(sign?)"),
            (ones(rms_norm_vjp), "cotangent of ones"),
        ],
    },
    "2.9": {
        "right": [stands_out],
        "wrong": [
            (lambda dy, x: (x == x.max(0)) * dy, "the mean's use is missing"),
            (lambda dy, x: (x == x.max(0)) * dy - dy, "1/N"),
            (lambda dy, x: (x == x.max(0)) * dy + dy / 5, "the mean is subtracted"),
            (lambda dy, x: np.ones(x.shape) * 0.8 * dy, "only one element"),
            (lambda dy, x: -stands_out(dy, x), "(sign?)"),
            (ones(stands_out), "cotangent of ones"),
        ],
    },
    "2.10": {
        "right": [index_vjp],
        "wrong": [
            (buffered, "only the last one stays"),
            (lambda dy, x, rho: index_vjp(dy, x, rho) / [[1], [1], [2], [1], [3]], "not the mean"),
            (lambda dy, x, rho: dy, "dx has shape (7, 3), but (5, 3) is asked for"),
            (lambda dy, x, rho: -index_vjp(dy, x, rho), "(sign?)"),
            (ones(index_vjp), "cotangent of ones"),
        ],
    },
    "2.11": {
        "right": [sort_vjp],
        "wrong": [
            (lambda dy, x: dy, "it must go back"),
            (lambda dy, x: np.take_along_axis(dy, x.argsort(-1), -1), "in the wrong direction"),
            (lambda dy, x: -sort_vjp(dy, x), "(sign?)"),
            (lambda dy, x: sort_vjp(dy, -x), "elements differ"),
        ],
    },
    "2.12": {
        "right": [conv_vjp],
        "wrong": [
            (conv_overwritten, "must be added"),
            (lambda dy, x, w: (conv_vjp(dy, x, w[::-1, ::-1])[0], conv_vjp(dy, x, w)[1]), "not turned round"),
            (lambda dy, x, w: conv_vjp(dy, x, w)[:1], "2 are asked for"),
            (changed(conv_vjp, lambda dx, dw: (dx, dw.swapaxes(0, 1))), "dW["),
            (changed(conv_vjp, lambda dx, dw: (-dx, dw)), "(sign?)"),
            (ones(conv_vjp), "cotangent of ones"),
        ],
    },
}
