"""Exercises of chapter 02: a dozen functions by hand, from broadcasting to a convolution with stride 2."""

import math

import numpy as np

from minidat import ops
from minidat.autograd.backend import erf
from minidat.tutorial.contracts import Behaviour, Gradient, call, compare
from minidat.tutorial.report import Exercise

SHAPES = (  # small, large
    ((4,), (3, 4)),
    ((1, 4), (3, 4)),
    ((3, 1), (3, 4)),
    ((3, 4), (3, 4)),
    ((), (3, 4)),
    ((3, 1), (2, 3, 5)),
    ((2, 1, 5), (2, 3, 5)),
    ((1, 5), (1, 5)),
)


def broadcast_gradient(d, shape):
    """By the definition: ∂⟨d, broadcast(x)⟩/∂x, one element of x at a time."""
    out = np.zeros(shape)
    for index in np.ndindex(*shape):
        one = np.zeros(shape)
        one[index] = 1.0
        out[index] = (d * np.broadcast_to(one, d.shape)).sum()
    return out


def mean_over_repeats(d, shape):
    return broadcast_gradient(d, shape) * math.prod(shape) / d.size


def first_of_repeats(d, shape):
    d = d[(0,) * (d.ndim - len(shape))]
    return d[tuple(slice(0, 1) if n == 1 else slice(None) for n in shape)]


def try_sum_to(answer):
    rng, worst = np.random.default_rng(0), 0.0
    for shape, large in SHAPES:
        d = rng.standard_normal(large)
        mistakes = {
            "what was repeated gets the sum, not the mean": [mean_over_repeats(d, shape)],
            "every repetition counts: sum them, do not take the first": [first_of_repeats(d, shape)],
        }
        name = f"{large} to {shape}: d"
        got = call(answer, (d, shape))
        worst = max(worst, compare([got], [broadcast_gradient(d, shape)], [name], "expected", mistakes))
    return worst


def softmax(x):
    return ops.softmax.raw(x)[0]


def tokens(rng):
    return tuple(rng.standard_normal(shape) for shape in ((2, 4, 3), (3, 5), (5,)))


def linear_gradients(dy, x, w, b):
    return ops.linear.raw(x, w, b)[1](dy)


def said_and_true(rng):
    return rng.standard_normal((4, 3)), softmax(rng.standard_normal((4, 3)))


def normed(x, eps):
    s = np.sqrt(x.var(-1, keepdims=True) + eps)
    return (x - x.mean(-1, keepdims=True)) / s, s


def layer_norm(x, gamma, beta, eps):
    return gamma * normed(x, eps)[0] + beta


def norm_vjp(dy, x, gamma, beta, eps, *, mean=True, along=True, scaled=True, epsilon=True):
    x_hat, s = normed(x, eps if epsilon else 0.0)
    d = gamma * dy if scaled else dy
    dx = d - mean * d.mean(-1, keepdims=True) - along * x_hat * (d * x_hat).mean(-1, keepdims=True)
    return dx / s, (dy * x_hat).sum(0), dy.sum(0)


def norm_inputs(rng):
    return (*(rng.standard_normal(shape) for shape in ((4, 5), (5,), (5,))), 0.1)


def rms_norm(x, gamma, eps):
    return gamma * x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


def rms_vjp(dy, x, gamma, eps, *, mean=False):
    s = np.sqrt((x * x).mean(-1, keepdims=True) + eps)
    x_hat, d = x / s, gamma * dy
    dx = d - mean * d.mean(-1, keepdims=True) - x_hat * (d * x_hat).mean(-1, keepdims=True)
    return dx / s, (dy * x_hat).sum(0)


def cdf(x):
    return 0.5 * (1 + erf(x / math.sqrt(2)))


def density(x):
    return np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def mlp(x, gamma, beta, w1, b1, w2, b2):
    h = layer_norm(x, gamma, beta, 1e-5) @ w1 + b1
    return h * cdf(h) @ w2 + b2 + x


def mlp_vjp(dy, x, gamma, beta, w1, b1, w2, b2, *, gelu=True, norm=True, residual=True):
    a, vjp_norm = ops.layer_norm.raw(x, gamma, beta)
    h, vjp_1 = ops.linear.raw(a, w1, b1)
    g, vjp_gelu = ops.gelu.raw(h)
    dg, dw2, db2 = ops.linear.raw(g, w2, b2)[1](dy)
    da, dw1, db1 = vjp_1(vjp_gelu(dg)[0] if gelu else dg)
    dx, dgamma, dbeta = vjp_norm(da)
    return (dx if norm else da) + residual * dy, dgamma, dbeta, dw1, db1, dw2, db2


