"""Answers to chapter 07: `right` ones, written otherwise than the solution; `wrong` ones, with what must be said of them."""

import numpy as np

from minidat import Tensor, ops

TAPS = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij"), -1).reshape(9, 2)


def read(z, points):
    y, vjp = ops.bilinear_sample.raw(z[None], points[None, None])
    return y[0], lambda dy: tuple(d.reshape(like.shape) for d, like in zip(vjp(dy[None]), (z, points)))


def deformable_loops(dy, x, offsets, modulation, w):
    """One output pixel and one tap at a time."""
    dx, doffsets, dm, dw = (np.zeros(a.shape) for a in (x, offsets, modulation, w))
    for i, j, n in np.ndindex(*modulation.shape):
        point = np.array([i, j]) + TAPS[n] + offsets[i, j, n]
        found, vjp = read(x, point[None])
        asked = w[n] @ dy[i, j]
        dw[n] += modulation[i, j, n] * np.outer(found[0], dy[i, j])
        dm[i, j, n] = found[0] @ asked
        added, dpoint = vjp(modulation[i, j, n] * asked[None])
        dx += added
        doffsets[i, j, n] = dpoint[0]
    return dx, doffsets, dm, dw


def deformable_with(change):
    return lambda dy, *inputs: change(*deformable_loops(dy, *inputs))


def without_m(dy, x, offsets, m, w):
    dx, doffsets, _, _ = deformable_loops(dy, x, offsets, np.ones(m.shape), w)
    return dx, doffsets, *deformable_loops(dy, x, offsets, m, w)[2:]


def dw_without_m(dy, x, offsets, m, w):
    return *deformable_loops(dy, x, offsets, m, w)[:3], deformable_loops(dy, x, offsets, np.ones(m.shape), w)[3]


def follow(x, target, offset, rate, steps, sign=-1, size=None):
    n = x.size if size is None else size
    for _ in range(steps):
        total = np.zeros(2)
        for i, j in np.ndindex(*x.shape[:2]):
            y, vjp = read(x, np.array([[i, j]]) + offset)
            total += vjp((y - target[i, j]) / n)[1][0]
        offset = offset + sign * rate * total
    return offset


def follow_in_place(x, target, offset, rate, steps):
    offset -= rate
    return offset


def to_centres(p, h, w):
    s = np.array([h, w])
    return (2 * p - 1) * s / (s - 1)


def detr_loops(dy, v, locations, weights):
    dv, dlocations, dweights = np.zeros(v.shape), np.zeros(locations.shape), np.zeros(weights.shape)
    h, w = v.shape[:2]
    for q, k in np.ndindex(*weights.shape):
        found, vjp = read(v, (locations[q, k] * [h, w] - 0.5)[None])
        dweights[q, k] = found[0] @ dy[q]
        added, dpoint = vjp(weights[q, k] * dy[q][None])
        dv += added
        dlocations[q, k] = dpoint[0] * [h, w]
    return dv, dlocations, dweights


def detr_with(change):
    return lambda dy, v, locations, weights: change(*detr_loops(dy, v, locations, weights), np.array(v.shape[:2]))


def reads(h, w, c, kernel, points, keys):
    return h * w * c * kernel * kernel, h * w * c * points, c * keys, h * w * keys * c * 2


def shared(q, x, points, wk, wv, scale=True):
    y = np.zeros((len(q), wv.shape[1]))
    found = np.stack([read(x, p[None])[0][0] for p in points])
    for i in range(len(q)):
        s = np.array([q[i] @ (f @ wk) for f in found])
        p = np.exp(s / np.sqrt(q.shape[1]) if scale else s)
        y[i] = sum(a * (f @ wv) for a, f in zip(p / p.sum(), found))
    return y


