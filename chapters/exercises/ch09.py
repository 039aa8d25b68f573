"""Exercises of chapter 09: deformable attention, whole."""

import numpy as np

from minidat import ops
from minidat.attention.grids import grid
from minidat.ops.heads import merge_heads, split_heads
from minidat.tutorial.contracts import Behaviour, Gradient, Value, Wrong, call, results
from minidat.tutorial.diagnosis import difference, distance
from minidat.tutorial.report import Exercise

H, W, C, M, G, N = 3, 4, 6, 2, 2, 5
NAMES = ("dx", "dw_q", "dw", "db", "dgamma", "dbeta", "dw2", "dw_k", "dw_v", "dtable", "dw_o")


def attend(q, sampled, w_k, w_v, bias, *, scale=None, before=False):
    """before: the mistake of adding the bias before scaling"""
    q, k, v = (split_heads(t, len(bias)) for t in (q, sampled @ w_k, sampled @ w_v))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return merge_heads(ops.attention.raw(q, k, v, bias * scale if before else bias, None, scale=scale)[0])


def an_attention(rng):
    shapes = ((H * W, C), (N, C), (C, C), (C, C), (M, H * W, N))
    return tuple(rng.standard_normal(shape) for shape in shapes)


def keys_and_values(sampled, w_k, w_v):
    return np.concatenate([sampled @ w_k, sampled @ w_v], -1)


def one_branch(which):
    """The mistake of taking only the gradient of the keys (0) or of the values (1)."""

    def vjp(dkv, sampled, w_k, w_v):
        dk, dv = np.split(dkv, 2, -1)
        return (dk @ w_k.T, dv @ w_v.T)[which], sampled.T @ dk, sampled.T @ dv

    return vjp


def not_transposed(dkv, sampled, w_k, w_v):
    dk, dv = np.split(dkv, 2, -1)
    return dk @ w_k + dv @ w_v, sampled.T @ dk, sampled.T @ dv


