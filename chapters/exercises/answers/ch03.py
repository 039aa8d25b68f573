"""Answers to chapter 03: `right` ones, written otherwise than the solution; `wrong` ones, with what must be said of them."""

import math

import numpy as np

from minidat import ops


def softmax(s):
    return np.exp(s) / np.exp(s).sum(-1, keepdims=True)


def scores_vjp(ds, q, k, scale):
    return np.einsum("ij,ja->ia", ds, k) * scale, np.einsum("ij,ia->ja", ds, q) * scale


def attention_vjp(dz, q, k, v, scale):
    """Loops over queries, by the boxed formula."""
    dq, dk, dv = np.zeros(q.shape), np.zeros(k.shape), np.zeros(v.shape)
    for i in range(len(q)):
        p = softmax(scale * k @ q[i])
        z = p @ v
        for j in range(len(k)):
            ds = p[j] * dz[i] @ (v[j] - z)
            dq[i] += scale * ds * k[j]
            dk[j] += scale * ds * q[i]
            dv[j] += p[j] * dz[i]
    return dq, dk, dv


def with_ds(ds_of):
    def vjp(dz, q, k, v, scale):
        p = softmax(scale * q @ k.T)
        ds = ds_of(p, dz @ v.T)
        return scale * ds @ k, scale * ds.T @ q, p.T @ dz

    return vjp


def changed(change, vjp=attention_vjp):
    return lambda *inputs: change(*vjp(*inputs))


def split(x, heads):
    return np.stack(np.split(x, heads, axis=1))


def merge(z):
    return np.concatenate(list(z), axis=1)


def head_scores_vjp(dz, q, k, v, bias):
    p = softmax(np.einsum("mia,mja->mij", q, k) / math.sqrt(q.shape[-1]) + bias)
    dp = np.einsum("mic,mjc->mij", dz, v)
    return p * (dp - np.einsum("mij,mij->mi", p, dp)[..., None])


def mhsa_vjp(dz, x, wq, wk, wv, wo, heads):
    """Head by head, with slices of channels."""
    d = x.shape[1] // heads
    q, k, v, dconcat = x @ wq, x @ wk, x @ wv, dz @ wo.T
    dq, dk, dv, z = (np.zeros(x.shape) for _ in range(4))
    for m in range(heads):
        s = slice(m * d, m * d + d)
        z[:, s] = softmax(q[:, s] @ k[:, s].T / math.sqrt(d)) @ v[:, s]
        dq[:, s], dk[:, s], dv[:, s] = attention_vjp(dconcat[:, s], q[:, s], k[:, s], v[:, s], d**-0.5)
    dqkv, w = np.concatenate([dq, dk, dv], 1), np.concatenate([wq, wk, wv], 1)
    return dqkv @ w.T, x.T @ dq, x.T @ dk, x.T @ dv, z.T @ dz


def without(part):
    """mhsa_vjp whose dx lacks the ways that are not in `part`."""

    def vjp(dz, x, wq, wk, wv, wo, heads):
        _, dwq, dwk, dwv, dwo = mhsa_vjp(dz, x, wq, wk, wv, wo, heads)
        ways = {"k": (wk, dwk), "v": (wv, dwv), "q": (wq, dwq)}
        shares = [np.linalg.lstsq(x.T, dw, rcond=None)[0] @ w.T for name, (w, dw) in ways.items() if name in part]
        return sum(shares, np.zeros(x.shape)), dwq, dwk, dwv, dwo

    return vjp


def scale_vjp(dz, q, k, v, scale):
    """λ dλ = Σ q dq, since λ and q enter as a product."""
    return (q * attention_vjp(dz, q, k, v, scale)[0]).sum() / scale


def in_blocks(q, blocks):
    """Two passes: the largest first."""
    largest = max((k @ q).max() for k, _ in blocks)
    e = [np.exp(k @ q - largest) for k, _ in blocks]
    return sum(w @ v for w, (_, v) in zip(e, blocks)) / sum(w.sum() for w in e)


def overflowing(q, blocks):
    return sum(np.exp(k @ q) @ v for k, v in blocks) / sum(np.exp(k @ q).sum() for k, _ in blocks)


def without_scale_in_the_scores(dz, q, k, v, scale):
    """P = softmax(q kᵀ), but q kᵀ is still multiplied by the scale on the way back."""
    dq, dk, dv = attention_vjp(dz, q, k, v, 1.0)
    return scale * dq, scale * dk, dv


def each_its_own(q, blocks):
    e = [np.exp(k @ q - (k @ q).max()) for k, _ in blocks]
    return sum(w @ v for w, (_, v) in zip(e, blocks)) / sum(w.sum() for w in e)


def never_shrunk(q, blocks):
    largest, t, u = -np.inf, 0.0, 0.0
    for k, v in blocks:
        largest = max(largest, (k @ q).max())
        e = np.exp(k @ q - largest)
        t, u = t + e.sum(), u + e @ v
    return u / t


