"""Exercises of chapter 03: attention."""

import numpy as np

from minidat import ops
from minidat.tutorial.contracts import Gradient, Value
from minidat.tutorial.report import Exercise

N, NS, D, CV = 4, 6, 3, 5
M, C = 2, 6


def weights(q, k, scale):
    return ops.softmax.raw(scale * q @ k.swapaxes(-1, -2))[0]


def attention(q, k, v, scale):
    return weights(q, k, scale) @ v


def attention_vjp(dz, q, k, v, scale):
    return ops.attention.raw(q, k, v, None, None, scale=scale)[1](dz)[:3]


def through_scores(dscores):
    """A vjp of attention whose dS is dscores(P, dP)."""

    def vjp(dz, q, k, v, scale):
        p = weights(q, k, scale)
        ds = dscores(p, dz @ v.T)
        return scale * ds @ k, scale * ds.T @ q, p.T @ dz

    return vjp


def unscaled_weights(dz, q, k, v, scale):
    p = weights(q, k, 1.0)
    ds = ops.softmax.raw(q @ k.T)[1](dz @ v.T)[0]
    return scale * ds @ k, scale * ds.T @ q, p.T @ dz


def roles(rng):
    return tuple(rng.standard_normal(shape) for shape in ((N, D), (NS, D), (NS, CV)))


def biased(q, k, v, bias):
    return ops.attention.raw(q, k, v, bias, None, scale=q.shape[-1] ** -0.5)[0]


def bias_gradient(dz, q, k, v, bias):
    """∂L/∂bias for each head, (M, N, Ns)"""
    each = np.broadcast_to(bias, (M, *bias.shape))
    return ops.attention.raw(q, k, v, each, None, scale=q.shape[-1] ** -0.5)[1](dz)[3]


def split_heads(x, heads):
    return x.reshape(len(x), heads, -1).swapaxes(0, 1)


def merge_heads(z):
    return z.swapaxes(0, 1).reshape(z.shape[1], -1)


def mhsa(x, w_q, w_k, w_v, w_o, heads):
    q, k, v = (split_heads(x @ w, heads) for w in (w_q, w_k, w_v))
    return merge_heads(attention(q, k, v, q.shape[-1] ** -0.5)) @ w_o


def mhsa_vjp(dz, x, w_q, w_k, w_v, w_o, heads, *, uses=3, merged=merge_heads, through=lambda dz, w_o: dz @ w_o.T):
    q, k, v = (split_heads(x @ w, heads) for w in (w_q, w_k, w_v))
    z, vjp = ops.attention.raw(q, k, v, None, None, scale=q.shape[-1] ** -0.5)
    parts = [merged(d) for d in vjp(split_heads(through(dz, w_o), heads))[:3]]
    dx = sum((d @ w.T for d, w in list(zip(parts, (w_q, w_k, w_v), strict=True))[:uses]), np.zeros(x.shape))
    return dx, *(x.T @ d for d in parts), merge_heads(z).T @ dz


def scale_gradient(dz, q, k, v, scale):
    ds = ops.softmax.raw(scale * q @ k.T)[1](dz @ v.T)[0]
    return (ds * (q @ k.T)).sum()


def blocks(rng):
    """Scores near 1000, of which several count; those of the second block are the largest."""
    q, sizes = rng.standard_normal(D), rng.permutation([2, 3, 5])
    keys = [
        rng.standard_normal((n, D)) + level * q / (q @ q) for n, level in zip(sizes, (1000, 1003, 1000), strict=True)
    ]
    return q, [(k, rng.standard_normal((len(k), CV))) for k in keys]


def in_blocks(q, pairs):
    k, v = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    return attention(q[None], k, v, 1.0)[0]


def mean_of_blocks(q, pairs):
    return np.mean([attention(q[None], k, v, 1.0)[0] for k, v in pairs], axis=0)


def never_shrunk(q, pairs):
    largest, t, u = -np.inf, 0.0, 0.0
    for k, v in pairs:
        largest = max(largest, (k @ q).max())
        e = np.exp(k @ q - largest)
        t, u = t + e.sum(), u + e @ v
    return u / t


def each_by_itself(q, pairs):
    e = [np.exp(k @ q - (k @ q).max()) for k, _ in pairs]
    return sum(x @ v for x, (_, v) in zip(e, pairs, strict=True)) / sum(x.sum() for x in e)


