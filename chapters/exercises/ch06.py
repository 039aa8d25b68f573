"""Exercises of chapter 06: the bilinear kernel."""

import numpy as np

from minidat import ops
from minidat.ops.bilinear import g_slope
from minidat.tutorial.contracts import All, Gradient, Value, Wrong
from minidat.tutorial.report import Exercise

H, W, C = 4, 5, 3


def sample(z, points):
    """φ(z; points): (H, W, C), (N, 2) → (N, C)"""
    return ops.bilinear_sample.raw(z[None], points[None, None])[0][0]


def sample_gradients(dy, z, points):
    dz, dpoints = ops.bilinear_sample.raw(z[None], points[None, None])[1](dy[None])
    return dz[0], dpoints[0, 0]


def sample_clamped(z, points):
    return sample(z, np.clip(points, 0, np.array(z.shape[:2]) - 1))


def inside_cells(rng, n=6, reach=1):
    """(n, 2) points away from the kinks, up to `reach` pixels outside the map."""
    cells = np.stack([rng.integers(-reach, size - 1 + reach, n) for size in (H, W)], -1)
    return cells + rng.uniform(0.1, 0.9, (n, 2))


def a_map(rng):
    return rng.standard_normal((H, W, C))


def slope_from_the_left(a, n):
    return -g_slope(-a, n)[:, ::1] if n == 1 else -g_slope((n - 1) - a, n)[:, ::-1]


def slope_by_sign(a, n):
    t = a[:, None] - np.arange(n)
    return -np.sign(t) * (abs(t) < 1)


def truncated(z, points):
    """The first corner found by cutting off the digits, which goes towards zero."""
    first = np.trunc(points)
    y = np.zeros((len(points), z.shape[-1]))
    for corner in np.ndindex(2, 2):
        weight = np.where(corner, points - first, 1 - (points - first)).prod(-1, keepdims=True)
        y += weight * sample(z, first + corner)
    return y


def without_mask(z, points):
    """Corners outside the map replaced by the nearest pixel inside: what clipping alone does."""
    padded = np.pad(z, ((9, 9), (9, 9), (0, 0)), mode="edge")
    return sample(padded, points + 9)


def to_normalised(dpoints, h, w):
    return dpoints * np.array([(h - 1) / 2, (w - 1) / 2])


def cell(z00, z01, z10, z11):
    return z00, z10 - z00, z01 - z00, z11 - z10 - z01 + z00


def climb(z, point, rate, steps):
    for _ in range(steps):
        _, dpoint = sample_gradients(np.ones((1, z.shape[-1])), z, point[None])
        point = point + rate * dpoint[0]
    return point


def kinks_too(rng):
    return np.concatenate([rng.uniform(-2, 6, 5), rng.integers(-1, 6, 4)]).astype(float), 5


def four(rng):
    return tuple(rng.standard_normal(4))


class Slopes(Value):
    """A value that is often tried as a difference of two arrays of True and False."""

    def judge(self, answer):
        try:
            return super().judge(answer)
        except Wrong as wrong:
            if "boolean subtract" not in str(wrong):
                raise
            raise Wrong(
                "NumPy does not subtract one array of True and False from another: make numbers of the first, "
                "`.astype(float)`"
            ) from None


def on_the_border(rng):
    """dy, z and points on the first and the last pixels, where clamping has its kinks."""
    corners = np.array([(r, c) for r in (0, H - 1, 1.4) for c in (0, W - 1, 2.3)], float)  # (9, 2)
    return rng.standard_normal((len(corners), C)), a_map(rng), corners


def clamped_gradients(dy, z, points):
    last = np.array(z.shape[:2]) - 1
    dz, dclamped = sample_gradients(dy, z, np.clip(points, 0, last))
    return dz, dclamped * ((points >= 0) & (points < last))


def with_the_end(dy, z, points):
    """The last pixel counted as inside."""
    last = np.array(z.shape[:2]) - 1
    dz, dclamped = sample_gradients(dy, z, np.clip(points, 0, last))
    return dz, dclamped * ((points >= 0) & (points <= last))


def crowded(rng):
    """Points that share pixels, some of them far outside."""
    near = inside_cells(rng, 4)
    return a_map(rng), np.concatenate([near, near + 0.05, inside_cells(rng, 4, 2), [[-7.3, 2.5]]])


def by_assignment(dy, z, points):
    """dz[row, col] += …: of the points that share a pixel one remains."""
    dz, first = np.zeros_like(z), np.floor(points).astype(int)
    for corner in np.ndindex(2, 2):
        at = first + corner
        inside = ((at >= 0) & (at < z.shape[:2])).all(-1)
        weight = np.where(corner, points - first, 1 - (points - first)).prod(-1, keepdims=True)
        dz[at[inside, 0], at[inside, 1]] += (weight * dy)[inside]
    return dz, sample_gradients(dy, z, points)[1]