def layer_vjp(dy, *arrays, blind=()):
    """By the engine: the sum over the ways to x is its own."""
    x, w, w_offset, b_offset, w_mod, b_mod = (Tensor(a, requires_grad=True) for a in arrays)
    h, width, _ = x.shape
    batch = x.reshape(1, *x.shape)
    where, how_much = (batch.detach() if part in blind else batch for part in ("offsets", "modulation"))
    offsets = ops.conv2d(where, w_offset, b_offset, padding=1).reshape(1, h, width, 1, 9, 2)
    logits = ops.conv2d(how_much, w_mod, b_mod, padding=1).reshape(1, h, width, 1, 9)
    y = ops.deformable_conv(batch, offsets, ops.sigmoid(logits), w.reshape(3, 3, *w.shape[1:]), None, padding=1)
    y.backward(dy[None])
    return [t.grad for t in (x, w, w_offset, b_offset, w_mod, b_mod)]


def whole_vjp(dy, *arrays):
    """By the engine."""
    t = [Tensor(a, requires_grad=True) for a in arrays]
    z, reference, x1, x2, w_value, w_offset, b_offset, w_weigh, b_weigh, w_out = t
    (q, c), (m, levels, k) = z.shape, b_weigh.shape
    offsets = (z @ w_offset.reshape(c, -1) + b_offset.reshape(-1)).reshape(1, q, m, levels, k, 2)
    a = (z @ w_weigh.reshape(c, -1) + b_weigh.reshape(-1)).reshape(1, q, m, -1)
    weights = ops.softmax(a).reshape(1, q, m, levels, k)
    sizes = x1.shape[:2], x2.shape[:2]
    locations = offsets * Tensor(1 / np.array(sizes, float)[:, None]) + reference.reshape(1, q, 1, 1, 1, 2)
    values = ops.concatenate(x1.reshape(1, -1, c), x2.reshape(1, -1, c), axis=1) @ w_value
    y = ops.multiscale_deformable_attention(values, locations, weights, sizes=sizes) @ w_out
    y.backward(dy[None])
    return [one.grad for one in t]


def reference_loops(dpoints, sizes):
    total = np.zeros((len(dpoints), 2))
    for i, m, level, j in np.ndindex(*dpoints.shape[:4]):
        total[i] += dpoints[i, m, level, j] * sizes[level]
    return total