def mlp_inputs(rng):
    return tuple(rng.standard_normal(shape) for shape in ((4, 3), (3,), (3,), (3, 5), (5,), (5, 3), (3,)))


def stands_out(dy, x, *, share=1.0):
    return (x == x.max(0)) * dy - share * dy / len(x)


def readings(rng):
    """A table (5, 3), and the rows that are read: two of them more than once, one never."""
    return rng.standard_normal((5, 3)), rng.permutation([0, 2, 2, 4, 4, 4, 1])


def scattered(dy, x, rho):
    dx = np.zeros(x.shape)
    np.add.at(dx, rho, dy)
    return dx


def last_one_stays(dy, x, rho):
    dx = np.zeros(x.shape)
    dx[rho] += dy
    return dx


def put_back(dy, x):
    dx = np.zeros(x.shape)
    np.put_along_axis(dx, x.argsort(-1), dy, -1)
    return dx


def conv(x, w):
    return ops.conv2d.raw(x[None], w, None, stride=2, padding=1)[0][0]


def conv_vjp(dy, x, w, *, add=True, flip=False):
    framed = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    dframed, dw = np.zeros(framed.shape), np.zeros(w.shape)
    for p, q in np.ndindex(3, 3):
        at = slice(p, p + 2 * len(dy), 2), slice(q, q + 2 * dy.shape[1], 2)
        dw[p, q] = np.einsum("ijc,ijo->co", framed[at], dy)
        dframed[at] = add * dframed[at] + dy @ (w[2 - p, 2 - q] if flip else w[p, q]).T
    return dframed[1:-1, 1:-1], dw


def map_and_taps(rng):
    return rng.standard_normal((4, 6, 2)), rng.standard_normal((3, 3, 2, 3))


