"""Exercises of chapter 00: a warm-up."""

import numpy as np

from minidat import ops
from minidat.tutorial.contracts import Behaviour, Value, Wrong, call, compare
from minidat.tutorial.report import Exercise


def softmax(scores):
    return ops.softmax.raw(scores)[0]


def softmax_of_columns(scores):
    return softmax(scores.T).T


def scores(rng):
    drawn = rng.standard_normal((4, 5)) + np.array([[0.0], [3.0], [-2.0], [800.0]])
    drawn[3, 0] = -800.0
    return (drawn,)


def centre(weights):
    share = weights / weights.sum()
    return np.array([(np.arange(size) * share.sum(1 - axis)).sum() for axis, size in enumerate(share.shape)])


def nearest(points, places):
    return np.linalg.norm(points - places[:, None], axis=-1).min(1)


def slope(w, h, s):
    return s * h / np.cosh(w * h) ** 2


def try_measured(answer):
    """On a function with cross terms, so that an element moved for good would be noticed."""
    worst = 0.0
    for seed in range(3):
        rng = np.random.default_rng(seed)
        matrix, x = rng.standard_normal((5, 5)), rng.standard_normal(5)

        def f(x, matrix=matrix):
            return float(np.sin(x) @ matrix @ x)

        expected = np.cos(x) * (matrix @ x) + np.sin(x) @ matrix
        one_sided = np.array([(f(x + 1e-3 * e) - f(x)) / 1e-3 for e in np.eye(5)])
        known = {
            "go to both sides, and divide by 2 · step": [one_sided],
            "the two are 2 · step apart: divide by that": [2 * expected],
            "not divided by the distance": [2e-3 * expected],
        }
        for step, tolerance in ((1e-3, 1e-5), (1e-5, 1e-8)):
            got = call(answer, (f, x.copy(), step))
            if step == 1e-3 or np.shape(got) != (5,):
                worst = max(worst, compare([got], [expected], ["dx"], "exact", known, tolerance))
            elif not abs(np.asarray(got) - expected).max() < tolerance:
                raise Wrong(
                    f"with step {step:g} it is off by {abs(got - expected).max():.3g}: use the step that is given"
                )
    return worst


EXERCISES = {
    "0.1": Exercise(
        Value(
            softmax,
            scores,
            names=("weights",),
            mistakes={"rows add up to 1, not columns: sum along axis −1": softmax_of_columns},
        ),
        [
            "Three steps: subtract each row's largest score, take `np.exp`, divide by each row's sum.",
            "`scores.max(-1, keepdims=True)` has the shape (n, 1), so that it is subtracted row by row.",
        ],
    ),
    "0.2": Exercise(
        Value(
            centre,
            lambda rng: (rng.uniform(0, 1, (4, 7)),),
            names=("centre",),
            mistakes={
                "divide by the sum of all weights first": lambda weights: centre(weights) * weights.sum(),
                "the weights are not used: that is the middle of the map": lambda weights: centre(
                    np.ones_like(weights)
                ),
            },
        ),
        [
            "`share = weights / weights.sum()` adds up to 1. The mean row is Σ share · row, over all pixels.",
            "`rows, cols = np.mgrid[0:H, 0:W]` gives each pixel's row and column, (H, W) each.",
        ],
    ),
    "0.3": Exercise(
        Value(
            nearest,
            lambda rng: (rng.uniform(0, 9, (5, 7, 2)), rng.uniform(0, 9, (5, 2))),
            names=("distance",),
            mistakes={
                "that is the squared distance: take the root": lambda p, at: nearest(p, at) ** 2,
                "that is the mean over all points: take the smallest": lambda p, at: np.linalg.norm(
                    p - at[:, None], axis=-1
                ).mean(1),
                "that is the farthest point": lambda p, at: np.linalg.norm(p - at[:, None], axis=-1).max(1),
            },
        ),
        [
            "`places[:, None]` has the shape (B, 1, 2), and can be subtracted from (B, N, 2).",
            "Square, sum over the last axis, take the root: (B, N). Then the smallest along axis 1.",
        ],
    ),
    "0.4": Exercise(
        Value(
            slope,
            lambda rng: (float(rng.uniform(0.5, 2)), rng.standard_normal(6), float(rng.uniform(1, 3))),
            names=("slope",),
            mistakes={
                "the inner derivative is missing: ∂(w h)/∂w = h": lambda w, h, s: s / np.cosh(w * h) ** 2,
                "that is ∂y/∂h: differentiate by w": lambda w, h, s: s * w / np.cosh(w * h) ** 2,
                "s stays, as a factor": lambda w, h, s: h / np.cosh(w * h) ** 2,
            },
        ),
        [
            "Let u = w h. Then y = s tanh(u), so ∂y/∂w = s tanh'(u) · ∂u/∂w.",
            "tanh'(u) = 1 − tanh²(u), and ∂u/∂w = h.",
        ],
    ),
    "0.5": Exercise(
        Value(
            lambda X, w, t: X.T @ (X @ w - t),
            lambda rng: (rng.standard_normal((5, 3)), rng.standard_normal(3), rng.standard_normal(5)),
            names=("dw",),
            mistakes={
                "the ½ takes away the 2 of the square": lambda X, w, t: 2 * X.T @ (X @ w - t),
                "the target is missing: the error is X w − t": lambda X, w, t: X.T @ X @ w,
            },
        ),
        [
            "Let e_i = Σ_j X_ij w_j − t_i, so L = ½ Σ_i e_i². Then ∂L/∂w_j = Σ_i e_i ∂e_i/∂w_j.",
            "∂e_i/∂w_j = X_ij. The sum over i runs over the first index of X: `X.T @ e`.",
        ],
    ),
    "0.6": Exercise(
        Behaviour(try_measured),
        [
            "For each i, make two copies of x, add `step` to element i of the one and subtract it from that of the "
            "other.",
            "`(f(up) - f(down)) / (2 * step)` is element i of the result.",
        ],
    ),
}
