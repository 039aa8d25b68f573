"""Exercises of chapter 05: who may look where."""

import numpy as np

from minidat import ops
from minidat.attention.window import relative_index, shift_mask
from minidat.ops import neighborhood
from minidat.tutorial.contracts import Gradient, Op, Value
from minidat.tutorial.report import Exercise


def cut(x, w):
    """(H, W, C) → (n, w², C)"""
    return ops.window_partition.raw(x[None], window=w)[0][0]


def strips(x, w):
    return x.reshape(-1, w * w, x.shape[-1])


def softmax(s):
    return ops.softmax.raw(s)[0]


def windowed(q, k, v, table, index):
    return softmax(q @ k.swapaxes(1, 2) * q.shape[-1] ** -0.5 + table[index]) @ v


def windowed_gradients(dy, q, k, v, table, index):
    bias, bias_vjp = ops.take.raw(table, indices=index, axis=0)
    dqkv, dbias, _ = ops.self_attention.raw(np.concatenate([q, k, v], -1), bias, None, heads=1)[1](dy)
    return *np.split(dqkv, 3, axis=-1), *bias_vjp(dbias), dbias


def windowed_mistake(change):
    """change: the four gradients, the scores' gradient summed over windows, and the inputs → the four, one of them wrong"""
    return lambda dy, *inputs: change(*windowed_gradients(dy, *inputs), *inputs)


def table_by_assignment(dq, dk, dv, dtable, dbias, q, k, v, table, index):
    wrong = np.zeros_like(table)
    wrong[index] += dbias
    return dq, dk, dv, wrong


def without_row_term(dy, q, k, v, table, index):
    scale = q.shape[-1] ** -0.5
    p = softmax(q @ k.swapaxes(1, 2) * scale + table[index])
    ds = p * (dy @ v.swapaxes(1, 2))
    dtable = np.zeros_like(table)
    np.add.at(dtable, index, ds.sum(0))
    return scale * ds @ k, scale * ds.swapaxes(1, 2) @ q, p.swapaxes(1, 2) @ dy, dtable


def window_inputs(rng):
    w = 2
    return (*rng.standard_normal((3, 5, w * w, 3)), rng.standard_normal((2 * w - 1) ** 2), relative_index(w))


def may_look(height, width, w, shift):
    return shift_mask(height, width, w, shift)[:, 0] == 0


def one_axis(height, width, w, shift, axis):
    wrapped = (np.arange(height) >= height - shift)[:, None], np.arange(width) >= width - shift
    tokens = cut(np.broadcast_to(wrapped[axis], (height, width))[..., None], w)[..., 0]
    return tokens[:, :, None] == tokens[:, None]


def shift_inputs(rng):
    w = int(rng.integers(2, 5))
    return 2 * w, 3 * w, w, int(rng.integers(1, w))


