"""Answers to chapter 00: `right` ones, written otherwise than the solution; `wrong` ones, with what must be said of them."""

import numpy as np


def softmax(scores):
    rows = []
    for row in scores:
        e = [np.exp(value - max(row)) for value in row]
        rows.append([value / sum(e) for value in e])
    return rows


def naive(scores):
    e = np.exp(scores)
    return e / e.sum(1, keepdims=True)


def of_columns(scores):
    return np.array(softmax(scores.T)).T


def centre(weights):
    h, w = weights.shape
    total = weights.sum()
    return [sum(i * weights[i].sum() for i in range(h)) / total, sum(j * weights[:, j].sum() for j in range(w)) / total]


def nearest(points, places):
    return [min(np.hypot(*(p - at)) for p in ps) for ps, at in zip(points, places)]


def measured(f, x, step, sides=2):
    return np.array([(f(x + step * e) - f(x - step * e * (sides - 1))) / (sides * step) for e in np.eye(len(x))])


def for_good(f, x, step):
    x, dx = x.copy(), np.zeros(len(x))
    for i in range(len(x)):
        before = f(x)
        x[i] += step
        dx[i] = (f(x) - before) / step
    return dx


def in_place(f, x, step):
    dx = measured(f, x, step)
    x[0] += step
    return dx


ANSWERS = {
    "0.1": {
        "right": [softmax],
        "wrong": [
            (naive, "is nan"),
            (of_columns, "not columns"),
            (lambda s: np.exp(s - s.max(-1, keepdims=True)), "elements differ"),
            (lambda s: of_columns(s.T), "transposed?"),
        ],
    },
    "0.2": {
        "right": [centre],
        "wrong": [
            (lambda w: centre(w)[::-1], "(row and col swapped?)"),
            (lambda w: np.array(centre(w)) * w.sum(), "divide by the sum"),
            (lambda w: np.array(centre(np.ones_like(w))), "the weights are not used"),
            (lambda w: np.array(centre(w)) + 1, "a term?"),
        ],
    },
    "0.3": {
        "right": [nearest],
        "wrong": [
            (lambda p, at: np.square(nearest(p, at)), "take the root"),
            (lambda p, at: np.linalg.norm(p - at[:, None], axis=-1).mean(1), "take the smallest"),
            (lambda p, at: np.linalg.norm(p - at[:, None], axis=-1).max(1), "farthest"),
            (lambda p, at: np.linalg.norm(p - at[:, None], axis=-1), "has shape (5, 7)"),
            (lambda p, at: p - at, "raises ValueError"),
        ],
    },
    "0.4": {
        "right": [lambda w, h, s: s * h * (1 - np.tanh(w * h)) * (1 + np.tanh(w * h))],
        "wrong": [
            (lambda w, h, s: s * (1 - np.tanh(w * h) ** 2), "inner derivative"),
            (lambda w, h, s: s * w * (1 - np.tanh(w * h) ** 2), "differentiate by w"),
            (lambda w, h, s: h * (1 - np.tanh(w * h) ** 2), "as a factor"),
            (lambda w, h, s: -s * h * (1 - np.tanh(w * h) ** 2), "(sign?)"),
        ],
    },
    "0.5": {
        "right": [lambda X, w, t: [sum((X[i] @ w - t[i]) * X[i, j] for i in range(len(t))) for j in range(len(w))]],
        "wrong": [
            (lambda X, w, t: 2 * X.T @ (X @ w - t), "takes away the 2"),
            (lambda X, w, t: X.T @ X @ w, "the target is missing"),
            (lambda X, w, t: X.T @ (t - X @ w), "(sign?)"),
            (lambda X, w, t: X @ (X @ w - t), "raises ValueError"),
        ],
    },
    "0.6": {
        "right": [measured],
        "wrong": [
            (lambda f, x, step: measured(f, x, step, sides=1), "both sides"),
            (lambda f, x, step: 2 * measured(f, x, step), "divide by that"),
            (lambda f, x, step: 2 * step * measured(f, x, step), "not divided"),
            (lambda f, x, step: -measured(f, x, step), "(sign?)"),
            (lambda f, x, step: measured(f, x, 1e-3), "use the step that is given"),
            (for_good, "dx["),
            (in_place, "it writes to its argument 1"),
            (lambda f, x, step: measured(f, x, step)[:3], "has shape (3,)"),
        ],
    },
}
