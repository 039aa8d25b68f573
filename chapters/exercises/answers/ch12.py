"""Answers to chapter 12: `right` ones, written otherwise than the solution; `wrong` ones, with what must be said of them."""

from dataclasses import replace

import numpy as np

from minidat import Tensor, nn, ops
from minidat.models import zoo


def cut(x, k):
    h, w, _ = x.shape
    return np.stack([x[i : i + k, j : j + k].reshape(-1) for i in range(0, h, k) for j in range(0, w, k)])


def patches_vjp(dy, x, W, bias):
    dx, dW, dbias = np.zeros(x.shape), np.zeros(W.shape), np.zeros(bias.shape)
    k = len(W)
    for i, j in np.ndindex(*dy.shape[:2]):
        here = slice(k * i, k * i + k), slice(k * j, k * j + k)
        dx[here] = np.einsum("abec,c->abe", W, dy[i, j])
        dW += np.einsum("abe,c->abec", x[here], dy[i, j])
        dbias += dy[i, j]
    return dx, dW, dbias


def vjp_with(change):
    return lambda *inputs: change(*patches_vjp(*inputs))


def window_block(dim, heads, window):
    shapes = [(dim,)] * 4 + [
        (dim, 3 * dim),
        (3 * dim,),
        (dim, dim),
        (dim,),
        (dim, 4 * dim),
        (4 * dim,),
        (4 * dim, dim),
        (dim,),
    ]
    return sum(int(np.prod(shape)) for shape in shapes) + heads * (2 * window - 1) ** 2


def deformable_block(dim, heads, groups, kernel, h, w):
    e = dim // groups
    theta = kernel * kernel * e + e + 2 * e + 2 * e
    return window_block(dim, 0, 1) + theta + heads * (2 * h - 1) * (2 * w - 1)