EXERCISES = {
    "2.1": Exercise(
        Behaviour(try_sum_to),
        [
            "First the axes that are missing at the left: there are `d.ndim - len(shape)` of them. `d.sum(axis=(0, 1, "
            "…))` removes them.",
            "Then d has as many axes as `shape`. Wherever `shape` has a 1, sum along that axis, but keep it: `keepdims=True`.",
            "`for axis, size in enumerate(shape): if size == 1: d = d.sum(axis=axis, keepdims=True)`.",
        ],
    ),
    "2.2": Exercise(
        Gradient(
            lambda x, w, b: x @ w + b,
            tokens,
            names=("dx", "dW", "db"),
            mistakes={
                "the tokens of all images must be summed, these are those of the first": lambda dy, x, w, b: (
                    linear_gradients(dy, x, w, b)[0],
                    x[0].T @ dy[0],
                    dy[0].sum(0),
                ),
                "one weight serves all tokens and gets the sum over them, not the mean": lambda dy, x, w, b: (
                    linear_gradients(dy, x, w, b)[0],
                    *(d / 8 for d in linear_gradients(dy, x, w, b)[1:]),
                ),
            },
        ),
        [
            "`dx` first: `dy @ W.T`, with all axes in front carried along.",
            "For dW, put the tokens of all images under each other: `X = x.reshape(-1, C)`, and the same with dy.",
            "`X.T @ dY` is (C, D), and `dY.sum(0)` is (D,).",
        ],
    ),
    "2.3": Exercise(
        Gradient(
            lambda x: ops.log_softmax.raw(x)[0],
            lambda rng: (rng.standard_normal((4, 5)),),
            names=("dx",),
            mistakes={
                "the second term is missing: every score moves the sum of the exponentials": lambda dl, x: dl,
                "that is the vjp of softmax, not of its logarithm": lambda dl, x: ops.softmax.raw(x)[1](dl)[0],
                "the sum runs along each row: axis −1, with keepdims": lambda dl, x: dl - softmax(x) * dl.sum(),
                "the sum is over dl alone, without y: y stands outside": lambda dl, x: (
                    dl - softmax(x) * (dl * softmax(x)).sum(-1, keepdims=True)
                ),
            },
        ),
        [
            "δL = Σ_i dl_i δx_i − Σ_i dl_i Σ_j y_j δx_j. In the second part exchange the sums: what stands beside δx_j?",
            "y_j does not depend on i, so it stands before the sum: dx_j = dl_j − y_j Σ_i dl_i.",
            "`dl - y * dl.sum(-1, keepdims=True)` with y the softmax of each row of x.",
        ],
    ),
    "2.4": Exercise(
        Gradient(
            lambda logits, targets: ops.cross_entropy.raw(logits, targets)[0],
            said_and_true,
            names=("dlogits", None),
            mistakes={
                "the loss is a mean over the images: 1/B is missing": lambda dl, x, t: dl * (softmax(x) - t),
                "1/B, the number of images, not of images times classes": lambda dl, x, t: (
                    dl * (softmax(x) - t) / x.size
                ),
                "that points downhill: the gradient points uphill": lambda dl, x, t: dl * (t - softmax(x)) / len(x),
                "this stops at the log-softmax: go back through it as well": lambda dl, x, t: -dl * t / len(x),
                "the scores must go through a softmax first": lambda dl, x, t: dl * (x - t) / len(x),
            },
        ),
        [
            "dl_mk = −t_mk dL / B. Put it into the answer of 2.3: dx = dl − y Σ_k dl_k.",
            "Σ_k dl_mk = −dL / B, since Σ_k t_mk = 1. So both terms have the factor dL / B.",
            "`dL * (y - targets) / len(logits)`, with y the softmax of each row.",
        ],
    ),
    "2.5": Exercise(
        Gradient(
            layer_norm,
            norm_inputs,
            names=("dx", "dgamma", "dbeta", None),
            mistakes={
                "γ is missing: x̂ gets d = γ dy": lambda *a: norm_vjp(*a, scaled=False),
                "the mean of d is missing: all inputs move the mean": lambda *a: norm_vjp(*a, mean=False),
                "the term along x̂ is missing: all inputs move the variance": lambda *a: norm_vjp(*a, along=False),
                "both means are missing: all inputs move mean and variance": lambda *a: norm_vjp(
                    *a, mean=False, along=False
                ),
                "ε is missing in s": lambda *a: norm_vjp(*a, epsilon=False),
            },
        ),
        [
            "Forward first: `centred`, `s` and `x_hat` as above, with this ε. dγ and dβ are in step 0: sums over the tokens.",
            "Step 5, second term: Σ_c d_c (1/C) Σ_i δx_i = Σ_i (mean of d) δx_i. The third: Σ_i x̂_i (mean of d x̂) δx_i.",
            "dx_i = (d_i − mean(d) − x̂_i mean(d x̂)) / s, with both means taken over a token's channels.",
            "`(d - d.mean(-1, keepdims=True) - x_hat * (d * x_hat).mean(-1, keepdims=True)) / s`, with `d = gamma * dy`.",
        ],
    ),
    "2.6": Exercise(
        Gradient(
            lambda x: x * cdf(x),
            lambda rng: (2 * rng.standard_normal((4, 5)),),
            names=("dx",),
            mistakes={
                "the product rule has a second term: Φ depends on x too": lambda dy, x: dy * cdf(x),
                "in the second term φ is multiplied by x": lambda dy, x: dy * (cdf(x) + density(x)),
                "φ has the factor 1/√(2π)": lambda dy, x: dy * (cdf(x) + x * np.exp(-x * x / 2)),
            },
        ),
        [
            "The product rule on x · Φ(x): two terms.",
            "dy · (Φ(x) + x φ(x)), with Φ and φ from the formula above.",
            "`0.5 * (1 + erf(x / math.sqrt(2)))` is Φ, and `np.exp(-x**2 / 2) / math.sqrt(2 * math.pi)` is φ.",
        ],
    ),
    "2.7": Exercise(
        Gradient(
            mlp,
            mlp_inputs,
            names=("dx", "dgamma", "dbeta", "dW1", "db1", "dW2", "db2"),
            mistakes={
                "the GELU is left out on the way back": lambda *a: mlp_vjp(*a, gelu=False),
                "x has two ways to y: the one beside the branch is missing": lambda *a: mlp_vjp(*a, residual=False),
                "the layer norm is left out on the way back": lambda *a: mlp_vjp(*a, norm=False),
            },
        ),
        [
            "Forward: four calls, each giving a value and a vjp, such as `h, vjp_1 = ops.linear.raw(a, W1, b1)`.",
            "Backward: the four vjps in reverse order. `vjp_2(dy)` gives the gradients of g, W2 and b2; the first goes "
            "on to the GELU.",
            "A vjp always returns a tuple, also of one: `(dh,) = vjp_gelu(dg)`.",
            "x is used twice, in LN(x) and in + x: dx is the sum of what comes back through the layer norm, and dy.",
        ],
    ),
    "2.8": Exercise(
        Gradient(
            rms_norm,
            lambda rng: (*norm_inputs(rng)[:2], 0.1),
            names=("dx", "dgamma", None),
            mistakes={
                "nothing subtracts a mean here, so no mean of d is taken out": lambda *a: rms_vjp(*a, mean=True),
                "all inputs move s: the term along x̂ is missing": lambda dy, x, gamma, eps: (
                    gamma * dy / np.sqrt((x * x).mean(-1, keepdims=True) + eps),
                    rms_vjp(dy, x, gamma, eps)[1],
                ),
            },
        ),
        [
            "s² is the mean of x² plus ε, so 2 s δs is the mean of 2 x δx. With x = s x̂: δs = mean(x̂ δx).",
            "δx̂_c = δx_c / s − x_c δs / s² = (δx_c − x̂_c mean(x̂ δx)) / s. Put it into δL = Σ_c d_c δx̂_c, with d = γ dy.",
            "dx = (d − x̂ mean(d x̂)) / s, and dγ as in layer norm.",
        ],
    ),
    "2.9": Exercise(
        Gradient(
            lambda x: x.max(0) - x.mean(0),
            lambda rng: (rng.standard_normal((5, 3)),),
            names=("dx",),
            mistakes={
                "the mean's use is missing: every element moves it": lambda dy, x: stands_out(dy, x, share=0.0),
                "the mean has 1/N in it": lambda dy, x: stands_out(dy, x, share=len(x)),
                "the mean is subtracted": lambda dy, x: stands_out(dy, x, share=-1.0),
                "only one element of each column moves the largest": lambda dy, x: np.broadcast_to(
                    dy - dy / len(x), x.shape
                ),
            },
        ),
        [
            "Two uses, two gradients, added: one through the largest, one through the mean.",
            "Through the largest dy_c goes to the row n*, and to no other. Through the mean each row gets −dy_c / N.",
            "`x == x.max(0)` is True where the largest is. As a factor, True is 1.",
        ],
    ),
    "2.10": Exercise(
        Gradient(
            lambda x, rho: x[rho],
            readings,
            names=("dx", None),
            mistakes={
                "where a row is read more than once, its gradients must be added: only the last one stays": last_one_stays,
                "a row that is read more than once gets the sum, not the mean": lambda dy, x, rho: (
                    scattered(dy, x, rho) / np.maximum(np.bincount(rho, minlength=len(x)), 1)[:, None]
                ),
            },
        ),
        [
            "Begin with zeros in the shape of x. Each row of dy belongs to one row of x: which?",
            "Row i of dy is added to row rho[i]. In a loop over i nothing gets lost.",
            "`np.add.at(dx, rho, dy)`, which adds also where a number is in rho twice.",
        ],
    ),
    "2.11": Exercise(
        Gradient(
            lambda x: np.sort(x, axis=-1),
            lambda rng: (rng.standard_normal((3, 5)),),
            names=("dx",),
            mistakes={
                "dy is in the sorted order; it must go back to where each number came from": lambda dy, x: dy,
                "that reads dy where it must write to dx: the order is undone in the wrong direction": (
                    lambda dy, x: np.take_along_axis(dy, x.argsort(-1), -1)
                ),
            },
        ),
        [
            "If x moves a little, its order stays the same. What is y then, with `order = x.argsort(-1)`?",
            "y[r, i] = x[r, order[r, i]]: an index, in which no place comes twice. Its vjp is a scatter with nothing to add.",
            "For each row r: `dx[r, order[r]] = dy[r]`.",
        ],
    ),
    "2.12": Exercise(
        Gradient(
            conv,
            map_and_taps,
            names=("dx", "dW"),
            mistakes={
                "windows overlap: what several of them send to a pixel must be added": lambda dy, x, w: conv_vjp(
                    dy, x, w, add=False
                ),
                "the taps are not turned round: what tap (p, q) read gets W[p, q]": lambda dy, x, w: conv_vjp(
                    dy, x, w, flip=True
                ),
            },
        ),
        [
            "The loops of the forward pass will do: where it says `y[i, j, o] += x[h, w, c] * W[p, q, c, o]`, both factors "
            "get a gradient.",
            "`dx[h, w, c] += W[p, q, c, o] * dy[i, j, o]` and `dW[p, q, c, o] += x[h, w, c] * dy[i, j, o]`, inside the same "
            "`if`.",
            "Faster, tap by tap: with a ring of zeros around x, tap (p, q) reads "
            "`framed[p : p + rows : 2, q : q + columns : 2]`. Add `dy @ W[p, q].T` there, and cut the ring off in the end.",
        ],
    ),
}