def last_block(q, pairs):
    return attention(q[None], *pairs[-1], 1.0)[0]


EXERCISES = {
    "3.1": Exercise(
        Gradient(
            lambda q, k, scale: scale * q @ k.T,
            lambda rng: (*roles(rng)[:2], 0.7),
            names=("dq", "dk", None),
            mistakes={
                "the factor scale is missing: it stands before the product, so in both slopes": lambda ds, q, k, scale: (
                    ds @ k,
                    ds.T @ q,
                )
            },
        ),
        [
            "Shapes first: dq is (N, d) and is made of dS (N, Ns) and k (Ns, d). How must they stand for Ns to meet?",
            "dk is (Ns, d), made of dS (N, Ns) and q (N, d). Here N must meet, and it is the first axis of both: one "
            "is transposed.",
            "`scale * dS @ k` and `scale * dS.T @ q`.",
        ],
    ),
    "3.2": Exercise(
        Gradient(
            attention,
            lambda rng: (*roles(rng), 0.7),
            names=("dq", "dk", "dv", None),
            mistakes={
                "the row's sum Σ_l P_il dP_il of step 5 is missing": through_scores(lambda p, dp: p * dp),
                "only the diagonal of the softmax's Jacobian: S_ij moves all the weights of its row": through_scores(
                    lambda p, dp: p * (1 - p) * dp
                ),
                "the sum in step 5 runs along each row: axis −1, with keepdims": through_scores(
                    lambda p, dp: p * (dp - (p * dp).sum())
                ),
                "in step 5 the sum runs over the keys, axis −1, not over the queries": through_scores(
                    lambda p, dp: p * (dp - (p * dp).sum(0))
                ),
                "the softmax is left out on the way back": through_scores(lambda p, dp: dp),
                "the factor scale is missing in the scores: P is the softmax of scale · q kᵀ": unscaled_weights,
                "the factor scale is missing in step 7": lambda dz, q, k, v, scale: (
                    *(d / scale for d in attention_vjp(dz, q, k, v, scale)[:2]),
                    attention_vjp(dz, q, k, v, scale)[2],
                ),
            },
        ),
        [
            "First forward, as in the section on small arrays: `S = scale * q @ k.T`, then `P`, its softmax along each row.",
            "Now back: from `dZ` to `dv` and `dP` (step 8), from `dP` to `dS` (step 5), from `dS` to `dq` and `dk` "
            "(exercise 3.1).",
            "`dv = P.T @ dZ`, `dP = dZ @ v.T`. The sum in step 5 is `(P * dP).sum(-1, keepdims=True)`, one number a row.",
            "`dS = P * (dP - (P * dP).sum(-1, keepdims=True))`, then `scale * dS @ k` and `scale * dS.T @ q`.",
        ],
    ),
    "3.3": Exercise(
        Value(
            split_heads,
            lambda rng: (rng.standard_normal((5, C)), (2, 3, 6)[int(rng.integers(3))]),
            names=("heads",),
            mistakes={
                "reshape alone: a head then holds numbers of few tokens, instead of few channels of all": lambda x, m: (
                    x.reshape(m, len(x), -1)
                ),
                "channel c belongs to head c // d: the channels of a head are neighbours": lambda x, m: np.moveaxis(
                    x.reshape(len(x), -1, m), -1, 0
                ),
            },
        ),
        [
            "Cut the last axis in two first: from (N, M·d) to (N, M, d). That is a reshape, and no number moves.",
            "Then change the places of tokens and heads: `swapaxes(0, 1)`.",
        ],
    ),
    "3.4": Exercise(
        Gradient(
            biased,
            lambda rng: (
                *(rng.standard_normal((M, *shape)) for shape in ((N, D), (NS, D), (NS, CV))),
                rng.standard_normal((N, NS)),
            ),
            names=(None, None, None, "dbias"),
            mistakes={
                "the bias is added after the scaling: its gradient has no factor 1/√d": lambda dz, q, k, v, bias: (
                    bias_gradient(dz, q, k, v, bias).sum(0) * D**-0.5
                ),
                "one bias serves all heads and gets the sum of their gradients, not the mean": lambda dz, q, k, v, bias: (
                    bias_gradient(dz, q, k, v, bias).mean(0)
                ),
                "that is the first head's share: one bias serves all heads": lambda dz, q, k, v, bias: bias_gradient(
                    dz, q, k, v, bias
                )[0],
                "the weights must be computed with the bias": lambda dz, q, k, v, bias: bias_gradient(
                    dz, q, k, v, 0 * bias
                ).sum(0),
            },
        ),
        [
            "Go back as in 3.2 as far as dS, for all heads at once: `k.swapaxes(-1, -2)` transposes the last two axes "
            "only. Mind that the weights are those with the bias.",
            "δS_ij of every head contains δB_ij, with factor 1. What stands beside δB_ij in δL = Σ_m Σ_ij dS_ij δS_ij?",
            "dB is the sum of dS over the heads: `dS.sum(0)`.",
        ],
    ),
    "3.5": Exercise(
        Gradient(
            mhsa,
            lambda rng: (rng.standard_normal((5, C)), *(rng.standard_normal((C, C)) for _ in range(4)), M),
            names=("dx", "dWq", "dWk", "dWv", "dWo", None),
            mistakes={
                "x is used three times and gets three gradients: the way through the queries is the only one here": (
                    lambda *a: mhsa_vjp(*a, uses=1)
                ),
                "x is used three times and gets three gradients: the way through the values is missing": (
                    lambda *a: mhsa_vjp(*a, uses=2)
                ),
                "back through z = Concat · Wo one multiplies by Wo transposed": (
                    lambda *a: mhsa_vjp(*a, through=lambda dz, w_o: dz @ w_o)
                ),
                "to merge heads, swap tokens and heads before the reshape": (
                    lambda *a: mhsa_vjp(*a, merged=lambda z: z.reshape(z.shape[1], -1))
                ),
            },
        ),
        [
            "Write the forward pass first, keeping `q`, `k`, `v`, `z` and the vjp that `ops.attention.raw` returns. "
            "Then read it upward.",
            "Equation (3) is a matrix product of `merge(z)` and Wo: dWo = `merge(z).T @ dz`, and `dz @ Wo.T` goes on. "
            "Backward through `merge` is `split`.",
            "`vjp(split(dz @ Wo.T, heads))[:3]` are dq, dk, dv by heads. `merge` each, and equation (1) is three "
            "matrix products.",
            "dWq = `x.T @ dq` and so on; dx = `dq @ Wq.T + dk @ Wk.T + dv @ Wv.T`.",
        ],
    ),
    "3.6": Exercise(
        Gradient(
            attention,
            lambda rng: (*roles(rng), np.asarray(0.5 + rng.random())),
            names=(None, None, None, "dscale"),
            mistakes={
                "∂S/∂λ is q kᵀ, without λ": lambda dz, q, k, v, scale: scale * scale_gradient(dz, q, k, v, scale),
                "one number serves all scores: the sum over all of them, not the mean": lambda dz, q, k, v, scale: (
                    scale_gradient(dz, q, k, v, scale) / (N * NS)
                ),
            },
        ),
        [
            "Go back as far as dS. Then: how does S_ij move when λ moves by δλ?",
            "δS_ij = (q kᵀ)_ij δλ. Put it into δL = Σ_ij dS_ij δS_ij, and see what stands beside δλ.",
            "dλ = `(dS * (q @ k.T)).sum()`.",
        ],
    ),
    "3.7": Exercise(
        Value(
            in_blocks,
            blocks,
            names=("z",),
            mistakes={
                "blocks are not of equal weight: carry the sums along and divide once, at the end": mean_of_blocks,
                "when a new largest score comes, what was summed before must shrink by e^(old − new)": never_shrunk,
                "all blocks must be relative to one number, the largest score of all so far": each_by_itself,
                "that is the last block alone": last_block,
            },
        ),
        [
            "Begin with `largest = -np.inf`, `t = 0.0`, `u = 0.0`, and loop: `for k, v in blocks`. At the end return `u / t`.",
            "In a block: `new = max(largest, scores.max())`. Its own terms are `np.exp(scores - new)`. What was summed "
            "before was relative to the old largest.",
            "e^(S − new) = e^(S − old) · e^(old − new): multiply both `t` and `u` by `np.exp(largest - new)`, then add "
            "the block.",
        ],
    ),
}
