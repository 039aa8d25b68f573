"""Answers to chapter 09: `right` ones, written otherwise than the solution; `wrong` ones, with what must be said of them."""

import numpy as np

from minidat import composed, ops
from minidat.attention.grids import grid
from minidat.autograd import Tensor


def softmax(s):
    e = np.exp(s - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attend(q, sampled, w_k, w_v, bias, divide=True, with_bias=True, early=False, wide=False):
    heads, c = len(bias), q.shape[1]
    d = c // heads
    z = np.zeros_like(q)
    for m in range(heads):
        mine = slice(m * d, (m + 1) * d)
        scores = q[:, mine] @ (sampled @ w_k[:, mine]).T
        scores = scores + bias[m] * early
        scores = scores / (c if wide else d) ** 0.5 if divide else scores
        scores = scores + bias[m] * (with_bias and not early)
        z[:, mine] = softmax(scores) @ (sampled @ w_v[:, mine])
    return z


def keys_and_values_vjp(dkv, sampled, w_k, w_v):
    both = np.concatenate([w_k, w_v], 1)
    dw = np.einsum("nc,ne->ce", sampled, dkv)
    return np.einsum("ne,ce->nc", dkv, both), dw[:, : len(w_k)], dw[:, len(w_k) :]


def kv_with(change):
    return lambda *a: change(*keys_and_values_vjp(*a))


def kv_with_weights_as_they_are(dkv, sampled, w_k, w_v):
    _, dw_k, dw_v = keys_and_values_vjp(dkv, sampled, w_k, w_v)
    return dkv[:, : len(w_k)] @ w_k + dkv[:, len(w_k) :] @ w_v, dw_k, dw_v


def kv_half(which):
    def vjp(dkv, sampled, w_k, w_v):
        _, dw_k, dw_v = keys_and_values_vjp(dkv, sampled, w_k, w_v)
        c = len(w_k)
        return (dkv[:, :c] @ w_k.T, dkv[:, c:] @ w_v.T)[which], dw_k, dw_v

    return vjp


def setting(x):
    _, h, w, c = x.shape
    axes = np.meshgrid(grid(h, "corner"), grid(w, "corner"), indexing="ij")
    reference = np.stack(axes, -1).reshape(-1, 2)
    options = {"stride": 1, "limit": "tanh", "amplitude": (2 / (h - 1), 2 / (w - 1))}
    return reference, np.arange(h) + 0.0, np.arange(w) + 0.0, np.zeros(c), options


def by_engine(dy, x, w_q, w, b, gamma, beta, w2, w_k, w_v, table, w_o):
    """The gradients from primitives, by the engine."""
    reference, rows, cols, zero, options = setting(x)
    t = [Tensor(a, requires_grad=True) for a in (x, w_q, w, b, gamma, beta, w2, w_k, w_v, table, w_o)]
    none = Tensor(zero)
    arrays = [
        t[0],
        t[1],
        none,
        *t[2:7],
        Tensor(reference),
        t[7],
        none,
        t[8],
        none,
        t[9],
        Tensor(rows),
        Tensor(cols),
        t[10],
        none,
    ]
    composed.deformable_attention(*arrays, **options).backward(dy)
    return [one.grad for one in t]


def by_op(dy, x, w_q, w, b, gamma, beta, w2, w_k, w_v, table, w_o):
    reference, rows, cols, zero, options = setting(x)
    arrays = [x, w_q, zero, w, b, gamma, beta, w2, reference, w_k, zero, w_v, zero, table, rows, cols, w_o, zero]
    gradients = ops.deformable_attention.raw(*arrays, **options)[1](dy)
    return [gradients[i] for i in (0, 1, 3, 4, 5, 6, 7, 9, 11, 13, 16)]


def op_with(change):
    return lambda *a: change(by_op(*a))


def replaced(i, f):
    def change(gradients):
        gradients[i] = f(gradients[i])
        return gradients

    return change


def without(op, index, replace):
    """by_op with one gradient of one part put to zero."""

    def vjp(*arrays):
        kept = op.raw

        def raw(*a, **k):
            y, pull = kept(*a, **k)

            def cut(dy):
                gradients = list(pull(dy))
                gradients[index] = 0 * gradients[index]
                return tuple(gradients)

            return y, cut

        op.raw = raw
        try:
            return replace(*arrays)
        finally:
            op.raw = kept

    return vjp


def db_k(dy, b_k, q, k, v):
    return ops.attention.raw(q, k + b_k, v, None, None, scale=q.shape[-1] ** -0.5)[1](dy)[1].sum(0)


def of_input(i):
    def vjp(dy, b_k, q, k, v):
        return ops.attention.raw(q, k + b_k, v, None, None, scale=q.shape[-1] ** -0.5)[1](dy)[i].sum(0)

    return vjp


def block_diagonal(w, groups):
    out, e = np.zeros_like(w), len(w) // groups
    for i in range(0, len(w), e):
        out[i : i + e, i : i + e] = w[i : i + e, i : i + e]
    return out


def in_place(w, groups):
    w[...] = block_diagonal(w, groups)
    return w


def by_rows(q, k, v, table, points, row=None, divide=True):
    heads, h, w, d = q.shape
    z = np.empty(q.shape)
    for i in range(h):
        at = float(i if row is None else row)
        bias = ops.position_bias.raw(table, points[None, None], np.array([at]), np.arange(w) + 0.0)[0][0]
        for m in range(heads):
            z[m, i] = softmax(q[m, i] @ k[m].T / (d**0.5 if divide else 1) + bias[m]) @ v[m]
    return z


ANSWERS = {
    "9.1": {
        "right": [attend],
        "wrong": [
            (lambda *a: attend(*a, divide=False), "not divided by √d"),
            (lambda *a: attend(*a, wide=True), "channels of a head"),
            (lambda *a: attend(*a, with_bias=False), "the bias is missing"),
            (lambda *a: attend(*a, early=True), "added after dividing"),
            (lambda q, s, k, v, b: attend(q, s, v, k, b), "are exchanged"),
            (lambda *a: attend(*a).T, "transposed?"),
        ],
    },
    "9.2": {
        "right": [keys_and_values_vjp],
        "wrong": [
            (kv_half(0), "branch of the values is missing"),
            (kv_with_weights_as_they_are, "multiplies by w transposed"),
            (kv_half(1), "branch of the keys is missing"),
            (kv_with(lambda ds, dk, dv: (ds, dk.T, dv)), "transposed?"),
            (kv_with(lambda ds, dk, dv: (ds, dv, dk)), "dw_k["),
            (kv_with(lambda ds, dk, dv: (-ds, dk, dv)), "(sign?)"),
            (lambda d, *a: keys_and_values_vjp(np.ones_like(d), *a), "cotangent of ones"),
        ],
    },
    "9.3": {
        "right": [by_op, by_engine],
        "wrong": [
            (without(ops.position_bias, 1, by_op), "points get a gradient from the bias too"),
            (without(ops.bilinear_sample, 1, by_op), "from what is read too"),
            (without(ops.bilinear_sample, 0, by_op), "as the map that is read"),
            (without(ops.attention, 0, by_op), "from the attention too"),
            (without(ops.offset_network, 0, by_op), "from the offset network too"),
            (op_with(replaced(0, lambda d: -d)), "(sign?)"),
            (op_with(replaced(6, lambda d: d[:, ::-1])), "swapped?"),
            (op_with(replaced(7, lambda d: d.T)), "transposed?"),
            (op_with(lambda g: g[:-1]), "10 results, but 11"),
            (lambda dy, *a: by_op(np.ones_like(dy), *a), "cotangent of ones"),
        ],
    },
    "9.4": {
        "right": [db_k, lambda dy, b, q, k, v: 0 * b],
        "wrong": [
            (of_input(2), "the values' bias"),
            (of_input(0), "the queries' bias"),
            (lambda dy, b, q, k, v: dy.sum(0), "db_k["),
        ],
    },
    "9.5": {
        "right": [block_diagonal],
        "wrong": [
            (lambda w, groups: block_diagonal(w, len(w) // groups), "there are G of them"),
            (lambda w, groups: w * (np.arange(12)[:, None] % groups == np.arange(12) % groups), "lie side by side"),
            (in_place, "it writes to its argument 0"),
        ],
    },
    "9.6": {
        "right": [
            lambda e, shape, rng: (np.zeros((e, 2)), np.full(shape, -3.0)),
            lambda e, shape, rng: [np.zeros((e, 2)), np.ones(shape) * rng.uniform(1, 2, (shape[0], 1, 1))],
        ],
        "wrong": [
            (lambda e, shape, rng: (np.zeros((e, 2)), np.zeros(shape)), "has a 0 in it"),
            (lambda e, shape, rng: (np.ones((e, 2)), np.ones(shape)), "w2 is not zero"),
            (lambda e, shape, rng: (np.zeros((e, 2)), rng.uniform(1, 2, shape)), "plain attention"),
            (lambda e, shape, rng: (np.zeros((2, e)), np.ones(shape)), "w2 has shape (2, 3)"),
        ],
    },
    "9.7": {
        "right": [by_rows],
        "wrong": [
            (lambda *a: by_rows(*a, row=0), "row 0"),
            (lambda *a: by_rows(*a, divide=False), "not divided by √d"),
            (lambda q, *a: by_rows(q, *a).reshape(q.shape[0], -1, q.shape[3]), "has shape (2, 12, 2)"),
        ],
    },
}