def parts(x, w_q, w, b, gamma, beta, w2, w_k, w_v, table, w_o):
    (batch, h, width, c), heads, back = x.shape, len(table), {}
    axes = np.meshgrid(grid(h, "corner"), grid(width, "corner"), indexing="ij")
    reference, reach = np.stack(axes, -1).reshape(-1, 2), (2 / (h - 1), 2 / (width - 1))
    q, back["query"] = ops.linear.raw(x, w_q, None)
    offsets, back["offsets"] = ops.offset_network.raw(q, w, b, gamma, beta, w2, stride=1)
    points, back["points"] = ops.deformed_points.raw(offsets, reference, limit="tanh", amplitude=reach, size=(h, width))
    sampled, back["sample"] = ops.bilinear_sample.raw(x, points)
    k, back["key"] = ops.linear.raw(sampled, w_k, None)
    v, back["value"] = ops.linear.raw(sampled, w_v, None)
    bias, back["bias"] = ops.position_bias.raw(table, points, np.arange(h) + 0.0, np.arange(width) + 0.0)
    by_head = [split_heads(t, heads) for t in (q.reshape(batch, h * width, c), k, v)]
    z, back["attention"] = ops.attention.raw(*by_head, bias, None, scale=(c // heads) ** -0.5)
    y, back["out"] = ops.linear.raw(merge_heads(z).reshape(x.shape), w_o, None)
    return y, back, points


def forward(*arrays):
    return parts(*arrays)[0]


def backward(dy, *arrays, cut=None):
    """The gradients; cut: a branch that is forgotten."""

    def keep(branch, gradient):
        return 0 * gradient if branch == cut else gradient

    x, table = arrays[0], arrays[-2]
    batch, h, w, c = x.shape
    _, back, _ = parts(*arrays)
    dz, dw_o, _ = back["out"](dy)
    dq, dk, dv, dbias, _ = back["attention"](split_heads(dz.reshape(batch, h * w, c), len(table)))
    dtable, dp_bias, *_ = back["bias"](dbias)
    (from_k, dw_k, _), (from_v, dw_v, _) = back["key"](merge_heads(dk)), back["value"](merge_heads(dv))
    dx_read, dp_read = back["sample"](keep("keys", from_k) + keep("values", from_v))
    doffsets, _ = back["points"](keep("bias", dp_bias) + keep("read", dp_read))
    dq_offsets, *dtheta = back["offsets"](doffsets)
    dq = keep("attend", merge_heads(dq).reshape(x.shape)) + keep("point", dq_offsets)
    dx_query, dw_q, _ = back["query"](dq)
    return keep("map", dx_read) + keep("queries", dx_query), dw_q, *dtheta, dw_k, dw_v, dtable, dw_o


FORGOTTEN = {
    "keys": "dsampled comes from the keys too",
    "values": "dsampled comes from the values too",
    "bias": "the points get a gradient from the bias too",
    "read": "the points get a gradient from what is read too",
    "attend": "the queries get a gradient from the attention too",
    "point": "the queries get a gradient from the offset network too",
    "map": "x gets a gradient as the map that is read, too",
    "queries": "x gets a gradient through the queries, too",
}


def a_module(rng):
    """Inputs with no point, and so no displacement, near a whole number."""
    e = C // G
    shapes = [
        (1, H, W, C), (C, C), (3, 3, e), (e,), (e,), (e,), (e, 2), (C, C), (C, C), (M, 2 * H - 1, 2 * W - 1), (C, C)
    ]  # fmt: skip
    while True:
        arrays = [rng.standard_normal(shape) / (2 if len(shape) == 2 else 1) for shape in shapes]
        points = parts(*arrays)[2]
        if abs(points - np.round(points)).min() > 1e-3:
            return tuple(arrays)


def with_key_bias(b_k, q, k, v):
    return ops.attention.raw(q, k + b_k, v, None, None, scale=q.shape[-1] ** -0.5)[0]


def block_diagonal(w, groups, group=None):
    each = len(w) // groups
    group = np.arange(len(w)) // each if group is None else group
    return w * (group[:, None] == group)


def switches_off(answer):
    """Runs deformable attention with the two arrays, and compares it with plain attention."""
    worst = 0.0
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x, w_q, w, b, gamma, beta, w2, w_k, w_v, table, w_o = a_module(rng)
        w2_given, table_given = results(
            call(answer, (len(gamma), table.shape, np.random.default_rng(seed))), ("w2", "table")
        )
        for name, given, like in (("w2", w2_given, w2), ("table", table_given, table)):
            if np.shape(given) != like.shape:
                raise Wrong(f"{name} has shape {np.shape(given)}, but {like.shape} is asked for")
        if not np.all(table_given):
            raise Wrong("the table has a 0 in it: find one that has none")
        if np.any(w2_given):
            raise Wrong("w2 is not zero, so the points leave the pixels")
        table_given = np.asarray(table_given, np.float64)
        y = forward(x, w_q, w, b, gamma, beta, np.zeros(w2.shape), w_k, w_v, table_given, w_o)
        qkv = x.reshape(1, H * W, C) @ np.concatenate([w_q, w_k, w_v], 1)
        plain = (ops.self_attention.raw(qkv, None, None, heads=M)[0] @ w_o).reshape(y.shape)
        finding = difference("y", y, plain, against="plain attention", tolerance=1e-9)
        if finding:
            raise Wrong(finding)
        worst = max(worst, float(distance(y, plain).max()))
    return worst


def by_rows(q, k, v, table, points):
    heads, h, w, d = q.shape
    bias = ops.position_bias.raw(table, points[None, None], np.arange(h) + 0.0, np.arange(w) + 0.0)[0][0]
    return ops.attention.raw(q.reshape(heads, h * w, d), k, v, bias, None, scale=d**-0.5)[0].reshape(q.shape)


def heads_and_points(rng):
    d = 2
    shapes = ((M, H, W, d), (M, N, d), (M, N, d), (M, 2 * H - 1, 2 * W - 1))
    return *(rng.standard_normal(shape) for shape in shapes), rng.uniform(0, 2, (N, 2))


EXERCISES = {
    "9.1": Exercise(
        Value(
            attend,
            an_attention,
            names=("z",),
            mistakes={
                "the scores are divided by √d, with d the channels of a head": lambda *a: attend(*a, scale=C**-0.5),
                "the scores are not divided by √d": lambda *a: attend(*a, scale=1.0),
                "the bias is added after dividing by √d": lambda *a: attend(*a, before=True),
                "the bias is missing": lambda q, s, k, v, bias: attend(q, s, k, v, 0 * bias),
                "keys and values are exchanged": lambda q, s, k, v, bias: attend(q, s, v, k, bias),
            },
        ),
        [
            "`sampled @ w_k` are the keys, `sampled @ w_v` the values. Cut q, k and v into heads: `split_heads(…, len(bias))`.",
            "The scores of all heads at once: `q @ k.swapaxes(-1, -2)`, (M, HW, N). Divide by √d, then add the bias.",
            "`merge_heads(ops.softmax.raw(scores)[0] @ v)`.",
        ],
    ),
    "9.2": Exercise(
        Gradient(
            keys_and_values,
            lambda rng: tuple(rng.standard_normal(shape) for shape in ((N, 3), (3, 3), (3, 3))),
            names=("dsampled", "dw_k", "dw_v"),
            mistakes={
                "the branch of the values is missing": one_branch(0),
                "the branch of the keys is missing": one_branch(1),
                "back through `sampled @ w` one multiplies by w transposed": not_transposed,
            },
        ),
        [
            "`dk, dv = np.split(dkv, 2, -1)`. What is read was used twice: dsampled is a sum of two terms.",
            "The box of step 5: `dk @ w_k.T + dv @ w_v.T`.",
            "`sampled.T @ dk` is dw_k.",
        ],
    ),
    "9.3": Exercise(
        Gradient(
            forward,
            a_module,
            names=NAMES,
            mistakes={text: (lambda dy, *a, cut=cut: backward(dy, *a, cut=cut)) for cut, text in FORGOTTEN.items()},
        ),
        [
            "Begin with `_, back = forward(x, w_q, …)` and `dz, dw_o, _ = back['out'](dy)`. Then dz must be cut into heads: "
            "`split_heads(dz.reshape(batch, h * width, c), len(table))`.",
            "dq, dk and dv come as heads. `merge_heads(dk)` is (B, N, C), and `merge_heads(dq).reshape(x.shape)` a map.",
            "Four sums: dsampled (keys, values), dpoints (bias, sample), dq (attention, offsets), dx (sample, query).",
            "`dq_offsets, *dtheta = back['offsets'](doffsets)`, and in the end "
            "`return dx_read + dx_query, dw_q, *dtheta, dw_k, dw_v, dtable, dw_o`.",
        ],
    ),
    "9.4": Exercise(
        Gradient(
            with_key_bias,
            lambda rng: (rng.standard_normal(3), *(rng.standard_normal((n, 3)) for n in (4, N, N))),
            names=("db_k", None, None, None),
            mistakes={
                "that is Σ dv, the gradient of the values' bias": lambda dy, b, q, k, v: ops.attention.raw(
                    q, k + b, v, None, None, scale=3**-0.5
                )[1](dy)[2].sum(0),
                "that is Σ dq, the gradient of the queries' bias": lambda dy, b, q, k, v: ops.attention.raw(
                    q, k + b, v, None, None, scale=3**-0.5
                )[1](dy)[0].sum(0),
            },
        ),
        [
            "The score of query i and key n is q_i · (k_n + b_k)/√d. Write it as two terms. Does the second depend on n?",
            "It is the same for all keys of a query. What does softmax do with a number that is added to all?",
            "Nothing. So b_k has no influence on y at all.",
        ],
    ),
    "9.5": Exercise(
        Value(
            block_diagonal,
            lambda rng: (rng.standard_normal((12, 12)), int(rng.integers(2, 4))),
            names=("w",),
            mistakes={
                "the blocks are C/G × C/G, and there are G of them": lambda w, groups: block_diagonal(
                    w, len(w) // groups
                ),
                "channels of a group lie side by side: channel c is in group c // (C/G)": lambda w, groups: (
                    block_diagonal(w, groups, np.arange(len(w)) % groups)
                ),
            },
        ),
        [
            "To which group does channel c belong? c // (C/G). Make the array of all of them.",
            "w[c, e] stays where `group[c] == group[e]`: compare `group[:, None]` with `group`, and multiply.",
        ],
    ),
    "9.6": Exercise(
        Behaviour(switches_off),
        [
            "What may be added to all scores of a query without changing the softmax? (Exercise 9.4.)",
            "A table that holds the same number everywhere adds this number to every score. It may be another one for each head.",
            "`np.zeros((e, 2)), np.ones(table_shape)`.",
        ],
    ),
    "9.7": Exercise(
        Value(
            by_rows,
            heads_and_points,
            names=("z",),
            mistakes={
                "all rows use the bias of row 0": lambda q, k, v, table, points: np.concatenate(
                    [
                        ops.attention.raw(
                            q[:, i],
                            k,
                            v,
                            ops.position_bias.raw(table, points[None, None], np.zeros(1), np.arange(W) + 0.0)[0][0],
                            None,
                            scale=q.shape[-1] ** -0.5,
                        )[0][:, None]
                        for i in range(q.shape[1])
                    ],
                    1,
                ),
                "the scores are not divided by √d": lambda q, k, v, table, points: by_rows(
                    q * q.shape[-1] ** 0.5, k, v, table, points
                ),
            },
        ),
        [
            "Loop over the rows i. `q[:, i]` is (M, W, d): scores, softmax and values are as always.",
            "`ops.position_bias.raw(table, points[None, None], rows, cols)[0][0]` with the rows of one row only.",
            "`rows = np.array([float(i)])`, `cols = np.arange(w)`; the result is (M, W, N).",
        ],
    ),
}
