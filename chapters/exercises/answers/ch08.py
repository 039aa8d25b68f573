"""Answers to chapter 08: `right` ones, written otherwise than the solution; `wrong` ones, with what must be said of them."""

import numpy as np

from minidat import ops


def reference(h, w):
    return np.array([[2 * i / (h - 1) - 1, 2 * j / (w - 1) - 1] for i in range(h) for j in range(w)])


def centres(h, w):
    return np.array([[(2 * i + 1) / h - 1, (2 * j + 1) / w - 1] for i in range(h) for j in range(w)])


def parameters(k, e):
    return sum(np.zeros(shape).size for shape in ((k, k, e), (e,), (e,), (e,), (e, 2)))


def to_points_vjp(d, offsets, reference, amplitude, size):
    out = np.zeros_like(d)
    for n in range(len(d)):
        for o in (0, 1):
            out[n, o] = d[n, o] * (size[o] - 1) / 2 * amplitude[o] / np.cosh(offsets[n, o]) ** 2
    return out


def depthwise_vjp(du, x, w, b, r, pad):
    dx, dw = np.zeros_like(x), np.zeros_like(w)
    for i, j, c in np.ndindex(*du.shape):
        for m, n in np.ndindex(*w.shape[:2]):
            row, col = r * i + m - pad, r * j + n - pad
            if 0 <= row < x.shape[0] and 0 <= col < x.shape[1]:
                dx[row, col, c] += w[m, n, c] * du[i, j, c]
                dw[m, n, c] += x[row, col, c] * du[i, j, c]
    return dx, dw, du.sum((0, 1))


def depthwise_with(change):
    return lambda *a: change(*depthwise_vjp(*a))