def neighbours(n, k):
    return np.clip(np.arange(n) - k // 2, 0, n - k)[:, None] + np.arange(k)


def reduce(x, w):
    return ops.conv2d.raw(x[None], w, None, stride=len(w))[0][0]


def products(height, width, channels, reduction, w, kernel):
    n = height * width
    return tuple(2 * n * keys * channels for keys in (n, n // reduction**2, w * w, kernel * kernel))


def reach(layers):
    seen = np.eye(len(layers[0]), dtype=bool)
    for looks in layers:
        seen = looks @ seen
    return seen


def layers(rng):
    return ([np.eye(9, dtype=bool) | (rng.random((9, 9)) < 0.12) for _ in range(3)],)


def neighbourly(q, k, v, table, keys, places):
    s = np.einsum("ic,iac->ia", q, k[keys]) * q.shape[1] ** -0.5 + table[places]
    return np.einsum("ia,iac->ic", softmax(s), v[keys])


def neighbourly_gradients(dy, q, k, v, table, keys, places, *, add=np.add.at, row_term=True):
    scale = q.shape[1] ** -0.5
    p = softmax(np.einsum("ic,iac->ia", q, k[keys]) * scale + table[places])
    dp = np.einsum("ic,iac->ia", dy, v[keys])
    ds = p * (dp - (p * dp).sum(-1, keepdims=True) * row_term)
    dk, dv, dtable = np.zeros_like(k), np.zeros_like(v), np.zeros_like(table)
    add(dk, keys, scale * ds[..., None] * q[:, None])
    add(dv, keys, p[..., None] * dy[:, None])
    add(dtable, places, ds)
    return scale * np.einsum("ia,iac->ic", ds, k[keys]), dk, dv, dtable


def assign(total, index, values):
    total[index] += values


def on_a_small_map(rng):
    h, w, kernel, d = 4, 5, 3, 2
    keys, places = neighborhood.neighbours(np, h, w, kernel)
    return *rng.standard_normal((3, h * w, d)), rng.standard_normal((2 * kernel - 1) ** 2), keys, places


def middle(table, k, first=None):
    first = k - 1 - k // 2 if first is None else first
    return table[first : first + k, first : first + k]


def kernel_of(table, k, first=None):
    return softmax(middle(table, k, first).reshape(-1)).reshape(k, k)


def dilated(length, kernel, dilation, members=None):
    step, line = np.divmod(np.arange(length), dilation)
    members = (length - line + dilation - 1) // dilation if members is None else members
    first = np.clip(step - kernel // 2, 0, members - kernel)
    return (first[:, None] + np.arange(kernel)) * dilation + line[:, None]


EXERCISES = {
    "5.1": Exercise(
        Op(
            cut,
            lambda rng: (rng.standard_normal((6, 8, 3)), 2),
            names=("dx", None),
            mistakes={
                "backward, the axes must change places too": lambda dt, x, w: dt.reshape(x.shape),
            },
        ),
        [
            "`x.reshape(H // w, w, W // w, w, C)`: the axes are row of windows, row in a window, column of windows, "
            "column in a window, channel.",
            "A window's number is made of the first and the third axis, so they must stand side by side: "
            "`.swapaxes(1, 2)`. "
            "Then flatten the first two, and the next two.",
            "Backward: `dt.reshape(H // w, W // w, w, w, C).swapaxes(1, 2).reshape(x.shape)`, returned as a tuple of "
            "one.",
        ],
    ),
    "5.2": Exercise(
        Value(
            relative_index,
            lambda rng: (int(rng.integers(2, 6)),),
            names=("index",),
            mistakes={
                "that is key − query: the table is read at query − key": lambda w: relative_index(w).T,
                "a row of the table has 2w − 1 places, not w": lambda w: (
                    relative_index(w) // (2 * w - 1) * w + relative_index(w) % (2 * w - 1)
                ),
                "add w − 1 to both differences, so that they begin at 0": lambda w: (
                    relative_index(w) - relative_index(w)[0, 0]
                ),
            },
        ),
        [
            "`row, col = np.divmod(np.arange(w * w), w)` gives every token's row and column in its window.",
            "`row[:, None] - row` is (w², w²), and holds query − key. Add w − 1, and it runs from 0 to 2w − 2.",
            "Row-major in a table that is 2w − 1 wide: `(down + w - 1) * (2 * w - 1) + right + w - 1`.",
        ],
    ),
    "5.3": Exercise(
        Gradient(
            windowed,
            window_inputs,
            names=("dq", "dk", "dv", "dtable", None),
            mistakes={
                "`dtable[index] += …` keeps one of the pairs with the same displacement: use np.add.at": windowed_mistake(
                    table_by_assignment
                ),
                "the table's gradient has no factor 1/√d: the bias is added after the scale": windowed_mistake(
                    lambda dq, dk, dv, dt, db, q, k, v, t, i: (dq, dk, dv, dt * q.shape[-1] ** -0.5)
                ),
                "the factor 1/√d is missing": windowed_mistake(
                    lambda dq, dk, dv, dt, db, q, k, v, t, i: (dq * q.shape[-1] ** 0.5, dk * q.shape[-1] ** 0.5, dv, dt)
                ),
                "the softmax's row term Σ_l P_il dP_il is missing": without_row_term,
            },
        ),
        [
            "Compute P again, as `windowed` does. Then step 1: `dv`, `dp`, `ds`, three lines of chapter 03. "
            "`a.swapaxes(1, 2)` transposes each window.",
            "Step 3: `dq` is a product of `ds` and `k`, `dk` of `ds` transposed and `q`, each times 1/√d.",
            "Step 4: sum `ds` over the windows, `ds.sum(0)`, then `np.add.at(dtable, index, …)` into zeros of the "
            "table's shape.",
        ],
    ),
    "5.4": Exercise(
        Value(
            may_look,
            shift_inputs,
            names=("may_look",),
            mistakes={
                "nobody is held apart: after the roll, some tokens of a window come from opposite edges": lambda h, w, s, t: (
                    np.ones_like(may_look(h, w, s, t))
                ),
                "only rows are compared: columns are rolled too": lambda *sizes: one_axis(*sizes, axis=0),
                "only columns are compared: rows are rolled too": lambda *sizes: one_axis(*sizes, axis=1),
                "True where they may look": lambda *sizes: ~may_look(*sizes),
                "either axis is not enough: rows and columns must both agree": lambda *sizes: (
                    one_axis(*sizes, axis=0) | one_axis(*sizes, axis=1)
                ),
                "the rows that come round are the last ones, from H − shift on": lambda h, w, s, t: may_look(
                    h, w, s, s - t
                ),
            },
        ),
        [
            "Row i of the rolled map was row (i + shift) mod H. For which i does the mod do something?",
            "For i ≥ H − shift: `np.arange(H) >= H - shift`. Two tokens of a window may see each other if both have "
            "come round or neither, "
            "in rows and in columns.",
            "Give each token a number from 0 to 3 for its kind, `2 * row_wrapped[:, None] + col_wrapped`, as a map "
            "(H, W, 1), and cut that map.",
            "`tokens = partition(part[..., None], w)[..., 0]` is (n, w²); compare `tokens[:, :, None] == tokens[:, "
            "None, :]`.",
        ],
    ),
    "5.5": Exercise(
        Value(
            neighbours,
            lambda rng: (int(rng.integers(7, 11)), int(rng.choice([3, 5]))),
            names=("index",),
            mistakes={
                "clip the first of the K, not each: at the border one token would be there several times": lambda n, k: (
                    np.clip(np.arange(n)[:, None] + np.arange(k) - k // 2, 0, n - 1)
                ),
                "at the border that leaves the map: the K move inwards": lambda n, k: (
                    np.arange(n)[:, None] + np.arange(k) - k // 2
                ),
                "they do not come round on the other side, they move inwards": lambda n, k: (
                    (np.arange(n)[:, None] + np.arange(k) - k // 2) % n
                ),
            },
        ),
        [
            "Find the first neighbour of each token; the others follow it.",
            "The first is i − K // 2, but not below 0 and not above length − K: "
            "`np.clip(np.arange(length) - kernel // 2, 0, length - kernel)`.",
        ],
    ),
    "5.6": Exercise(
        Gradient(
            reduce,
            lambda rng: (rng.standard_normal((4, 6, 3)), rng.standard_normal((2, 2, 3, 5))),
            names=("dx", "dw"),
            mistakes={
                "paste the windows together: a reshape puts them side by side in strips": lambda dy, x, w: (
                    (dy.reshape(-1, w.shape[-1]) @ w.reshape(-1, w.shape[-1]).T).reshape(x.shape),
                    ops.conv2d.raw(x[None], w, None, stride=len(w))[1](dy[None])[1],
                ),
            },
        ),
        [
            "Forward again: `squares`, of shape (n, R²·C). The product is Y = S W with W of shape (R²·C, D). Exercise "
            "1.3 has its vjp.",
            "`dy.reshape(n, D) @ W.T` is the gradient of `squares`; `squares.T @ dy.reshape(n, D)` that of W. Give dw "
            "the shape of w.",
            "The gradient of `squares` is still cut: reshape it to (n, R², C) and `paste` it.",
        ],
    ),
    "5.7": Exercise(
        Value(
            products,
            lambda rng: (24, 16, int(rng.integers(5, 9)), 4, 8, 7),
            names=("everyone", "coarser", "windows", "neighbours"),
            mistakes={
                "there are two products, q·k and P·v": lambda *sizes: tuple(n // 2 for n in products(*sizes)),
                "the map is coarser along both sides: R² fewer keys": lambda h, w, c, r, s, k: (
                    products(h, w, c, r, s, k)[0],
                    2 * (h * w) ** 2 // r * c,
                    *products(h, w, c, r, s, k)[2:],
                ),
            },
        ),
        [
            "The number of pairs is the number of queries times the number of keys of each. Queries are H·W in all "
            "four.",
            "Keys: H·W; H·W / R²; w²; k². Times 2, for the two products, times the channels.",
        ],
    ),
    "5.8": Exercise(
        Value(
            reach,
            layers,
            names=("reach",),
            mistakes={
                "the last block stands on the left of the product": lambda layers: reach(layers[::-1]),
                "that counts the ways: ask whether there is one": lambda layers: (
                    layers[2].astype(int) @ layers[1].astype(int) @ layers[0].astype(int)
                ),
                "those are tokens that one block sees: go through those in between": lambda layers: (
                    layers[0] | layers[1] | layers[2]
                ),
            },
        ),
        [
            "Start from what a token knows before any block: itself, `np.eye(N, dtype=bool)`.",
            "If `seen` is (N, N) after some blocks, then after one more it is `looks @ seen`: i looks at l, and l has "
            "seen j.",
            "For arrays of True and False NumPy's `@` gives True and False. With integers it counts ways; then ask `> "
            "0`.",
        ],
    ),
    "5.9": Exercise(
        Gradient(
            neighbourly,
            on_a_small_map,
            names=("dq", "dk", "dv", "dtable", None, None),
            mistakes={
                "`total[index] += …` keeps one of those with the same index: use np.add.at": lambda *a: (
                    neighbourly_gradients(*a, add=assign)
                ),
                "the softmax's row term Σ_a P dP is missing": lambda *a: neighbourly_gradients(*a, row_term=False),
                "the factor λ = 1/√d is missing": lambda dy, q, *rest: tuple(
                    d * f for d, f in zip(neighbourly_gradients(dy, q, *rest), (q.shape[1] ** 0.5,) * 2 + (1, 1))
                ),
            },
        ),
        [
            "Gather first: `k[keys]` and `v[keys]` are (N, K², d). Compute P again, as `neighbourly` does, and step 1 of it: "
            "`np.einsum('ic,iac->ia', dy, v[keys])` is dP.",
            "The gradient of the copied keys is `scale * ds[..., None] * q[:, None]`, (N, K², d); that of the copied values "
            "`p[..., None] * dy[:, None]`.",
            "Step 2: `np.add.at(dk, keys, …)` into zeros of k's shape; likewise dv, and `np.add.at(dtable, places, ds)`.",
        ],
    ),
    "5.10": Exercise(
        Value(
            kernel_of,
            lambda rng: (rng.standard_normal((9, 9)), 5),
            names=("w",),
            mistakes={
                "displacement 0 is in the middle of the table": lambda table, k: kernel_of(table, k, 0),
                "one softmax over all K² neighbours, not one a row": lambda table, k: softmax(middle(table, k)),
                "the bias is a score: its softmax is the weight": lambda table, k: middle(table, k),
                "the table is read at key − query, as the kernel is: nothing is turned": lambda table, k: kernel_of(
                    table, k
                )[::-1, ::-1],
            },
        ),
        [
            "With q = 0 the score of every pair is b, the table's number for its displacement. What is left of P?",
            "Far from the border the displacements run from −h to h, h = K // 2. Displacement 0 is at place K − 1 of each axis.",
            "Cut the K × K places around the middle out of the table, and take one softmax over all of them: flatten, softmax, "
            "`reshape(K, K)`.",
        ],
    ),
    "5.11": Exercise(
        Value(
            lambda blocks, w, kernel: (blocks * w, blocks * (kernel - 1) + 1),
            lambda rng: (int(rng.integers(1, 7)), 2 * int(rng.integers(1, 6)), 2 * int(rng.integers(1, 5)) + 1),
            names=("windows", "neighbours"),
            mistakes={
                "half a window is added on either side, so a whole one": lambda blocks, w, kernel: (
                    w + (blocks - 1) * w / 2,
                    blocks * (kernel - 1) + 1,
                ),
                "the query itself is counted once, not once a block": lambda blocks, w, kernel: (
                    blocks * w,
                    blocks * kernel,
                ),
            },
        ),
        [
            "Neighbours: one block sees ⌊K/2⌋ tokens to each side. What does one more block add on each side?",
            "Windows: what is seen after some blocks is a row of whole windows of the *first* block. Draw two blocks, then "
            "three: with w = 4 the picture has 4 and 8.",
        ],
    ),
    "5.12": Exercise(
        Value(
            dilated,
            lambda rng: (int(rng.integers(15, 20)), int(rng.choice([3, 5])), int(rng.integers(2, 4))),
            names=("index",),
            mistakes={
                "the lines are not equally long when dilation does not divide the length": lambda length, kernel, dilation: (
                    dilated(length, kernel, dilation, length // dilation)
                ),
                "at the border that leaves the map": lambda length, kernel, dilation: (
                    np.arange(length)[:, None] + (np.arange(kernel) - kernel // 2) * dilation
                ),
                "clip the first of a line, not each": lambda length, kernel, dilation: np.clip(
                    np.arange(length)[:, None] + (np.arange(kernel) - kernel // 2) * dilation, 0, length - 1
                ),
            },
        ),
        [
            "Tokens whose numbers leave the same remainder by `dilation` form a line. "
            "`step, line = np.divmod(np.arange(length), dilation)`.",
            "How many tokens has a line? `(length - line + dilation - 1) // dilation`. Within it, do what 5.5 does.",
            "The m-th token of a line is number `m * dilation + line`.",
        ],
    ),
}
