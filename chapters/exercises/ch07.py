"""Exercises of chapter 07: deformable convolution and Deformable DETR."""

from itertools import product

import numpy as np

from minidat import ops
from minidat.tutorial.contracts import Gradient, Value
from minidat.tutorial.report import Exercise

TAPS = np.array(list(product((-1, 0, 1), repeat=2)))


def read(z, points):
    """φ(z; points) and its vjp: (H, W, C), (N, 2) → (N, C)"""
    y, vjp = ops.bilinear_sample.raw(z[None], points[None, None])
    return y[0], lambda dy: tuple(d.reshape(like.shape) for d, like in zip(vjp(dy[None]), (z, points)))


def _convolution(x, offsets, modulation, w):
    arrays = x[None], offsets[None, :, :, None], modulation[None, :, :, None], w.reshape(3, 3, *w.shape[1:])
    return ops.deformable_conv.raw(*arrays, None, padding=1)


def convolve(x, offsets, modulation, w):
    return _convolution(x, offsets, modulation, w)[0][0]


def convolve_gradients(dy, x, offsets, modulation, w):
    gradients = _convolution(x, offsets, modulation, w)[1](dy[None])
    return tuple(d.reshape(like.shape) for d, like in zip(gradients, (x, offsets, modulation, w)))


def without_modulation(dy, x, offsets, modulation, w):
    """The gradient of what was found is asked for without m."""
    dx, doffsets, _, _ = convolve_gradients(dy, x, offsets, np.ones_like(modulation), w)
    return dx, doffsets, *convolve_gradients(dy, x, offsets, modulation, w)[2:]


def between(rng, shape):
    """Offsets away from the kinks, up to two pixels."""
    return rng.integers(-2, 2, shape) + rng.uniform(0.1, 0.9, shape)


def convolution_inputs(rng):
    h, w, c, d = 2, 3, 2, 3
    return (
        rng.standard_normal((h, w, c)),
        between(rng, (h, w, 9, 2)),
        rng.uniform(0.2, 1, (h, w, 9)),
        rng.standard_normal((9, c, d)),
    )


def follow(x, target, offset, rate, steps):
    centres = np.indices(x.shape[:2]).reshape(2, -1).T  # (H·W, 2)
    for _ in range(steps):
        y, vjp = read(x, centres + offset)
        offset = offset - rate * vjp((y - target.reshape(-1, 1)) / len(y))[1].sum(0)
    return offset


def follow_inputs(rng):
    return rng.standard_normal((5, 7, 1)), rng.standard_normal((5, 7, 1)), rng.uniform(-1, 1, 2), 0.4, 6


def edges_to_centres(locations, height, width):
    size = np.array([height, width])
    return 2 * (locations * size - 0.5) / (size - 1) - 1


def detr(values, locations, weights):
    y = read(values, (locations * values.shape[:2] - 0.5).reshape(-1, 2))[0]
    return (weights[..., None] * y.reshape(*weights.shape, -1)).sum(1)


def detr_gradients(dy, values, locations, weights):
    h, w, d = values.shape
    arrays = values.reshape(1, h * w, d), locations[None, :, None, None], weights[None, :, None, None]
    gradients = ops.multiscale_deformable_attention.raw(*arrays, sizes=((h, w),))[1](dy[None])
    return tuple(g.reshape(like.shape) for g, like in zip(gradients, (values, locations, weights)))


def detr_with(change):
    """A mistake in the gradient of the locations: change(dlocations, (H, W))"""

    def gradients(dy, values, locations, weights):
        dvalues, dlocations, dweights = detr_gradients(dy, values, locations, weights)
        return dvalues, change(dlocations, np.array(values.shape[:2])), dweights

    return gradients


def detr_inputs(rng):
    h, w, q, k = 4, 5, 3, 2
    return rng.standard_normal((h, w, 3)), (between(rng, (q, k, 2)) + 2.5) / [h, w], rng.uniform(0.2, 1, (q, k))


def reads(height, width, channels, kernel, points, keys):
    n = height * width
    return n * kernel**2 * channels, n * points * channels, keys * channels, 2 * n * keys * channels


def shared_keys(q, x, points, wk, wv):
    sampled = read(x, points)[0]
    return ops.attention.raw(q, sampled @ wk, sampled @ wv, None, None, scale=q.shape[1] ** -0.5)[0]


