"""Exercises of chapter 14: looking inside."""

import numpy as np

from minidat import ops
from minidat.tutorial.contracts import Gradient, Value
from minidat.tutorial.report import Exercise

H, W, HEADS, GROUPS, KEYS = 3, 5, 6, 2, 7


def to_image(points, size, image):
    return (points + 0.5) * (np.array(image) / np.array(size)) - 0.5


def share_in_box(points, boxes, rim=0.5):
    low, high = boxes[:, None, :2] - rim, boxes[:, None, 2:] - rim
    return ((points >= low) & (points < high)).all(-1).mean()


def points_and_boxes(rng):
    corner = rng.integers(0, 12, (5, 2))
    boxes = np.concatenate([corner, corner + rng.integers(9, 14, (5, 2))], -1).astype(float)
    edges = boxes.reshape(5, 2, 2) - 0.5
    near_edges = edges + rng.uniform(-0.4, 0.4, (5, 2, 2))
    return np.concatenate([rng.uniform(-2, 26, (5, 30, 2)), edges, near_edges, near_edges[:, ::-1]], 1), boxes


def entropy(weights):
    return -(weights * np.log(np.where(weights > 0, weights, 1.0))).sum(-1)


def rows(rng, *shape, zeros=False):
    """Rows that add up to 1."""
    scores = 2 * rng.standard_normal(shape)
    if zeros:
        scores[rng.random(shape) < 0.3] = -np.inf
        scores[..., 0] = 1.0
    return ops.softmax.raw(scores)[0]


def key_scores(a, weights, groups):
    heads, _, keys = weights.shape
    return (a @ weights / heads).reshape(groups, -1, keys).sum(1)


def scores_inputs(rng):
    return abs(rng.standard_normal(H * W)), rows(rng, HEADS, H * W, KEYS), GROUPS


