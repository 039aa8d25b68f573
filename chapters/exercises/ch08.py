"""Exercises of chapter 08: offsets."""

import numpy as np

from minidat import ops
from minidat.attention.grids import grid
from minidat.tutorial.contracts import All, Gradient, Value
from minidat.tutorial.report import Exercise


def reference_points(h_g, w_g, kind="corner"):
    axes = np.meshgrid(grid(h_g, kind), grid(w_g, kind), indexing="ij")
    return np.stack(axes, -1).reshape(-1, 2)


def two_sizes(rng):
    return int(rng.integers(2, 5)), int(rng.integers(5, 8))


def to_points(offsets, reference, amplitude, size):
    return (reference + amplitude * np.tanh(offsets) + 1) * (size - 1) / 2


def to_points_gradient(dpoints, offsets, reference, amplitude, size):
    return dpoints * (size - 1) / 2 * amplitude * (1 - np.tanh(offsets) ** 2)


def some_offsets(rng):
    return rng.standard_normal((6, 2)), rng.uniform(-1, 1, (6, 2)), np.array([0.3, 0.7]), np.array([5, 9])


def limited_gradient(dpoints, offsets, reference, size, limit):
    arrays = offsets[None, None], reference
    vjp = ops.deformed_points.raw(*arrays, limit=limit, amplitude=(1.0, 1.0), size=tuple(size))[1]
    return vjp(dpoints[None, None])[0][0, 0]


def some_limits(rng):
    """Some coordinates are cut, others are not, and two are just on the border."""
    dpoints, offsets, reference = *rng.standard_normal((2, 8, 2)), rng.uniform(-1, 1, (8, 2))
    offsets[0] = reference[0] = 0.5, -0.5
    return dpoints, offsets, reference, np.array([5, 9])


def depthwise(x, w, b, r, pad):
    return ops.depthwise_conv.raw(x[None], w, b, stride=r, padding=pad)[0][0]


def depthwise_gradients(du, x, w, b, r, pad):
    dx, dw, db = ops.depthwise_conv.raw(x[None], w, b, stride=r, padding=pad)[1](du[None])
    return dx[0], dw, db


def a_map_and_taps(rng):
    r, pad = int(rng.integers(1, 3)), int(rng.integers(0, 3))
    return rng.standard_normal((6, 9, 2)), rng.standard_normal((3, 3, 2)), rng.standard_normal(2), r, pad


