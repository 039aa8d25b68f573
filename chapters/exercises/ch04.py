"""Exercises of chapter 04: the Transformer block."""

import math

import numpy as np

from minidat import ops
from minidat.tutorial.contracts import Op, Value
from minidat.tutorial.report import Exercise

N, C = 4, 5


def branch(rng, mixing=N):
    """x (…, N, C) → tanh(A x W), which mixes tokens and channels, and its vjp: an op of one input."""
    a, w = rng.standard_normal((mixing, mixing)), rng.standard_normal((C, C))

    def f(x):
        y = np.tanh(a @ x @ w)
        return y, lambda dy: a.T @ (dy * (1 - y * y)) @ w.T

    return f


def norm(x):
    return ops.layer_norm.raw(x, np.ones(x.shape[-1]), np.zeros(x.shape[-1]))


def token_map(rng):
    return rng.standard_normal((N, C))


def residual(x, f):
    return x + f(x)[0]


def block(z, mhsa, mlp):
    between = z + mhsa(norm(z)[0])[0]
    return between + mlp(norm(between)[0])[0]


def block_vjp(dout, z, mhsa, mlp, *, first=1, second=1, stale=False, normed=True):
    a, norm1 = norm(z)
    y, vjp1 = mhsa(a)
    b, norm2 = norm(y + z)
    _, vjp2 = mlp(b)
    back = (lambda vjp, d: vjp(d)[0]) if normed else (lambda vjp, d: d)
    dbetween = second * dout + back(norm2, vjp2(dout))
    return first * dbetween + back(norm1, vjp1(dout if stale else dbetween))


def post_norm(x, f):
    return norm(x + f(x)[0])[0]


def post_norm_vjp(dy, x, f, *, road=True, branch=True):
    y, vjp = f(x)
    d = norm(x + y)[1](dy)[0]
    return (d if road else dy) + vjp(d if branch else dy)


def growth(n, a):
    return math.sqrt(1 + n * a), (1 + a) ** (n / 2)


def ways(count, h, most):
    counts = np.array([math.comb(count, k) for k in range(count + 1)], float)
    weights = counts * h ** np.arange(count + 1)
    return counts, weights[: most + 1].sum() / weights.sum()


def share_of(select):
    """ways with the share select(weights, counts, K)"""

    def mistaken(count, h, most):
        counts, _ = ways(count, h, most)
        return counts, select(counts * h ** np.arange(count + 1), counts, most)

    return mistaken


def cost(c, n, expansion, *, norms=1, biases=1, attention=2, tokens=True):
    matrices = 4 * c * c + 2 * expansion * c * c
    parameters = matrices + norms * 4 * c + biases * (5 + expansion) * c
    return parameters, (n if tokens else 1) * matrices + attention * n * n * c


def images(rng):
    f = branch(rng)
    return rng.standard_normal((3, N, C)), f, np.array([1.0, 0.0, 1.0])[rng.permutation(3)], 0.25


def drop_path(x, f, keep, rate):
    return x + (keep / (1 - rate))[:, None, None] * f(x)[0]


def drop_vjp(dy, x, f, keep, rate, *, road=False, masked=True, scaled=True):
    factor = (keep / (1 - rate if scaled else 1))[:, None, None] if masked else 1.0
    return (factor * dy if road else dy) + f(x)[1](factor * dy)