def round_slopes(a, n, factor=1.0):
    t = a[:, None] - np.arange(n)
    return np.where(abs(t) < 1, -np.pi / 2 * factor * np.sin(np.pi * t), 0.0)


EXERCISES = {
    "6.1": Exercise(
        Slopes(
            lambda a, n: g_slope(a, n),
            kinks_too,
            names=("slope",),
            mistakes={
                "at a kink, that is the slope on the left": slope_from_the_left,
                "at the kinks t = −1 and t = 0 that is 0; take the slope on the right": slope_by_sign,
                "where the hat falls its slope is −1": lambda a, n: abs(g_slope(a, n)),
            },
        ),
        [
            "Let t = a − b, an array of shape (N, S). Where is g going up in t, where down, and where is it flat?",
            "Up for −1 ≤ t < 0, down for 0 ≤ t < 1. Each ≤ puts a kink into the piece on its right.",
            "A comparison of arrays is an array of True and False. NumPy does not subtract two of those; it does once "
            "the first is made of numbers: `((t >= -1) & (t < 0)).astype(float) - ((t >= 0) & (t < 1))`.",
        ],
    ),
    "6.2": Exercise(
        Gradient(
            sample,
            lambda rng: (a_map(rng), inside_cells(rng)),
            names=("dz", "dpoints"),
            mistakes={
                "the slope of g stands in both factors: only one of the two is differentiated": lambda dy, z, p: (
                    sample_gradients(dy, z, p)[0],
                    np.repeat(
                        np.einsum("nr,ns,rsk,nk->n", g_slope(p[:, 0], H), g_slope(p[:, 1], W), z, dy)[:, None], 2, 1
                    ),
                ),
                "the sum over the channels is missing": lambda dy, z, p: (
                    sample_gradients(dy, z, p)[0],
                    sample_gradients(dy * np.eye(C)[0], z, p)[1],
                ),
            },
        ),
        [
            "Take the two results one by one. `dz` needs `gy`, `gx` and `dy` only: which index is summed, which stay?",
            "Step 3 of the derivation is `np.einsum('nr,nc,nk->rck', gy, gx, dy)`. Write steps 4 and 5 in the same "
            "way.",
            "In step 4 the slope takes the place of the row's hat: `hat_slopes(points[:, 0], H)` for `gy`. "
            "`gx`, `z` and `dy` stay, and all indices but n are summed.",
            "`np.einsum('nr,nc,rck,nk->n', …)` is `dpoints[:, 0]`; put the two columns together with `np.stack([…, "
            "…], -1)`.",
        ],
    ),
    "6.3": Exercise(
        Value(
            sample,
            lambda rng: (a_map(rng), np.concatenate([inside_cells(rng, 12), rng.integers(-2, 6, (6, 2)), [[-7, 2.5]]])),
            names=("y",),
            mistakes={
                "pixels outside the map must count as zero: clipping an index is not enough": without_mask,
                "`astype(int)` cuts towards zero, so that −0.3 becomes 0: take the floor first": truncated,
            },
        ),
        [
            "The first of the four pixels is `np.floor(points)`; the fractions are `points - first`.",
            "Loop over `i in (0, 1)` and `j in (0, 1)`. The weight of row `first + i` is the fraction for i = 1 and "
            "1 − fraction for i = 0.",
            "Compute `inside = (row >= 0) & (row < H) & …` before you clip the indices for reading, and multiply by "
            "it.",
        ],
    ),
    "6.4": Exercise(
        Value(
            to_normalised,
            lambda rng: (rng.standard_normal((6, 2)), H + int(rng.integers(3)), W + 4),
            names=("dnormalised",),
            mistakes={
                "H − 1 and W − 1: the first and the last pixel centre are H − 1 apart": lambda d, h, w: (
                    d * np.array([h / 2, w / 2])
                ),
                "the chain rule multiplies by ∂pixel/∂normalised; this divides": lambda d, h, w: (
                    d / np.array([(h - 1) / 2, (w - 1) / 2])
                ),
                "rows go with H, columns with W": lambda d, h, w: to_normalised(d, w, h),
            },
        ),
        [
            "Write pixel = (p̂ + 1)/2 · (size − 1) and differentiate it. What is ∂pixel/∂p̂ for the row, what for "
            "the column?",
            "dp̂ = dpixel · ∂pixel/∂p̂, element by element: `dpoints * np.array([…, …])`.",
        ],
    ),
    "6.5": Exercise(
        Value(
            cell,
            four,
            names=("constant", "times u", "times v", "times u v"),
            mistakes={
                "u goes down the rows, v along the columns: z10 is the pixel below z00": lambda a, b, c, d: cell(
                    a, c, b, d
                )
            },
        ),
        [
            "Multiply out (1 − u)(1 − v) z00 + (1 − u) v z01 + u (1 − v) z10 + u v z11 and collect 1, u, v and u v.",
            "At u = v = 0 only the constant is left. At v = 0 it is a straight line in u from z00 to z10.",
        ],
    ),
    "6.6": Exercise(
        All(
            [
                Gradient(
                    sample_clamped,
                    lambda rng: (a_map(rng), np.concatenate([inside_cells(rng, 6, 0), inside_cells(rng, 8, 2)])),
                    names=("dz", "dpoints"),
                    mistakes={
                        "a clamped coordinate does not move: its gradient is zero": lambda dy, z, p: sample_gradients(
                            dy, z, np.clip(p, 0, np.array(z.shape[:2]) - 1)
                        ),
                        "clamp first: what is read, and the map's gradient, are those at the clamped points": sample_gradients,
                        "each coordinate is clamped by itself: one may be free where the other is not": lambda dy, z, p: (
                            sample_gradients(dy, z, np.clip(p, 0, np.array([H, W]) - 1))[0],
                            sample_gradients(dy, z, np.clip(p, 0, np.array([H, W]) - 1))[1]
                            * ((p >= 0) & (p <= np.array([H, W]) - 1)).all(-1, keepdims=True),
                        ),
                    },
                ),
                Value(
                    clamped_gradients,
                    on_the_border,
                    names=("dz", "dpoints"),
                    mistakes={
                        "on the last pixel a step to the right changes nothing, so the slope there is 0: `<`": with_the_end,
                    },
                ),
            ]
        ),
        [
            "Two functions in a row: q = clip(points), y = φ(z; q). Call `read(z, q)` going down, its vjp going up.",
            "The vjp of clip is a mask: dpoints = dq where the coordinate was inside, 0 where it was not.",
            "`limit = np.array(z.shape[:2]) - 1`, and `dq * ((points >= 0) & (points < limit))`: one mask for each "
            "coordinate. It is `<` since a point at the limit does not move when it is pushed to the right.",
        ],
    ),
    "6.7": Exercise(
        Value(
            climb,
            lambda rng: (abs(rng.standard_normal((7, 9, 1))), rng.uniform(1, 5, 2), 0.05, 9),
            names=("point",),
            mistakes={
                "that goes down: add the gradient to climb": lambda z, p, rate, steps: climb(z, p, -rate, steps),
                "all steps use the gradient of the start: read again after each step": lambda z, p, rate, steps: (
                    p + steps * (climb(z, p, rate, 1) - p)
                ),
            },
        ),
        [
            "One step: `y, vjp = read(z, point[None])`. You want the gradient of y itself, which has one element: "
            "what is dy?",
            "y has shape (1, 1), and L = y, so dy = ∂L/∂y = `np.ones((1, 1))`. With one output, and only then, ones "
            "are right.",
            "`_, dpoints = vjp(np.ones((1, 1)))`, then `point = point + rate * dpoints[0]`; do it `steps` times.",
        ],
    ),
    "6.8": Exercise(
        Gradient(
            sample,
            crowded,
            names=("dz", "dpoints"),
            mistakes={
                "`dz[row, col] += …` keeps one of the points that share a pixel: use np.add.at": by_assignment,
                "the sum over the channels is missing": lambda dy, z, p: (
                    sample_gradients(dy, z, p)[0],
                    sample_gradients(dy * np.eye(C)[0], z, p)[1],
                ),
            },
        ),
        [
            "Begin as in 6.3: `first`, the fractions u and v, and a loop over the four corners with `row`, `col`, `inside`.",
            "Step 2, in the loop: `np.add.at(dz, (row, col), weight[:, None] * dy)`, with clipped indices and a weight that is 0 "
            "outside.",
            "Step 3: keep `(z[row, col] * dy).sum(-1) * inside` of each corner, for instance in a dict `d[i, j]`. "
            "The two lines of step 3 come after the loop.",
        ],
    ),
    "6.9": Exercise(
        Value(
            round_slopes,
            kinks_too,
            names=("slope",),
            mistakes={
                "the inner derivative is missing: cos(π t) has the slope −π sin(π t)": lambda a, n: round_slopes(
                    a, n, 1 / np.pi
                ),
                "the ½ in front is missing": lambda a, n: round_slopes(a, n, 2.0),
                "from distance 1 on the hat is 0, and so is its slope": lambda a, n: (
                    -np.pi / 2 * np.sin(np.pi * (a[:, None] - np.arange(n)))
                ),
            },
        ),
        [
            "Let t = a − b. The chain rule: the slope of cos(π t) is −sin(π t) times the slope of π t.",
            "It holds for |t| < 1 only: `np.where(abs(t) < 1, …, 0.0)`.",
        ],
    ),
}