def shared_inputs(rng):
    return (
        rng.standard_normal((6, 2)),
        rng.standard_normal((4, 5, 3)),
        rng.uniform(-0.5, 4.5, (7, 2)),
        *rng.standard_normal((2, 3, 2)),
    )


def conv3(x, w, b):
    y, vjp = ops.conv2d.raw(x[None], w, b, padding=1)

    def back(dy):
        dx, dw, db = vjp(dy[None])
        return dx[0], dw, db

    return y[0], back


def layer_parts(x, w, w_offset, b_offset, w_mod, b_mod):
    offsets, offset_back = conv3(x, w_offset, b_offset)
    a, mod_back = conv3(x, w_mod, b_mod)
    m = 1 / (1 + np.exp(-a))
    return offsets.reshape(*a.shape, 2), offset_back, m, mod_back


def layer(*arrays):
    offsets, _, m, _ = layer_parts(*arrays)
    return convolve(arrays[0], offsets, m, arrays[1])


def layer_gradients(dy, *arrays, read=1, move=1, weigh=1, slope=True):
    """read, move, weigh: 0 to forget that way to x; slope: whether sigmoid's slope is in it"""
    offsets, offset_back, m, mod_back = layer_parts(*arrays)
    dx, doffsets, dm, dw = convolve_gradients(dy, arrays[0], offsets, m, arrays[1])
    dx_offset, dw_offset, db_offset = offset_back(doffsets.reshape(*m.shape[:2], -1))
    dx_mod, dw_mod, db_mod = mod_back(dm * (m * (1 - m) if slope else 1))
    return read * dx + move * dx_offset + weigh * dx_mod, dw, dw_offset, db_offset, dw_mod, db_mod


def layer_inputs(rng):
    """No point near a whole number, where φ has its kinks."""
    h, w, c, d = 2, 3, 2, 2
    shapes = (h, w, c), (9, c, d), (3, 3, c, 18), (18,), (3, 3, c, 9), (9,)
    while True:
        arrays = [rng.standard_normal(shape) for shape in shapes]
        offsets = layer_parts(*arrays)[0]
        if abs(offsets - np.round(offsets)).min() > 1e-3:
            return tuple(arrays)


def whole(z, reference, x1, x2, w_value, w_offset, b_offset, w_weigh, b_weigh, w_out, *, gradients=None, **wrong):
    """Deformable DETR's attention from the package's core; with gradients=dy its vjp. wrong: options of `_whole_back`."""
    (queries, c), (heads, levels, points), sizes = z.shape, b_weigh.shape, (x1.shape[:2], x2.shape[:2])
    each = heads * levels * points
    flat = np.concatenate([x.reshape(-1, c) for x in (x1, x2)])
    offsets = z @ w_offset.reshape(c, -1) + b_offset.reshape(-1)
    a = (z @ w_weigh.reshape(c, each) + b_weigh.reshape(each)).reshape(queries, heads, -1)
    weights, softmax_back = ops.softmax.raw(a)
    size = np.array(sizes, float)[:, None]  # (l, 1, 2)
    locations = reference[:, None, None, None] + offsets.reshape(queries, heads, levels, points, 2) / size
    arrays = (flat @ w_value)[None], locations[None], weights.reshape(1, queries, heads, levels, points)
    h, core_back = ops.multiscale_deformable_attention.raw(*arrays, sizes=sizes)
    if gradients is None:
        return h[0] @ w_out
    dvalues, dlocations, dweights = core_back((gradients @ w_out.T)[None])
    dpoints = (dlocations[0] / size).reshape(queries, -1)
    da = softmax_back(dweights.reshape(weights.shape))[0].reshape(queries, -1)
    if wrong.get("apart"):  # the softmax of each level by itself
        p, dp = (t.reshape(queries, heads, levels, points) for t in (weights, dweights))
        da = (p * (dp - (p * dp).sum(-1, keepdims=True))).reshape(queries, -1)
    dz = dpoints @ w_offset.reshape(c, -1).T + (0 if wrong.get("one_way") else da @ w_weigh.reshape(c, -1).T)
    dx = (dvalues[0] @ w_value.T)[: len(flat)]
    first = sizes[0][0] * sizes[0][1]
    return (
        dz,
        dlocations[0].sum((1, 2, 3)),
        dx[:first].reshape(x1.shape),
        dx[first:].reshape(x2.shape),
        flat.T @ dvalues[0],
        (z.T @ dpoints).reshape(w_offset.shape),
        dpoints.sum(0).reshape(b_offset.shape),
        (z.T @ da).reshape(w_weigh.shape),
        da.sum(0).reshape(b_weigh.shape),
        h[0].T @ gradients,
    )