EXERCISES = {
    "4.1": Exercise(
        Op(
            residual,
            lambda rng: (token_map(rng), branch(rng)),
            names=("dx", None),
            mistakes={
                "the plus sign's own term is missing": lambda dy, x, f: f(x)[1](dy),
                "the way through the branch is missing": lambda dy, x, f: dy,
            },
        ),
        [
            "Forward: `y, vjp_f = f(x)`, and the value is `x + y`. Define a function `vjp(dy)` inside, and return both.",
            "Backward: the boxed formula. J_fᵀ dy is what `vjp_f(dy)` returns.",
            "`return x + y, vjp`, where `vjp` returns `dy + vjp_f(dy)`.",
        ],
    ),
    "4.2": Exercise(
        Op(
            block,
            lambda rng: (token_map(rng), branch(rng), branch(rng)),
            names=("dz", None, None),
            mistakes={
                "the attention branch must get all that has arrived at z', not the block's dout": lambda *a: block_vjp(
                    *a, stale=True
                ),
                "equation (4)'s plus sign is forgotten on the way back": lambda *a: block_vjp(*a, first=0),
                "equation (5)'s plus sign is forgotten on the way back": lambda *a: block_vjp(*a, second=0),
                "the norms are forgotten on the way back": lambda *a: block_vjp(*a, normed=False),
            },
        ),
        [
            "Forward, keep every vjp: `normed, vjp_norm1 = norm(z)`, `y, vjp_mhsa = mhsa(normed)`, `between = y + z`, "
            "and again for the MLP.",
            "Backward, equation (5) first: dbetween = dout + (what comes back through the MLP and its norm).",
            "Then equation (4) in the same way, with dbetween in the place of dout: it is what has arrived at z'.",
            "`dbetween = dout + vjp_norm2(vjp_mlp(dout))[0]`, then `dbetween + vjp_norm1(vjp_mhsa(dbetween))[0]`.",
        ],
    ),
    "4.3": Exercise(
        Op(
            post_norm,
            lambda rng: (token_map(rng), branch(rng)),
            names=("dx", None),
            mistakes={
                "the norm is on the road: the plus sign's term passes it too": lambda *a: post_norm_vjp(*a, road=False),
                "the branch gets what has come through the norm": lambda *a: post_norm_vjp(*a, branch=False),
            },
        ),
        [
            "Forward: `y, vjp_f = f(x)`, then `out, vjp_norm = norm(x + y)`.",
            "Backward in reverse: first through the norm, `dsum = vjp_norm(dout)[0]`. What has arrived at the sum goes two ways.",
            "`dsum + vjp_f(dsum)`.",
        ],
    ),
    "4.4": Exercise(
        Value(
            growth,
            lambda rng: (int(rng.integers(5, 40)), float(rng.uniform(0.2, 1.0))),
            names=("pre-norm", "no norm"),
            mistakes={
                "that is the variance: take the root": lambda n, a: (1 + n * a, (1 + a) ** n),
                "the tokens have variance 1 before the first branch": lambda n, a: (math.sqrt(n * a), a ** (n / 2)),
            },
        ),
        [
            "Pre-norm: before the first branch the variance is 1, after it 1 + a, after the second 1 + a + a.",
            "Without norm: after the first branch 1 + a, after the second (1 + a) + a (1 + a) = (1 + a)².",
            "The standard deviation is the root of the variance.",
        ],
    ),
    "4.5": Exercise(
        Value(
            ways,
            lambda rng: (int(rng.integers(6, 12)), float(rng.uniform(0.2, 0.8)), int(rng.integers(1, 4))),
            names=("counts", "share"),
            mistakes={
                "at most K: the ways with exactly K belong to it": share_of(lambda w, counts, k: w[:k].sum() / w.sum()),
                "a way through k branches carries the factor α k times": share_of(
                    lambda w, counts, k: counts[: k + 1].sum() / counts.sum()
                ),
                "that is the amount: divide it by that of all ways": share_of(lambda w, counts, k: w[: k + 1].sum()),
            },
        ),
        [
            "To take k of n detours: in how many ways can one choose k things out of n? `math.comb(n, k)`.",
            "A way through k branches carries α^k. All ways with k branches together carry comb(n, k) · α^k.",
            "The share is the sum of these for k = 0 … K, divided by their sum for k = 0 … n.",
        ],
    ),
    "4.6": Exercise(
        Value(
            cost,
            lambda rng: (int(rng.integers(8, 64)), int(rng.integers(10, 99)), int(rng.integers(2, 5))),
            names=("parameters", "multiplications"),
            mistakes={
                "the layer norms are missing: 2 · 2C": lambda *a: cost(*a, norms=0),
                "there are two layer norms": lambda *a: (cost(*a)[0] - 2 * a[0], cost(*a)[1]),
                "the biases are missing: 3C, C, expansion · C and C": lambda *a: cost(*a, biases=0),
                "every token is multiplied: N times the matrices": lambda *a: cost(*a, tokens=False),
                "q kᵀ and P v take N² C multiplications each": lambda *a: cost(*a, attention=1),
                "q kᵀ and P v are missing": lambda *a: cost(*a, attention=0),
            },
        ),
        [
            "A linear layer from a to b channels has a·b + b parameters, and takes N·a·b multiplications for N tokens.",
            "Its four: C → 3C, C → C, C → expansion·C, expansion·C → C. A layer norm has 2C parameters; there are two.",
            "q kᵀ: N² scores, and for all heads together C multiplications for each. P v the same: 2 N² C.",
        ],
    ),
    "4.7": Exercise(
        Op(
            drop_path,
            images,
            names=("dx", None, None, None),
            mistakes={
                "only the branch is dropped, the road never": lambda *a: drop_vjp(*a, road=True),
                "the branch's gradient must be masked and divided too": lambda *a: drop_vjp(*a, masked=False),
                "the branch's gradient, too, is divided by 1 − r": lambda *a: drop_vjp(*a, scaled=False),
            },
        ),
        [
            "`factor = keep / (1 - rate)` has shape (B,). To multiply (B, N, C) it must be (B, 1, 1): `[:, None, None]`.",
            "Forward: `x + factor * y`. On the way back the factor comes before the branch: what does the branch get?",
            "`dy + vjp_f(factor * dy)`.",
        ],
    ),
}