ANSWERS = {
    "3.1": {
        "right": [scores_vjp],
        "wrong": [
            (lambda ds, q, k, s: (ds @ k, ds.T @ q), "the factor scale is missing"),
            (lambda ds, q, k, s: (s * ds @ k, -s * ds.T @ q), "dk["),
            (lambda ds, q, k, s: (s * ds @ k, -s * ds.T @ q), "(sign?)"),
            (lambda ds, q, k, s: (s * (ds @ k).T, s * ds.T @ q), "transposed?"),
            (lambda ds, q, k, s: (s * ds.T @ k, s * ds @ q), "raises ValueError"),
            (lambda ds, q, k, s: scores_vjp(np.ones(ds.shape), q, k, s), "cotangent of ones"),
        ],
    },
    "3.2": {
        "right": [attention_vjp, lambda dz, q, k, v, s: ops.attention.raw(q, k, v, None, None, scale=s)[1](dz)[:3]],
        "wrong": [
            (with_ds(lambda p, dp: p * dp), "Σ_l P_il dP_il of step 5 is missing"),
            (with_ds(lambda p, dp: p * (1 - p) * dp), "only the diagonal"),
            (with_ds(lambda p, dp: p * (dp - (p * dp).sum())), "keepdims"),
            (with_ds(lambda p, dp: p * (dp - (p * dp).sum(0))), "not over the queries"),
            (with_ds(lambda p, dp: dp), "the softmax is left out"),
            (with_ds(lambda p, dp: -p * (dp - (p * dp).sum(-1, keepdims=True))), "(sign?)"),
            (changed(lambda dq, dk, dv: (dq / 0.7, dk / 0.7, dv)), "scale is missing in step 7"),
            (without_scale_in_the_scores, "missing in the scores"),
            (changed(lambda dq, dk, dv: (dq, dk, dv.T)), "transposed?"),
            (changed(lambda dq, dk, dv: (dq, dk, None)), "dv is None: not done yet"),
            (changed(lambda dq, dk, dv: (dq, dv)), "2 results, but 3 are asked for"),
            (lambda dz, q, k, v, s: attention_vjp(np.ones(dz.shape), q, k, v, s), "cotangent of ones"),
        ],
    },
    "3.3": {
        "right": [split],
        "wrong": [
            (lambda x, m: x.reshape(m, len(x), -1), "reshape alone"),
            (lambda x, m: np.stack([x[:, i::m] for i in range(m)]), "neighbours"),
            (lambda x, m: x.reshape(len(x), m, -1), "shape"),
        ],
    },
    "3.4": {
        "right": [lambda *a: np.einsum("mij->ij", head_scores_vjp(*a))],
        "wrong": [
            (lambda *a: head_scores_vjp(*a), "dbias has shape (2, 4, 6), but (4, 6)"),
            (lambda *a: head_scores_vjp(*a).mean(0), "not the mean"),
            (lambda *a: head_scores_vjp(*a)[0], "the first head's share"),
            (lambda *a: head_scores_vjp(*a).sum(0) / math.sqrt(3), "no factor 1/√d"),
            (lambda dz, q, k, v, b: head_scores_vjp(dz, q, k, v, 0 * b).sum(0), "computed with the bias"),
            (lambda *a: -head_scores_vjp(*a).sum(0), "(sign?)"),
            (lambda dz, *a: head_scores_vjp(np.ones(dz.shape), *a).sum(0), "cotangent of ones"),
        ],
    },
    "3.5": {
        "right": [mhsa_vjp],
        "wrong": [
            (without("q"), "through the queries is the only one"),
            (without("qk"), "through the values is missing"),
            (lambda dz, x, *a: mhsa_vjp(dz @ a[3] @ np.linalg.inv(a[3].T), x, *a), "Wo transposed"),
            (changed(lambda dx, *dw: (dx, *(w.T for w in dw)), mhsa_vjp), "(transposed?)"),
            (changed(lambda dx, dq, dk, dv, do: (dx, dk, dq, dv, do), mhsa_vjp), "dWq["),
            (changed(lambda dx, dq, dk, dv, do: (dx, dq, dk, dv, -do), mhsa_vjp), "(sign?)"),
            (lambda dz, *a: mhsa_vjp(np.ones(dz.shape), *a), "cotangent of ones"),
        ],
    },
    "3.6": {
        "right": [scale_vjp],
        "wrong": [
            (lambda *a: a[-1] * scale_vjp(*a), "without λ"),
            (lambda *a: scale_vjp(*a) / 24, "not the mean"),
            (lambda *a: -scale_vjp(*a), "(sign?)"),
            (lambda dz, *a: scale_vjp(np.ones(dz.shape), *a), "cotangent of ones"),
            (
                lambda dz, q, k, v, s: with_ds(lambda p, dp: p * dp)(dz, q, k, v, s)[0],
                "shape (4, 3), but () is asked for",
            ),
        ],
    },
    "3.7": {
        "right": [in_blocks],
        "wrong": [
            (overflowing, "nan"),
            (never_shrunk, "must shrink by"),
            (each_its_own, "relative to one number"),
            (lambda q, b: np.mean([in_blocks(q, [pair]) for pair in b], axis=0), "not of equal weight"),
            (lambda q, b: in_blocks(q, b[-1:]), "the last block alone"),
        ],
    },
}