def clipped(du, x, w, b, r, pad):
    """The padding forgotten in dw: border pixels repeated instead of zeros."""
    dx, _, db = depthwise_vjp(du, x, w, b, r, pad)
    edge = np.pad(x, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    return dx, depthwise_vjp(du, edge, w, b, r, 0)[1], db


def cut_by_minus(du, x, w, b, r, pad):
    """[pad:-pad], which is empty where there is no padding."""
    padded = np.pad(x, ((pad, pad), (pad, pad), (0, 0)))
    dpadded, dw, db = depthwise_vjp(du, padded, w, b, r, 0)
    return dpadded[pad:-pad, pad:-pad], dw, db


def limited(d, o, p, size, limit, cut=1.0):
    out = np.zeros_like(d)
    for n, i in np.ndindex(*d.shape):
        free = p[n, i] + o[n, i]
        slope = {"squash": 1 / np.cosh(free) ** 2, "clamp": float(-cut <= free <= cut), "none": 1.0}[limit]
        out[n, i] = slope * d[n, i] * (size[i] - 1) / 2
    return out


def both_or_none(d, o, p, size, limit):
    if limit != "clamp":
        return limited(d, o, p, size, limit)
    return limited(d, o, p, size, "none") * (np.abs(p + o).max(-1, keepdims=True) <= 1)


def theta_vjp(doffsets, q, w, b, gamma, beta, w2, r, pad):
    _, vjp = ops.offset_network.raw(q[None], w, b, gamma, beta, w2, stride=r, padding=pad)
    grads = vjp(doffsets.reshape(1, 1, -1, 2))
    return (grads[0][0], *grads[1:])


def theta_with(change):
    return lambda *a: change(*theta_vjp(*a))


def chained(*, gelu=True, norm=True):
    def vjp(doffsets, q, w, b, gamma, beta, w2, r, pad):
        u, conv_vjp = ops.depthwise_conv.raw(q[None], w, b, stride=r, padding=pad)
        v, norm_vjp = ops.layer_norm.raw(u, gamma, beta)
        a, gelu_vjp = ops.gelu.raw(v)
        d = (doffsets @ w2.T)[None]
        d = gelu_vjp(d)[0] if gelu else d
        du, dgamma, dbeta = norm_vjp(d)
        dq, dw, db = conv_vjp(du if norm else d)
        e = len(w2)
        return dq[0], dw, db, dgamma, dbeta, a.reshape(-1, e).T @ doffsets.reshape(-1, 2)

    return vjp


def farthest(s, h, h_g, convention):
    cells = {"paper": h_g - 1, "v1": h_g, "v2": h_g - 1}[convention]
    return s / 2 * (h - 1) / cells


def off_centre(h, k, r, pad):
    h_g = (h + 2 * pad - k) // r + 1
    return [i * (h - 1) / (h_g - 1) - np.mean([r * i - pad, r * i - pad + k - 1]) for i in range(h_g)]


def step(look, x, theta, rate, scale=-1.0):
    read, _, pull = look(x, theta)
    return tuple(t - rate * d for t, d in zip(theta, pull(np.full(read.shape, scale / read.size))))


def step_in_place(look, x, theta, rate):
    for t, d in zip(theta, step(look, x, theta, rate)):
        t[...] = d
    return theta


def sum_step(look, x, theta, rate):
    return step(look, x, theta, rate, scale=-look(x, theta)[0].size)


ANSWERS = {
    "8.1": {
        "right": [reference],
        "wrong": [
            (lambda h, w: reference(h, w)[:, ::-1], "each point is (row, col)"),
            (lambda h, w: reference(w, h)[:, ::-1], "the column changes fastest"),
            (centres, "centres of cells"),
            (lambda h, w: -reference(h, w), "(sign?)"),
            (lambda h, w: reference(h, w).T, "transposed?"),
        ],
    },
    "8.2": {
        "right": [parameters],
        "wrong": [
            (lambda k, e: k * k * e * e + 5 * e, "depthwise"),
            (lambda k, e: parameters(k, e) + 2, "no bias"),
            (lambda k, e: parameters(k, e) - e, "has a bias"),
            (lambda k, e: parameters(k, e) - 2 * e, "γ and β"),
        ],
    },
    "8.3": {
        "right": [to_points_vjp],
        "wrong": [
            (lambda d, o, p, a, s: -to_points_vjp(d, o, p, a, s), "(sign?)"),
            (lambda d, o, p, a, s: d * a * (1 - np.tanh(o) ** 2), "step 1 is missing"),
            (lambda d, o, p, a, s: d * (s - 1) / 2 * a, "slope of tanh is missing"),
            (lambda d, o, p, a, s: d * (s - 1) / 2 * (1 - np.tanh(o) ** 2), "amplitude is missing"),
            (lambda d, o, p, a, s: d * (s - 1) / 2 * a * (1 - o * o), "takes the raw offset"),
            (lambda d, o, p, a, s: to_points_vjp(d, o, p, a, s[::-1]), "rows go with H"),
            (lambda d, o, p, a, s: to_points_vjp(np.ones_like(d), o, p, a, s), "cotangent of ones"),
            (lambda d, o, p, a, s: to_points_vjp(d, o, p, a, s)[:, ::-1], "swapped?"),
        ],
    },
    "8.4": {
        "right": [depthwise_vjp],
        "wrong": [
            (depthwise_with(lambda dx, dw, db: (-dx, dw, db)), "(sign?)"),
            (depthwise_with(lambda dx, dw, db: (dx.swapaxes(0, 1), dw, db)), "dx has shape (9, 6, 2)"),
            (depthwise_with(lambda dx, dw, db: (dx, dw.swapaxes(0, 1), db)), "dw["),
            (depthwise_with(lambda dx, dw, db: (dx, dw, 0 * db)), "a term missing?"),
            (lambda du, x, w, b, r, pad: depthwise_vjp(du, x, w[::-1, ::-1], b, r, pad), "kernel is flipped"),
            (lambda du, *a: depthwise_vjp(np.ones_like(du), *a), "cotangent of ones"),
            (clipped, "dw["),
            (cut_by_minus, "dx has shape (0, 0, 2)"),
        ],
    },
    "8.5": {
        "right": [theta_vjp, chained()],
        "wrong": [
            (chained(norm=False), "layer norm's vjp is left out"),
            (chained(gelu=False), "GELU's vjp is left out"),
            (theta_with(lambda dq, *rest: (-dq, *rest)), "(sign?)"),
            (theta_with(lambda *d: (*d[:5], d[5].T)), "transposed?"),
            (theta_with(lambda *d: (*d[:5], d[5][:, ::-1])), "swapped?"),
            (theta_with(lambda *d: d[:5]), "5 results, but 6 are asked for"),
            (lambda d, *a: theta_vjp(np.ones_like(d), *a), "cotangent of ones"),
        ],
    },
    "8.10": {
        "right": [limited],
        "wrong": [
            (lambda d, o, p, s, limit: limited(d, o, p, s, limit) / (s - 1) * 2, "step 1 is missing"),
            (lambda d, o, p, s, limit: limited(d, o, 0 * p, s, limit), "what is limited is p̂ + o"),
            (lambda d, o, p, s, limit: limited(d, o, p, s, limit, cut=np.inf), "that is cut gets no gradient"),
            (both_or_none, "cut by itself"),
            (lambda d, o, p, s, limit: limited(d, o, p, s[::-1], limit), "rows go with H"),
            (lambda d, o, p, s, limit: limited(np.ones_like(d), o, p, s, limit), "cotangent of ones"),
        ],
    },
    "8.6": {
        "right": [farthest],
        "wrong": [
            (lambda s, h, h_g, c: 2 * farthest(s, h, h_g, c), "since −1 to 1 are two"),
            (lambda s, h, h_g, c: 2 * farthest(s, h, h_g, c) / (h - 1), "normalised units"),
            (lambda s, h, h_g, c: farthest(s, h, h_g, "v1"), "pixels: yours"),
        ],
    },
    "8.7": {
        "right": [lambda n: 1 - (2 * (n - 0.5) / (n - 1) - 1)],
        "wrong": [
            (lambda n: 1 / (n - 1), "bring it back"),
            (lambda n: -1 / n, "v2 divides by n − 1"),
        ],
    },
    "8.8": {
        "right": [off_centre],
        "wrong": [
            (lambda *a: -np.array(off_centre(*a)), "not middle − reference"),
            (lambda *a: np.array(off_centre(*a)) - 0.5, "(k − 1)/2"),
            (lambda h, k, r, pad: off_centre(h, k, r, 0), "distance"),
            (lambda h, k, r, pad: np.array(off_centre(h, k, r, pad)) + (k - 1) / 2 - k // 2, "not k // 2"),
        ],
    },
    "8.9": {
        "right": [step],
        "wrong": [
            (lambda look, x, theta, rate: step(look, x, theta, -rate), "subtract the gradient"),
            (sum_step, "number of elements"),
            (lambda look, x, theta, rate: step(look, x, theta, rate)[::-1], "w has shape"),
            (step_in_place, "it writes to its argument 2"),
        ],
    },
}