def mixing(x, weights, points):
    """y = (1/M) Σ_m P⁽ᵐ⁾ Φ x for x (H, W)."""
    maps = np.repeat(x[None, :, :, None], len(points), -1)  # a channel for each group
    read = ops.bilinear_sample.raw(maps, points[None])[0][0].T  # (G, N)
    by_head = np.repeat(read, len(weights) // len(points), 0)  # (M, N)
    return np.einsum("min,mn->i", weights, by_head) / len(weights)


def mixing_vjp(a, x, weights, points):
    scores = key_scores(a, weights, len(points))
    _, vjp = ops.bilinear_sample.raw(np.zeros((1, *x.shape, len(points))), points[None])
    return vjp(scores.T[None])[0][0].sum(-1)


def mixing_inputs(rng):
    cells = np.stack([rng.integers(-1, n, (GROUPS, KEYS)) for n in (H, W)], -1)
    points = cells + rng.uniform(0.1, 0.9, cells.shape)
    return rng.standard_normal((H, W)), rows(rng, HEADS, H * W, KEYS), points


def without_each(p, v):
    return (p @ v - p[:, None] * v) / (1 - p[:, None])


def rank_correlation(a, b):
    u, w = (x.argsort().argsort() for x in (a, b))
    return np.corrcoef(u, w)[0, 1]


EXERCISES = {
    "14.1": Exercise(
        Value(
            to_image,
            lambda rng: (rng.uniform(-1, 5, (4, 3, 2)), (5, 4), (30, 32)),
            names=("in_image",),
            mistakes={
                "plain scaling puts the corner of a pixel where its centre is": lambda p, size, image: (
                    p * (np.array(image) / np.array(size))
                ),
                "(H − 1)/(h − 1) joins the centres of the corner pixels: the edges must coincide": (
                    lambda p, size, image: p * ((np.array(image) - 1) / (np.array(size) - 1))
                ),
                "that goes from the image to the map": lambda p, size, image: to_image(p, image, size),
                "rows go with h and H, columns with w and W": lambda p, size, image: to_image(
                    p, size[::-1], image[::-1]
                ),
            },
        ),
        [
            "It is a straight line: slope times p plus a constant. How many image pixels does one map pixel cover?",
            "The slope is H/h. Find the constant from: −½ must go to −½.",
            "Count from the edge: p + ½ is the distance from the map's edge. Scale it by H/h, and subtract the ½ again.",
        ],
    ),
    "14.2": Exercise(
        Value(
            share_in_box,
            points_and_boxes,
            names=("share",),
            mistakes={
                "pixel i reaches from i − ½ to i + ½: the box begins half a pixel before row0": lambda p, b: (
                    share_in_box(p, b, rim=0.0)
                ),
                "both coordinates must be inside, not one of them": lambda p, b: (
                    ((p >= b[:, None, :2] - 0.5) & (p < b[:, None, 2:] - 0.5)).any(-1).mean()
                ),
                "that is the share of coordinates, not of points: a point is inside if both of its own are": (
                    lambda p, b: ((p >= b[:, None, :2] - 0.5) & (p < b[:, None, 2:] - 0.5)).mean()
                ),
                "a number of points, not a share": lambda p, b: share_in_box(p, b) * p.shape[0] * p.shape[1],
            },
        ),
        [
            "Compare all points with their box at once: `boxes[:, None, :2]` has shape (B, 1, 2) and meets (B, n, 2).",
            "The first pixel of the box begins at row0 − ½; the last one is row1 − 1 and ends at row1 − ½.",
            "`((points >= low) & (points < high)).all(-1)` is True for a point whose row and column are both inside.",
        ],
    ),
    "14.3": Exercise(
        Value(
            lambda weights: np.exp(entropy(weights)),
            lambda rng: (rows(rng, 3, 4, KEYS, zeros=True),),
            names=("keys",),
            mistakes={
                "that is the entropy: what number of equal shares has it?": entropy,
                "the entropy has a minus in front, since the logarithms are negative": lambda w: np.exp(-entropy(w)),
                "entropies in bits belong to a power of 2, those in ln to a power of e": lambda w: 2 ** entropy(w),
                "1/Σp² counts keys too, but it is another number; use the entropy": lambda w: 1 / (w * w).sum(-1),
            },
        ),
        [
            "n equal shares have the entropy ln n. Solve for n.",
            "`np.exp(-(weights * np.log(weights)).sum(-1))`, if it were not for the zeros: 0 · ln 0 gives nan.",
            "Where a weight is 0, take the logarithm of 1 in its place: `np.where(weights > 0, weights, 1.0)`.",
        ],
    ),
    "14.4": Exercise(
        Value(
            key_scores,
            scores_inputs,
            names=("s",),
            mistakes={
                "all heads count together as much as one: divide by M": lambda a, p, g: key_scores(a, p, g) * len(p),
                "a is not used: queries are not all equally important": lambda a, p, g: key_scores(
                    np.ones(len(a)), p, g
                ),
                "divide by all M heads, not by the M/G of a group: the scores of all groups add up to Σa": (
                    lambda a, p, g: key_scores(a, p, g) * g
                ),
                "heads 0 … M/G − 1 belong to group 0: the groups' heads do not alternate": lambda a, p, g: (
                    (a @ p / len(p)).reshape(-1, g, p.shape[-1]).sum(0)
                ),
            },
        ),
        [
            "For one head: s_n = Σ_i P[i, n] a_i, a sum over the queries. As a product: `a @ P`.",
            "`a @ weights` does it for all heads at once: (HW,) with (M, HW, N) gives (M, N). Divide by M.",
            "Now add up the heads of each group: reshape (M, N) to (G, M/G, N) and sum over the middle.",
        ],
    ),
    "14.5": Exercise(
        Gradient(
            mixing,
            mixing_inputs,
            names=("dx", None, None),
            mistakes={
                "row and column of the points are swapped": lambda a, x, p, points: mixing_vjp(
                    a, x, p, points[..., ::-1]
                ),
                "every group has points of its own: that reads all at the points of group 0": (
                    lambda a, x, p, points: mixing_vjp(a, x, p, np.repeat(points[:1], len(points), 0))
                ),
                "the scores must be averaged over the heads: divide by M": lambda a, x, p, points: (
                    mixing_vjp(a, x, p, points) * len(p)
                ),
                "each point hands its score to four pixels, not only to the nearest": lambda a, x, p, points: (
                    mixing_vjp(a, x, p, np.rint(points))
                ),
            },
        ),
        [
            "`key_scores(a, weights, len(points))` from 14.4 is the first half. What is left is step 4.",
            "The hats of all rows: `np.maximum(0, 1 - abs(points[..., 0, None] - np.arange(h)))`, of shape (G, N, H). The same "
            "for the columns.",
            "`np.einsum('gn,gnr,gnc->rc', s, gy, gx)`: groups and keys are summed over, rows and columns stay.",
        ],
    ),
    "14.6": Exercise(
        Value(
            without_each,
            lambda rng: (rows(rng, KEYS), rng.standard_normal((KEYS, 4))),
            names=("y",),
            mistakes={
                "the weights that are left must add up to 1 again: divide by 1 − P": lambda p, v: (
                    p @ v - p[:, None] * v
                ),
                "that is the change y′ − y, not the output y′": lambda p, v: without_each(p, v) - p @ v,
                "that is the output with key n alone": lambda p, v: v,
                "with 1 + P the weights that are left become smaller; they must grow": lambda p, v: (
                    (p @ v - p[:, None] * v) / (1 + p[:, None])
                ),
            },
        ),
        [
            "Take one n. The output without it is Σ_{j≠n} P_j v_j, but with weights that add up to 1.",
            "Σ_{j≠n} P_j v_j = y − P_n v_n, and Σ_{j≠n} P_j = 1 − P_n.",
            "For all n at once: `y` is (d,), `row[:, None] * v` is (N, d), `1 - row[:, None]` is (N, 1).",
        ],
    ),
    "14.7": Exercise(
        Value(
            rank_correlation,
            lambda rng: (a := rng.standard_normal(20), np.exp(a + rng.standard_normal(20))),
            names=("rho",),
            mistakes={
                "that correlates the numbers, not their ranks": lambda a, b: np.corrcoef(a, b)[0, 1],
                "argsort gives who stands at each place; the place of each element is its argsort once more": (
                    lambda a, b: np.corrcoef(a.argsort(), b.argsort())[0, 1]
                ),
                "one of the two is ranked from the other end": lambda a, b: -rank_correlation(a, b),
            },
        ),
        [
            "The rank of an element is how many elements are smaller: `(a[:, None] > a).sum(1)`.",
            "Subtract the mean from both arrays of ranks; then multiply, add up, and divide by the two square roots.",
        ],
    ),
}