def whole_inputs(rng):
    q, c, m, levels, k = 2, 4, 2, 2, 2
    shapes = (q, c), (q, 2), (3, 4, c), (2, 3, c), (c, c), (c, m, levels, k, 2), (m, levels, k, 2)
    shapes += (c, m, levels, k), (m, levels, k), (c, c)
    while True:
        arrays = [rng.standard_normal(shape) / 2 for shape in shapes]
        arrays[1] = rng.uniform(0, 1, (q, 2))
        offsets = np.tensordot(arrays[0], arrays[5], 1) + arrays[6]
        own = arrays[1][:, None] * np.array([x.shape[:2] for x in arrays[2:4]]) - 0.5  # (q, l, 2)
        points = own[:, None, :, None] + offsets
        if abs(points - np.round(points)).min() > 1e-3:
            return tuple(arrays)


def with_cotangent(rng, forward, arrays):
    """(dy, *arrays). There are too many weights for finite differences of each: the answer is compared with the package's."""
    return rng.standard_normal(forward(*arrays).shape), *arrays


def reference_gradient(dpoints, sizes):
    return (dpoints * sizes[:, None]).sum((1, 2, 3))


EXERCISES = {
    "7.1": Exercise(
        Value(
            lambda dilation: (dilation - 1) * TAPS,
            lambda rng: (float(rng.uniform(0.5, 4)),),
            names=("offsets",),
            mistakes={
                "those are the places of the taps; an offset is what is added to p_n": lambda d: d * TAPS,
                "p₀ + p_n + Δp_n moves the other way": lambda d: (1 - d) * TAPS,
            },
        ),
        [
            "Set p_n + Δp_n equal to dilation · p_n, and solve for Δp_n.",
            "`taps` is (9, 2), all the p_n: the answer is a number times `taps`.",
        ],
    ),
    "7.2": Exercise(
        Gradient(
            convolve,
            convolution_inputs,
            names=("dx", "doffsets", "dmodulation", "dw"),
            mistakes={
                "m is missing on the way back to what was read: step 4": without_modulation,
                "dw is made of m · f, not of f": lambda dy, x, offsets, m, w: (
                    *convolve_gradients(dy, x, offsets, m, w)[:3],
                    convolve_gradients(dy, x, offsets, np.ones_like(m), w)[3],
                ),
            },
        ),
        [
            "Begin as `deformable` does, and keep what `read` returns second: `y, read_vjp = read(x, "
            "points.reshape(-1, 2))`; `found` is y in the shape (H·W, 9, C).",
            "Step 6 gives `dw` and `u`: `F.T @ dy` and `dy @ w.T`, with taps and channels flattened to one axis of "
            "9·C. "
            "Then bring u to the shape (H·W, 9, C).",
            "Step 4: `dmodulation` is `(found * u).sum(-1)`, and the gradient of what was found is `m * u`.",
            "Step 5: `dx, dpoints = read_vjp((m * u).reshape(-1, C))`. `dpoints`, in the shape of `offsets`, is their "
            "gradient.",
        ],
    ),
    "7.8": Exercise(
        Value(
            layer_gradients,
            lambda rng: with_cotangent(rng, layer, layer_inputs(rng)),
            names=("dx", "dw", "dw_offset", "db_offset", "dw_mod", "db_mod"),
            mistakes={
                "x also says where to read: the way through the offsets is missing": lambda *a: layer_gradients(
                    *a, move=0
                ),
                "x also says how much a reading counts: the way through m is missing": lambda *a: layer_gradients(
                    *a, weigh=0
                ),
                "x is also read: the first way is missing": lambda *a: layer_gradients(*a, read=0),
                "only one of the three ways to x": lambda *a: layer_gradients(*a, move=0, weigh=0),
                "the slope of the sigmoid, m (1 − m), is missing": lambda *a: layer_gradients(*a, slope=False),
                "dy is not used: this is the gradient for a cotangent of ones": lambda dy, *a: layer_gradients(
                    np.ones_like(dy), *a
                ),
            },
        ),
        [
            "Write `layer` again and keep every vjp: `offsets, offset_back = convolve(…)`, `a, mod_back = convolve(…)`, "
            "`_, back = moved_taps(…)`.",
            "`dx_read, doffsets, dm, dw = back(dy)`. The gradient of a is `m * (1 - m) * dm`; doffsets must be (H, W, 18) for "
            "`offset_back`.",
            "Each of the three vjps gives a gradient to x. It is used three times, so they are added.",
        ],
    ),
    "7.3": Exercise(
        Value(
            follow,
            follow_inputs,
            names=("offset",),
            mistakes={
                "that goes up: subtract the gradient": lambda x, t, o, rate, steps: follow(x, t, o, -rate, steps),
                "all pixels share the offset: their gradients are summed, and dy has the 1/N already": lambda x, t, o, r, s: (
                    follow(x, t, o, r / (x.shape[0] * x.shape[1]), s)
                ),
                "dy = (y − t)/N: the 1/N is missing": lambda x, t, o, r, s: follow(
                    x, t, o, r * x.shape[0] * x.shape[1], s
                ),
                "all steps use the gradient of the start": lambda x, t, o, r, s: o + s * (follow(x, t, o, r, 1) - o),
            },
        ),
        [
            "All pixel centres as (N, 2): `np.stack(np.mgrid[0:H, 0:W], -1).reshape(-1, 2)`. One step begins with "
            "`y, vjp = read(x, centres + offset)`.",
            "`_, dpoints = vjp((y - t) / N)` with `t = target.reshape(-1, 1)`. It is (N, 2): one gradient for each "
            "pixel.",
            "The offset was repeated for all pixels, so its gradient is `dpoints.sum(0)`.",
        ],
    ),
    "7.4": Exercise(
        Value(
            edges_to_centres,
            lambda rng: (rng.uniform(-0.2, 1.2, (6, 2)), 4 + int(rng.integers(3)), 9),
            names=("normalised",),
            mistakes={
                "2 p̄ − 1 goes from edge to edge still: −1 would be an edge, not a centre": lambda p, h, w: 2 * p - 1,
                "rows go with the height, columns with the width": lambda p, h, w: edges_to_centres(p, w, h),
                "half a pixel is missing: p̄ · S counts from the edge, pixels count from a centre": lambda p, h, w: (
                    2 * p * np.array([h, w]) / (np.array([h, w]) - 1) - 1
                ),
                "the centres of the outer pixels are S − 1 apart, not S": lambda p, h, w: (
                    2 * (p * np.array([h, w]) - 0.5) / np.array([h, w]) - 1
                ),
            },
        ),
        [
            "Go through pixels: first from edges to pixels, then from pixels to DAT's coordinates.",
            "`pixel = locations * size - 0.5` with `size = np.array([height, width])`; then solve pixel = (p̂ + 1)/2 "
            "· (S − 1) for p̂.",
        ],
    ),
    "7.5": Exercise(
        Gradient(
            detr,
            detr_inputs,
            names=("dV", "dlocations", "dweights"),
            mistakes={
                "that is the gradient in pixels: locations are multiplied by (H, W) on the way": detr_with(
                    lambda d, size: d / size
                ),
                "rows are multiplied by H, columns by W": detr_with(lambda d, size: d / size * size[::-1]),
                "S and not S − 1: from edge to edge there are S pixels": detr_with(
                    lambda d, size: d / size * (size - 1)
                ),
            },
        ),
        [
            "δy = δA f + A δf, with f what is found. So dA = Σ_c f dy, and df = A dy: no sum there.",
            "`y, read_vjp = read(V, (locations * size - 0.5).reshape(-1, 2))` with `size = np.array([H, W])`. "
            "The vjp takes df in the shape (Q·K, d).",
            "It gives the gradient in pixels. The locations move `size` times less than the pixels: multiply by "
            "`size`.",
        ],
    ),
    "7.9": Exercise(
        Value(
            reference_gradient,
            lambda rng: (rng.standard_normal((3, 2, 3, 4, 2)), np.array([[4, 5], [2, 3], [7, 6]])),
            names=("dreference",),
            mistakes={
                "that is in pixels: p = p̄ · (H_l, W_l) − ½ has a factor, another one on each level": lambda d, s: d.sum(
                    (1, 2, 3)
                ),
                "the chain rule multiplies by (H_l, W_l); this divides": lambda d, s: (d / s[:, None]).sum((1, 2, 3)),
                "rows go with H_l, columns with W_l": lambda d, s: reference_gradient(d, s[:, ::-1]),
                "it is used by all, so the gradients are summed, not averaged": lambda d, s: (
                    reference_gradient(d, s) / d[0, ..., 0].size
                ),
            },
        ),
        [
            "In how many places is p̄_i used? Each of them gives a gradient, and they add up.",
            "∂p/∂p̄ is (H_l, W_l). `sizes[:, None]` is (L, 1, 2), and meets the axes (L, K, 2) of `dpoints`.",
        ],
    ),
    "7.10": Exercise(
        Value(
            lambda dy, *a: whole(*a, gradients=dy),
            lambda rng: with_cotangent(rng, whole, whole_inputs(rng)),
            names=(
                "dz",
                "dreference",
                "dx1",
                "dx2",
                "dw_value",
                "dw_offset",
                "db_offset",
                "dw_weigh",
                "db_weigh",
                "dw_out",
            ),
            mistakes={
                "the softmax runs over levels and points together, and so does its row term": lambda dy, *a: whole(
                    *a, gradients=dy, apart=True
                ),
                "z is used twice: the way through the weights is missing": lambda dy, *a: whole(
                    *a, gradients=dy, one_way=True
                ),
                "dy is not used: this is the gradient for a cotangent of ones": lambda dy, *a: whole(
                    *a, gradients=np.ones_like(dy)
                ),
            },
        ),
        [
            "Copy the forward pass, keep `h`, and make room: `dA = np.zeros_like(A)`, `dpoints = np.zeros_like(offsets)`, "
            "and for each level `dV = np.zeros_like(V)`.",
            "`dh = (dy @ w_out.T).reshape(h.shape)`. In the loop: `y, back = read(…)`, then step 2 as in 7.5, "
            "with `dh[:, head, None]` for dy.",
            "After the heads of a level: `dV.reshape(x.shape) @ w_value.T` is dx; dw_value adds up over the levels.",
            "After the loops: `da = A * (dA - (A * dA).sum((2, 3), keepdims=True))`. `np.tensordot(z.T, da, 1)` is dw_weigh, and "
            "`np.tensordot(da, w_weigh, ((1, 2, 3), (1, 2, 3)))` one of the two terms of dz.",
        ],
    ),
    "7.6": Exercise(
        Value(
            reads,
            lambda rng: (11, 13, 2 * int(rng.integers(2, 6)), 3, 4, 6),
            names=("DCN", "DETR", "DAT", "products"),
            mistakes={
                "all queries share DAT's keys: they are read once": lambda h, w, c, k, p, n: (
                    *reads(h, w, c, k, p, n)[:2],
                    h * w * n * c,
                    reads(h, w, c, k, p, n)[3],
                ),
                "there are two products, q·k and P·v": lambda h, w, c, k, p, n: (
                    *reads(h, w, c, k, p, n)[:3],
                    h * w * n * c,
                ),
                "a kernel of k × k has k² taps": lambda h, w, c, k, p, n: (h * w * k * c, *reads(h, w, c, k, p, n)[1:]),
            },
        ),
        [
            "At each point C numbers are read (in DETR: d for each of M heads, M·d = C). So count points.",
            "DCN: k² for each of H·W pixels. DETR: K for each. DAT: the keys, once for all.",
            "Each of H·W queries meets each key, twice: 2 · H·W · keys · C.",
        ],
    ),
    "7.7": Exercise(
        Value(
            shared_keys,
            shared_inputs,
            names=("y",),
            mistakes={
                "the scale 1/√d is missing": lambda q, x, p, wk, wv: shared_keys(q * q.shape[1] ** 0.5, x, p, wk, wv),
                "keys are made by wk, values by wv": lambda q, x, p, wk, wv: shared_keys(q, x, p, wv, wk),
                "points are (row, col)": lambda q, x, p, wk, wv: shared_keys(q, x, p[:, ::-1], wk, wv),
                "d is the channels of a query, not those of the map": lambda q, x, p, wk, wv: shared_keys(
                    q * (q.shape[1] / x.shape[2]) ** 0.5, x, p, wk, wv
                ),
            },
        ),
        [
            "`sampled, _ = read(x, points)` is x̃, (N, C). Keys and values are two products with it.",
            "The scores are (Q, N): `q @ k.T`, times 1/√d with d = q.shape[1]. The softmax runs along the keys, axis "
            "−1.",
        ],
    ),
}