def dat_parameters(dim, pairs, classes=1000):
    total = 3 * 16 * dim + 3 * dim
    for c in (dim, 2 * dim):
        total += 2 * window_block(c, c // 32, 7)
    c = 4 * dim
    total += pairs * (window_block(c, c // 32, 7) + deformable_block(c, c // 32, c // 128, 5, 14, 14))
    c = 8 * dim
    total += window_block(c, c // 32, 7) + deformable_block(c, c // 32, c // 128, 3, 7, 7)
    total += sum(4 * c * 2 * c + 4 * c for c in (dim, 2 * dim, 4 * dim))
    return total + 2 * c + (c + 1) * classes


def window_work(h, w, dim, window):
    windows = (h // window) * (w // window)
    tokens = window * window
    return h * w * (3 * dim + dim) * dim, windows * 2 * tokens * tokens * dim, h * w * 2 * dim * 4 * dim


def fits(patch, stages, window):
    side = window * patch
    for _ in range(stages - 1):
        side *= 2
    return side


def overlapping_vjp(dy, x, W, bias, once=False, rim=0):
    """Exercise 12.9, patch by patch. `once`: a pixel keeps the term of one patch only. `rim`: how far dx is shifted."""
    h, w, _ = x.shape
    padded = np.zeros((h + 2, w + 2, x.shape[2]))
    padded[1:-1, 1:-1] = x
    dpadded, dW = np.zeros_like(padded), np.zeros_like(W)
    taps = [(a, b, i, j) for a, b in np.ndindex(3, 3) for i, j in np.ndindex(*dy.shape[:2])]
    for a, b, i, j in taps:
        at = 2 * i + a, 2 * j + b
        term = W[a, b] @ dy[i, j]
        dpadded[at] = term if once else dpadded[at] + term
        dW[a, b] += np.outer(padded[at], dy[i, j])
    return dpadded[1 - rim : h + 1 - rim, 1 - rim : w + 1 - rim], dW, dy.sum(0).sum(0)


def overlapping_with(change):
    return lambda *inputs: change(*overlapping_vjp(*inputs))


def lpu_vjp(dz, z, w, b):
    """Exercise 12.10 by the op's own vjp."""
    _, vjp = ops.depthwise_conv.raw(z[None], w, b, padding=1)
    back, dw, db = vjp(dz[None])
    return dz + back[0], dw, db


def unturned(dz, z, w, b):
    back = ops.depthwise_conv.raw(dz[None], w, None, padding=1)[0][0]
    return dz + back, *lpu_vjp(dz, z, w, b)[1:]


def by_engine(dy, *arrays):
    """Exercise 12.11 by the engine."""
    leaves = [Tensor(a, requires_grad=True) for a in arrays]
    mlp = nn.ConvMLP(3, rng=np.random.default_rng(0))
    mlp.hidden.weight, mlp.hidden.bias, mlp.conv.weight, mlp.conv.bias, mlp.out.weight, mlp.out.bias = leaves[1:]
    mlp(leaves[0].reshape(1, *arrays[0].shape)).backward(dy[None])
    return tuple(leaf.grad for leaf in leaves)


def one_road(dy, x, w1, b1, w, b, w2, b2, straight):
    """Exercise 12.11 with one of the roads to h."""
    h = x @ w1 + b1
    mix, vjp = ops.depthwise_conv.raw(h[None], w, b, padding=1)
    _, bend = ops.gelu.raw(h + mix[0])
    (dm,) = bend(dy @ w2.T)
    dh = dm if straight else vjp(dm[None])[0][0]
    return dh @ w1.T, *by_engine(dy, x, w1, b1, w, b, w2, b2)[1:]


def dat_pp_parameters(dim, classes=1000, lpu=True, mlp=True, group=64, fourth="DD", first=True):
    c = dim
    total = (27 + 1 + 2) * (c // 2) + (9 * (c // 2) + 1 + 2) * c if first else 48 * c + 3 * c
    for words, kernel, size in (("ND", 9, 56), ("NDND", 7, 28), ("ND" * 9, 5, 14), (fourth, 3, 7)):
        for letter in words:
            if letter == "N":
                total += window_block(c, c // 32, 7)
            else:
                total += deformable_block(c, c // 32, c // group, kernel, size, size)
            total += lpu * (9 + 1) * c + mlp * (9 + 1) * 4 * c
        c *= 2
    for narrow_ in (dim, 2 * dim, 4 * dim):
        total += 3 * 3 * narrow_ * (2 * narrow_) + 2 * (2 * narrow_)
    return total + 2 * (8 * dim) + (8 * dim + 1) * classes


def mine(**changes):
    base = zoo.config("dat_cifar")
    return replace(base, **({"image": 64, "patch": 4} | changes))


def narrow():
    return replace(mine(), stages=zoo.stages((24, 48, 96), (3, 6, 12), ("LS", "LD", "LD"), window=4, kernel=3))


def untiled():
    return replace(mine(), stages=tuple(replace(stage, window=5) for stage in mine().stages))


def local():
    return replace(mine(), stages=tuple(replace(stage, mixers=("L", "S")) for stage in mine().stages))


ANSWERS = {
    "12.1": {
        "right": [cut],
        "wrong": [
            (lambda x, k: x.reshape(-1, k * k * x.shape[2]), "strips of pixels"),
            (lambda x, k: cut(x.swapaxes(0, 1), k), "X["),
            (lambda x, k: np.stack([p.reshape(k, k, -1).swapaxes(0, 1).reshape(-1) for p in cut(x, k)]), "(a, b, e)"),
            (
                lambda x, k: np.stack(
                    [
                        x[i : i + k, j : j + k].reshape(-1)
                        for j in range(0, x.shape[1], k)
                        for i in range(0, x.shape[0], k)
                    ]
                ),
                "(i, j): row by row",
            ),
            (lambda x, k: cut(x, k).T, "transposed?"),
        ],
    },
    "12.2": {
        "right": [patches_vjp],
        "wrong": [
            (vjp_with(lambda dx, dW, db: (-dx, dW, db)), "(sign?)"),
            (vjp_with(lambda dx, dW, db: (dx.T, dW, db)), "transposed?"),
            (vjp_with(lambda dx, dW, db: (dx, dW, 0 * db)), "a term missing?"),
            (vjp_with(lambda dx, dW, db: (dx, dW, db / 6)), "a sum, not a mean"),
            (vjp_with(lambda dx, dW, db: (dx, dW.reshape(-1, 5), db)), "dW has shape (12, 5), but (2, 2, 3, 5)"),
            (lambda dy, x, W, b: patches_vjp(np.ones(dy.shape), x, W, b), "cotangent of ones"),
            (
                lambda dy, x, W, b: (
                    (dy.reshape(-1, 5) @ W.reshape(-1, 5).T).reshape(x.shape),
                    *patches_vjp(dy, x, W, b)[1:],
                ),
                "undo the exchange of axes",
            ),
        ],
    },
    "12.3": {
        "right": [window_block],
        "wrong": [
            (lambda c, m, w: window_block(c, m, w) - 4 * c, "norms are missing"),
            (lambda c, m, w: window_block(c, m, w) - 2 * c, "two layer norms"),
            (lambda c, m, w: window_block(c, m, w) - 9 * c, "biases are missing"),
            (lambda c, m, w: window_block(c, 0, w), "table is missing"),
            (lambda c, m, w: window_block(c, 1, w), "each head"),
        ],
    },
    "12.4": {
        "right": [deformable_block],
        "wrong": [
            (
                lambda c, m, g, k, h, w: deformable_block(c, m, g, k, h, w) + (g - 1) * (c // g) * (k * k + 5),
                "shared by the groups",
            ),
            (lambda c, m, g, k, h, w: deformable_block(c, m, g, k, h, w) + 2, "has no bias"),
            (lambda c, m, g, k, h, w: deformable_block(c, 1, g, k, h, w), "each head"),
            (
                lambda c, m, g, k, h, w: window_block(c, 0, 1) + (2 * h - 1) * (2 * w - 1) * m,
                "offset network is missing",
            ),
            (
                lambda c, m, g, k, h, w: deformable_block(c, 0, g, k, h, w) + h * w * m,
                "for each displacement",
            ),
        ],
    },
    "12.5": {
        "right": [dat_parameters],
        "wrong": [
            (lambda c, n, k: dat_parameters(c, n, k) - c, "stem's convolution has a bias"),
            (lambda c, n, k: dat_parameters(c, n, k) + 14 * c, "steps down have no bias"),
            (lambda c, n, k: dat_parameters(c, n, k) - 28 * c, "follows each step down"),
            (lambda c, n, k: dat_parameters(c, n, k) - 16 * c, "layer norm before it"),
            (lambda c, n, k: dat_parameters(c, n, k) - k, "for each class"),
        ],
    },
    "12.6": {
        "right": [window_work],
        "wrong": [
            (lambda *i: (window_work(*i)[0], window_work(*i)[1] // 2, window_work(*i)[2]), "two products"),
            (lambda h, w, c, n: (4 * h * w * c * c, 2 * (h * w) ** 2 * c, 8 * h * w * c * c), "not the whole map"),
            (lambda *i: (window_work(*i)[0] * 3 // 4, *window_work(*i)[1:]), "four of them"),
            (lambda *i: (*window_work(*i)[:2], window_work(*i)[0]), "the MLP has two layers"),
        ],
    },
    "12.7": {
        "right": [fits],
        "wrong": [
            (lambda p, n, w: p * 2**n * w, "n − 1 times"),
            (lambda p, n, w: 2 ** (n - 1) * w, "side/p pixels"),
            (lambda p, n, w: p * w, "the last map is smaller"),
        ],
    },
    "12.8": {
        "right": [mine],
        "wrong": [
            (lambda: mine(image=32), "image is 32, but 64"),
            (lambda: mine(classes=1000), "classes is 1000"),
            (lambda: mine(stages=mine().stages[:2]), "number of stages is 2"),
            (narrow, "but one to two million"),
            (untiled, "it cannot be built"),
            (local, "no block is deformable"),
            (lambda: mine().stages, "a Config is asked for"),
        ],
    },
    "12.9": {
        "right": [overlapping_vjp],
        "wrong": [
            (lambda *i: overlapping_vjp(*i, once=True), "do not overwrite"),
            (lambda *i: overlapping_vjp(*i, rim=1), "at the wrong side"),
            (overlapping_with(lambda dx, dW, db: (dx, dW, db / 12)), "not a mean"),
            (overlapping_with(lambda dx, dW, db: (-dx, dW, db)), "(sign?)"),
            (overlapping_with(lambda dx, dW, db: (dx, dW.swapaxes(0, 1), db)), "dW["),
            (lambda dy, *i: overlapping_vjp(np.ones_like(dy), *i), "cotangent of ones"),
        ],
    },
    "12.10": {
        "right": [lpu_vjp],
        "wrong": [
            (lambda dz, *i: (lpu_vjp(dz, *i)[0] - dz, *lpu_vjp(dz, *i)[1:]), "the straight road is missing"),
            (unturned, "half a turn"),
            (lambda dz, *i: (dz, *lpu_vjp(dz, *i)[1:]), "the straight road alone"),
            (lambda dz, *i: (lpu_vjp(dz, *i)[0], *(d / 20 for d in lpu_vjp(dz, *i)[1:])), "the mean"),
        ],
    },
    "12.11": {
        "right": [by_engine],
        "wrong": [
            (lambda *i: one_road(*i, straight=False), "the straight one is missing"),
            (lambda *i: one_road(*i, straight=True), "through the convolution is missing"),
            (lambda *i: by_engine(*i)[:3], "7 are asked for"),
            (lambda dy, *i: by_engine(np.ones_like(dy), *i), "cotangent of ones"),
        ],
    },
    "12.12": {
        "right": [dat_pp_parameters],
        "wrong": [
            (lambda *i: dat_pp_parameters(*i, lpu=False), "a local perception unit"),
            (lambda *i: dat_pp_parameters(*i, mlp=False), "4C hidden numbers"),
            (lambda *i: dat_pp_parameters(*i, group=128), "64 channels"),
            (lambda *i: dat_pp_parameters(*i, fourth="ND"), "stage 4 is D D"),
            (lambda *i: dat_pp_parameters(*i, first=False), "two convolutions and two layer norms"),
            (lambda dim, classes: dat_pp_parameters(dim, classes) + 14 * dim, "no bias"),
        ],
    },
}