def theta(q, w, b, gamma, beta, w2, r, pad):
    h_g, w_g = ((n + 2 * pad - len(w)) // r + 1 for n in q.shape[:2])
    return ops.offset_network.raw(q[None], w, b, gamma, beta, w2, stride=r, padding=pad)[0].reshape(h_g, w_g, 2)


def theta_gradients(doffsets, q, w, b, gamma, beta, w2, r, pad):
    _, vjp = ops.offset_network.raw(q[None], w, b, gamma, beta, w2, stride=r, padding=pad)
    dq, *rest = vjp(doffsets.reshape(1, 1, -1, 2))
    return dq[0], *rest


def without_norm(doffsets, q, w, b, gamma, beta, w2, r, pad):
    """The chain with layer norm's vjp skipped: dv taken for du."""
    u, conv_vjp = ops.depthwise_conv.raw(q[None], w, b, stride=r, padding=pad)
    v, norm_vjp = ops.layer_norm.raw(u, gamma, beta)
    (dv,) = ops.gelu.raw(v)[1]((doffsets @ w2.T)[None])
    dq, dw, db = conv_vjp(dv)
    _, dgamma, dbeta = norm_vjp(dv)
    return dq[0], dw, db, dgamma, dbeta, theta_gradients(doffsets, q, w, b, gamma, beta, w2, r, pad)[-1]


def without_gelu(doffsets, q, w, b, gamma, beta, w2, r, pad):
    u, conv_vjp = ops.depthwise_conv.raw(q[None], w, b, stride=r, padding=pad)
    du, dgamma, dbeta = ops.layer_norm.raw(u, gamma, beta)[1]((doffsets @ w2.T)[None])
    dq, dw, db = conv_vjp(du)
    return dq[0], dw, db, dgamma, dbeta, theta_gradients(doffsets, q, w, b, gamma, beta, w2, r, pad)[-1]


def a_network(rng):
    e, k = 4, 3
    weights = [rng.standard_normal(shape) for shape in ((k, k, e), (e,), (e,), (e,), (e, 2))]
    return rng.standard_normal((5, 7, e)), *weights, int(rng.integers(1, 3)), 1


def farthest(s, h, h_g, convention):
    return s / (h_g if convention == "v1" else h_g - 1) * (h - 1) / 2


def a_range(rng):
    convention = ("paper", "v1", "v2")[int(rng.integers(3))]
    return float(rng.integers(1, 6)), int(rng.integers(10, 20)), int(rng.integers(4, 9)), convention


def off_centre(h, k, r, pad):
    h_g = (h + 2 * pad - k) // r + 1
    i = np.arange(h_g)
    return i * (h - 1) / (h_g - 1) - (r * i - pad + (k - 1) / 2)


def look(x, weights):
    """x (B, H, W, 1) → what is read, the points, and the vjp back to the weights"""
    reference = reference_points(3, 4)
    raw, theta_back = ops.offset_network.raw(x @ np.array([[1.0, -0.5, 2.0]]), *weights, stride=2)
    where, points_back = ops.deformed_points.raw(raw, reference, limit="tanh", amplitude=(0.8, 0.6), size=x.shape[1:3])
    read, sample_back = ops.bilinear_sample.raw(x, where)
    return read, where, lambda dread: theta_back(points_back(sample_back(dread)[1])[0])[1:]


def training_step(look, x, weights, rate, sign=1, count=None):
    read, _, pull = look(x, weights)
    gradients = pull(-np.ones_like(read) / (count or read.size))
    return [value - sign * rate * gradient for value, gradient in zip(weights, gradients)]


def a_step(rng):
    weights = [rng.standard_normal(shape) for shape in ((3, 3, 3), (3,), (3,), (3,), (3, 2))]
    return look, rng.standard_normal((2, 6, 8, 1)), weights, 0.5


EXERCISES = {
    "8.1": Exercise(
        Value(
            reference_points,
            two_sizes,
            names=("reference",),
            mistakes={
                "along a row of the grid first: the column changes fastest": lambda h, w: reference_points(w, h)[
                    :, ::-1
                ],
                "those are centres of cells, the convention of the released v1": lambda h, w: reference_points(
                    h, w, "centre"
                ),
                "each point is (row, col)": lambda h, w: reference_points(h, w)[:, ::-1],
            },
        ),
        [
            "First the rows alone: `2 * np.arange(h_g) / (h_g - 1) - 1`, and the columns in the same way.",
            "Each row coordinate is needed w_g times in sequence, the list of column coordinates h_g times over.",
            "`np.repeat(rows, w_g)` and `np.tile(cols, h_g)`; put them together with `np.stack([…, …], -1)`.",
        ],
    ),
    "8.2": Exercise(
        Value(
            lambda k, e: k * k * e + 5 * e,
            lambda rng: (int(rng.integers(3, 10)), int(rng.integers(20, 200))),
            names=("parameters",),
            mistakes={
                "the convolution is depthwise: a channel has k × k weights, not k × k × e": lambda k, e: (
                    k * k * e * e + 5 * e
                ),
                "the 1×1 has no bias": lambda k, e: k * k * e + 5 * e + 2,
                "layer norm has γ and β, e each": lambda k, e: k * k * e + 3 * e,
                "the depthwise convolution has a bias, one number a channel": lambda k, e: k * k * e + 4 * e,
            },
        ),
        [
            "Go through the arguments of `theta_offset`: w, b, gamma, beta, w2. What is the shape of each?",
            "(k, k, e), (e), (e), (e), (e, 2).",
        ],
    ),
    "8.3": Exercise(
        Gradient(
            to_points,
            some_offsets,
            names=("doffsets", None, None, None),
            mistakes={
                "step 1 is missing: how many pixels are one normalised unit?": lambda d, o, p, a, s: (
                    d * a * (1 - np.tanh(o) ** 2)
                ),
                "the amplitude is missing": lambda d, o, p, a, s: to_points_gradient(d, o, p, 1, s),
                "the slope of tanh is missing": lambda d, o, p, a, s: d * (s - 1) / 2 * a,
                "the slope is 1 − tanh²(o): yours takes the raw offset, 1 − o²": lambda d, o, p, a, s: (
                    d * (s - 1) / 2 * a * (1 - o**2)
                ),
                "rows go with H, columns with W": lambda d, o, p, a, s: to_points_gradient(d, o, p, a, s[::-1]),
            },
        ),
        [
            "Three functions in a row: tanh, times amplitude plus reference, to pixels. Write down the slope of each.",
            "They are 1 − tanh², the amplitude, and (size − 1)/2. The vjp of elementwise functions multiplies by them.",
            "`t = np.tanh(offsets)`, then `dpoints * (size - 1) / 2 * amplitude * (1 - t * t)`.",
        ],
    ),
    "8.4": Exercise(
        Gradient(
            depthwise,
            a_map_and_taps,
            names=("dx", "dw", "db", None, None),
            mistakes={
                "the kernel is flipped: scatter to the place that was read": lambda du, x, w, b, r, pad: (
                    depthwise_gradients(du, x, w[::-1, ::-1], b, r, pad)[0],
                    depthwise_gradients(du, x, w, b, r, pad)[1][::-1, ::-1],
                    du.sum((0, 1)),
                ),
            },
        ),
        [
            "db is the shortest: b is added at every point, so sum du over both axes of the grid.",
            "For dw loop over the taps: `(shifted(padded, mu, nu, h_g, w_g, r) * du).sum((0, 1))` is dw[mu, nu]. "
            "h_g and w_g are du.shape[:2].",
            "For dx start with zeros of the padded shape. `view = shifted(dpadded, mu, nu, h_g, w_g, r)` "
            "and `view += w[mu, nu] * du` for every tap.",
            "In the end cut the padding off: `dpadded[pad : pad + h, pad : pad + width]`. (`[pad:-pad]` is empty when pad is 0.)",
        ],
    ),
    "8.5": Exercise(
        Gradient(
            theta,
            a_network,
            names=("dq", "dw", "db", "dgamma", "dbeta", "dw2", None, None),
            mistakes={
                "layer norm's vjp is left out on the way": without_norm,
                "GELU's vjp is left out on the way": without_gelu,
            },
        ),
        [
            "Write the forward lines first, and keep the three vjps. `a[0]` is (H_G, W_G, C).",
            "Step 3: `da = doffsets @ w2.T`, with a batch axis: `[None]`. `dw2 = np.einsum('ijc,ijl->cl', a[0], doffsets)`.",
            "Then `(dv,) = gelu_vjp(da)`, `du, dgamma, dbeta = norm_vjp(dv)`, `dq, dw, db = conv_vjp(du)`, "
            "and `dq[0]` without the batch axis.",
        ],
    ),
    "8.10": Exercise(
        All(
            [
                Value(
                    limited_gradient,
                    lambda rng, limit=limit: (*some_limits(rng), limit),
                    names=("doffsets",),
                    mistakes={
                        "step 1 is missing: how many pixels are one normalised unit?": lambda d, o, p, s, limit: (
                            limited_gradient(d, o, p, s, limit) / ((s - 1) / 2)
                        ),
                        "the slope is taken at o; what is limited is p̂ + o": lambda d, o, p, s, limit: limited_gradient(
                            d, o, 0 * p, s, limit
                        ),
                        "a coordinate that is cut gets no gradient": lambda d, o, p, s, limit: limited_gradient(
                            d, o, p, s, "none"
                        ),
                        "each coordinate is cut by itself": lambda d, o, p, s, limit: (
                            d * (s - 1) / 2 * (abs(p + o) <= 1).all(-1, keepdims=True)
                        ),
                        "rows go with H, columns with W": lambda d, o, p, s, limit: limited_gradient(
                            d, o, p, s[::-1], limit
                        ),
                        "dy is not used: this is the gradient for a cotangent of ones": lambda d, o, p, s, limit: (
                            limited_gradient(np.ones_like(d), o, p, s, limit)
                        ),
                    },
                )
                for limit in ("squash", "clamp", "none")
            ]
        ),
        [
            "All three begin with `free = reference + offsets` and with step 1, `dpoints * (size - 1) / 2`. "
            "The slope is what differs.",
            "squash: `1 - np.tanh(free) ** 2`. none: 1.",
            "clamp: `(free >= -1) & (free <= 1)`, one True or False for each coordinate. Multiply by it.",
        ],
    ),
    "8.6": Exercise(
        Value(
            farthest,
            a_range,
            names=("pixels",),
            mistakes={
                "that is in normalised units: one of them is (H − 1)/2 pixels": lambda s, h, h_g, c: (
                    farthest(s, h, h_g, c) / ((h - 1) / 2)
                ),
                "one normalised unit is (H − 1)/2 pixels, since −1 to 1 are two": lambda s, h, h_g, c: (
                    2 * farthest(s, h, h_g, c)
                ),
                "v1 divides s by H_G, the others by H_G − 1": lambda s, h, h_g, c: farthest(
                    s, h, h_g, "paper" if c == "v1" else "v1"
                ),
            },
        ),
        [
            "tanh is at most 1, so the largest normalised distance is the amplitude, s divided by something.",
            "`amplitude = s / (h_g if convention == 'v1' else h_g - 1)`, and one normalised unit is (h − 1)/2 pixels.",
        ],
    ),
    "8.7": Exercise(
        Value(
            lambda n: -1 / (n - 1),
            lambda rng: (int(rng.integers(2, 15)),),
            names=("offset",),
            mistakes={
                "that is how far outside it lies: the offset must bring it back": lambda n: 1 / (n - 1),
                "those are cells of 1/n: v2 divides by n − 1": lambda n: -1 / n,
            },
        ),
        [
            "The last index is i = n − 1. Where does v2 put it?",
            "At 2(n − ½)/(n − 1) − 1. The offset that is asked for is 1 minus that.",
        ],
    ),
    "8.8": Exercise(
        Value(
            off_centre,
            lambda rng: tuple(int(rng.integers(*ends)) for ends in ((9, 15), (3, 8), (2, 4), (1, 4))),
            names=("distance",),
            mistakes={
                "reference − middle, not middle − reference": lambda *a: -off_centre(*a),
                "the middle of an even number of rows lies between two of them: (k − 1)/2, not k // 2": lambda h, k, r, pad: (
                    off_centre(h, k, r, pad) + (k - 1) / 2 - k // 2
                ),
                "the middle of k rows is (k − 1)/2 after the first": lambda h, k, r, pad: (
                    off_centre(h, k, r, pad) - 0.5
                ),
            },
        ),
        [
            "How many points are there? The size of a convolution's output: (h + 2·pad − k) // r + 1.",
            "The window of point i covers rows r·i − pad … r·i − pad + k − 1. Its middle is the mean of those two.",
            "`i = np.arange(h_g)`; `i * (h - 1) / (h_g - 1) - (r * i - pad + (k - 1) / 2)`.",
        ],
    ),
    "8.9": Exercise(
        Value(
            training_step,
            a_step,
            names=("w", "b", "gamma", "beta", "w2"),
            mistakes={
                "that makes the loss larger: subtract the gradient": lambda *a: training_step(*a, sign=-1),
                "L is a mean: its gradient is −1 over the number of elements": lambda *a: training_step(*a, count=1),
            },
        ),
        [
            "`read, _, pull = look(x, weights)`. What is ∂L/∂read for L = −read.mean()? It has the shape of read.",
            "`pull(np.full(read.shape, -1 / read.size))` gives five gradients. Subtract η times each, in a new list.",
        ],
    ),
}