ANSWERS = {
    "7.1": {
        "right": [lambda d: np.array([(d * i - i, d * j - j) for i in (-1, 0, 1) for j in (-1, 0, 1)])],
        "wrong": [
            (lambda d: d * TAPS, "an offset is what is added"),
            (lambda d: (1 - d) * TAPS, "the other way"),
            (lambda d: ((d - 1) * TAPS)[:, ::-1], "row and col swapped?"),
            (lambda d: ((d - 1) * TAPS).T, "transposed?"),
        ],
    },
    "7.2": {
        "right": [deformable_loops],
        "wrong": [
            (without_m, "m is missing"),
            (dw_without_m, "dw is made of m · f"),
            (deformable_with(lambda dx, do, dm, dw: (dx, -do, dm, dw)), "(sign?)"),
            (deformable_with(lambda dx, do, dm, dw: (dx, do[..., ::-1], dm, dw)), "(row and col swapped?)"),
            (deformable_with(lambda dx, do, dm, dw: (dx, do, dm, dw.swapaxes(1, 2))), "dw has shape (9, 3, 2)"),
            (deformable_with(lambda dx, do, dm, dw: (dx, do, 0 * dm, dw)), "is a term missing?"),
            (deformable_with(lambda dx, do, dm, dw: (dx, do, dm, None)), "dw is None: not done yet"),
            (lambda dy, *rest: deformable_loops(np.ones(dy.shape), *rest), "cotangent of ones"),
        ],
    },
    "7.3": {
        "right": [follow],
        "wrong": [
            (lambda *a: follow(*a, sign=1), "subtract the gradient"),
            (lambda *a: follow(*a, size=1), "1/N is missing"),
            (lambda *a: follow(*a, size=a[0].size ** 2), "summed"),
            (lambda x, t, o, rate, steps: o + steps * (follow(x, t, o, rate, 1) - o), "gradient of the start"),
            (lambda x, t, o, rate, steps: follow(x, t, o[::-1], rate, steps)[::-1], "offset["),
            (follow_in_place, "it writes to its argument 2"),
        ],
    },
    "7.4": {
        "right": [to_centres],
        "wrong": [
            (lambda p, h, w: 2 * p - 1, "from edge to edge still"),
            (lambda p, h, w: to_centres(p, w, h), "rows go with the height"),
            (lambda p, h, w: 2 * (p * [h, w] - 0.5) / [h, w] - 1, "S − 1 apart"),
            (lambda p, h, w: 2 * p * [h, w] / (np.array([h, w]) - 1) - 1, "half a pixel is missing"),
        ],
    },
    "7.5": {
        "right": [detr_loops],
        "wrong": [
            (detr_with(lambda dv, dl, da, size: (dv, dl / size, da)), "gradient in pixels"),
            (detr_with(lambda dv, dl, da, size: (dv, dl / size * size[::-1], da)), "columns by W"),
            (detr_with(lambda dv, dl, da, size: (dv, dl / size * (size - 1), da)), "not S − 1"),
            (detr_with(lambda dv, dl, da, size: (dv, dl[..., ::-1], da)), "(row and col swapped?)"),
            (detr_with(lambda dv, dl, da, size: (-dv, dl, da)), "(sign?)"),
            (detr_with(lambda dv, dl, da, size: (dv, dl, 0 * da)), "is a term missing?"),
            (detr_with(lambda dv, dl, da, size: (dv, dl)), "2 results, but 3 are asked for"),
            (lambda dy, *rest: detr_loops(np.ones(dy.shape), *rest), "cotangent of ones"),
        ],
    },
    "7.6": {
        "right": [reads],
        "wrong": [
            (lambda h, w, c, k, p, n: (*reads(h, w, c, k, p, n)[:2], h * w * n * c, 0), "read once"),
            (lambda h, w, c, k, p, n: (*reads(h, w, c, k, p, n)[:3], h * w * n * c), "there are two products"),
            (lambda h, w, c, k, p, n: (h * w * c * k, *reads(h, w, c, k, p, n)[1:]), "k² taps"),
        ],
    },
    "7.7": {
        "right": [shared],
        "wrong": [
            (lambda *a: shared(*a, scale=False), "scale 1/√d"),
            (lambda q, x, p, wk, wv: shared(q, x, p, wv, wk), "keys are made by wk"),
            (lambda q, x, p, wk, wv: shared(q, x, p[:, ::-1], wk, wv), "(row, col)"),
            (lambda q, x, p, wk, wv: shared(q * np.sqrt(2 / 3), x, p, wk, wv), "not those of the map"),
            (lambda *a: shared(*a).T, "transposed?"),
        ],
    },
    "7.8": {
        "right": [layer_vjp],
        "wrong": [
            (lambda *a: layer_vjp(*a, blind=("offsets",)), "the way through the offsets is missing"),
            (lambda *a: layer_vjp(*a, blind=("modulation",)), "the way through m is missing"),
            (lambda *a: layer_vjp(*a, blind=("offsets", "modulation")), "only one of the three ways"),
            (lambda *a: [*layer_vjp(*a)[:4], -layer_vjp(*a)[4], layer_vjp(*a)[5]], "(sign?)"),
            (lambda *a: layer_vjp(*a)[:5], "5 results, but 6 are asked for"),
            (lambda dy, *a: layer_vjp(np.ones_like(dy), *a), "cotangent of ones"),
        ],
    },
    "7.9": {
        "right": [reference_loops],
        "wrong": [
            (lambda d, s: d.sum((1, 2, 3)), "that is in pixels"),
            (lambda d, s: reference_loops(d, 1 / s), "this divides"),
            (lambda d, s: reference_loops(d, s[:, ::-1]), "rows go with H_l"),
            (lambda d, s: reference_loops(d, s) / 24, "not averaged"),
        ],
    },
    "7.10": {
        "right": [whole_vjp],
        "wrong": [
            (lambda dy, *a: [whole_vjp(dy, *a)[0] * 2, *whole_vjp(dy, *a)[1:]], "× 2: a factor?"),
            (lambda dy, *a: [*whole_vjp(dy, *a)[:9], whole_vjp(dy, *a)[9].T], "transposed?"),
            (lambda dy, *a: whole_vjp(np.ones_like(dy), *a), "cotangent of ones"),
            (lambda dy, *a: whole_vjp(dy, *a)[:9], "9 results, but 10 are asked for"),
        ],
    },
}
