"""Answers to chapter 12: `right` ones, written otherwise than the solution; `wrong` ones, with what must be said of them."""

from dataclasses import replace

import numpy as np

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
}
