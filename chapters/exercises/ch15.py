"""Exercises of chapter 15: turning knobs."""

from dataclasses import replace

import numpy as np

from minidat.models import zoo
from minidat.tutorial.contracts import All, Behaviour, Gradient, NotAttempted, Value, Wrong, call
from minidat.tutorial.report import Exercise


def reach(s, size, keys, convention):
    return s / (max(keys - 1, 1) if convention == "paper" else keys) * (size - 1) / 2


def a_reach(rng, keys, convention):
    size = int(rng.integers(9, 15))
    return float(rng.uniform(1, 9)), size, keys or size, convention


def points(offsets, p, s, u):
    return p + s * u * np.tanh(offsets)


def points_vjp(dP, offsets, p, s, u):
    t = np.tanh(offsets)
    return s * u * (1 - t * t) * dP, (u * t * dP).sum()


def moved(rng):
    return rng.standard_normal((5, 2)), rng.uniform(0, 6, (5, 2)), np.array(rng.uniform(1, 3)), rng.uniform(0.3, 0.9, 2)


def share_lost(n, a, margin=1.0):
    i = np.arange(n)
    kept = np.minimum(i + a, n - 1 + margin) - np.maximum(i - a, -margin)
    return 1 - (kept / (2 * a)).mean()


T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # by degrees of freedom, from 1


def mean(row):
    return sum(row.values()) / len(row)


def paired(ours, base, *, ddof=1, root=True, t=None, freedom=1):
    """experiments/statistics.py, which a test holds it to; with slips of the pen"""
    d = np.array([ours[seed] - base[seed] for seed in ours if seed in base])
    t = T95[len(d) - 1 - freedom] if t is None else t
    return d.mean(), t * d.std(ddof=ddof) / (len(d) ** 0.5 if root else 1)


def as_two_heaps(ours, base):
    common = ours.keys() & base.keys()
    heaps = [np.array([row[seed] for seed in common]) for row in (ours, base)]
    error = np.sqrt(sum(heap.var(ddof=1) / len(heap) for heap in heaps))
    return paired(ours, base)[0], T95[len(common) - 2] * error


def two_rows(rng):
    """Each row has a seed that the other has not."""
    common = int(rng.integers(2, 6))
    luck = rng.normal(0, 1, common + 2)
    ours = {seed: 61 + luck[seed] + rng.normal(0, 0.4) for seed in range(common + 1)}
    base = {seed: 60 + luck[seed] + rng.normal(0, 0.4) for seed in (*range(1, common + 1), common + 1)}
    return ours, base


def position_parameters(heads, dim, h, w, n):
    return heads * (2 * h - 1) * (2 * w - 1), heads * h * w * n, 10 * dim


def offset_network_cost(dim, groups, kernel, n):
    width = dim // groups
    return width * (kernel**2 + 5), n * dim * (kernel**2 + 2)


def runs_of_each(sigma, delta, factor=8):
    return int(np.ceil(factor * sigma**2 / delta**2))


def descend(offsets, p, s, u, target, rate, steps, learn):
    for _ in range(steps):
        doffsets, ds = points_vjp(points(offsets, p, s, u) - target, offsets, p, s, u)
        offsets, s = offsets - rate * doffsets, s - learn * rate * ds
    return offsets, s


def one_after_the_other(offsets, p, s, u, target, rate, steps, learn):
    for _ in range(steps):
        offsets = offsets - rate * points_vjp(points(offsets, p, s, u) - target, offsets, p, s, u)[0]
        s = s - learn * rate * points_vjp(points(offsets, p, s, u) - target, offsets, p, s, u)[1]
    return offsets, s


def a_descent(rng):
    offsets, p, _, u = moved(rng)
    return offsets, p, float(rng.uniform(1, 3)), u, p + rng.uniform(-3, 3, p.shape), 0.1, 4, bool(rng.integers(2))


def letters(config):
    return " · ".join("".join(stage.mixers) for stage in config.stages)


def try_deformable_from(answer):
    for name in ("dat_tiny", "dat_cifar"):
        config = zoo.config(name)
        for first in range(1, len(config.stages) + 2):
            before = letters(config)
            got = call(answer, (config, first))
            if got is None or got is Ellipsis:
                raise NotAttempted
            if not hasattr(got, "stages"):
                raise Wrong(f"a Config is asked for, this is of type {type(got).__name__}")
            stages = tuple(
                replace(
                    stage,
                    mixers=tuple(
                        ("D" if number >= first else "S") if i % 2 else letter for i, letter in enumerate(stage.mixers)
                    ),
                )
                for number, stage in enumerate(config.stages, 1)
            )
            right = replace(config, stages=stages)
            if letters(got) != letters(right):
                raise Wrong(f"{name} ({before}), first = {first}: yours {letters(got)}, expected {letters(right)}")
            if got != right:
                raise Wrong(f"{name}, first = {first}: the letters are right, but something else has changed too")


EXERCISES = {
    "15.1": Exercise(
        All(
            [
                Value(
                    reach,
                    lambda rng, keys=keys, convention=convention: a_reach(rng, keys, convention),
                    names=("reach",),
                    mistakes={
                        "the whole travel, from one end to the other: each way it is half of that": lambda *i: (
                            2 * reach(*i)
                        ),
                        "[−1, 1] spans size − 1 pixels, from centre to centre": lambda s, size, keys, c: (
                            reach(s, size, keys, c) * size / (size - 1)
                        ),
                        "that is the other convention": lambda s, size, keys, c: reach(
                            s, size, keys, "paper" if c == "v1" else "v1"
                        ),
                        "that is in units of [−1, 1], not in pixels": lambda s, size, keys, c: reach(s, 3, keys, c),
                    },
                )
                for keys in (6, 1, None)
                for convention in ("paper", "v1")
            ]
        ),
        [
            "tanh reaches 1 at most, so the reach is s · u. The text gives u for both conventions.",
            'The convention decides the divisor: `keys - 1` gaps in "paper", `keys` points in "v1".',
            '`s / divisor * (size - 1) / 2`, with `max(keys - 1, 1)` in "paper" so that a single point is no division by zero.',
        ],
    ),
    "15.2": Exercise(
        Gradient(
            points,
            moved,
            names=("doffsets", None, "ds", None),
            mistakes={
                "s belongs in front of the offsets' gradient: step 3": lambda dP, o, p, s, u: (
                    points_vjp(dP, o, p, 1.0, u)[0],
                    points_vjp(dP, o, p, s, u)[1],
                ),
                "u is missing": lambda dP, o, p, s, u: points_vjp(dP, o, p, s, 1.0),
                "1 − t is not 1 − t²": lambda dP, o, p, s, u: (
                    s * u * (1 - np.tanh(o)) * dP,
                    points_vjp(dP, o, p, s, u)[1],
                ),
            },
        ),
        [
            "Compute `t = np.tanh(offsets)` first; both results use it.",
            "Step 3 has no sum: `s * u * (1 - t * t) * dP`. `u` has shape (2,) and spreads over the points by itself.",
            "Step 4 sums over points and coordinates: `(u * t * dP).sum()`. Return the two.",
        ],
    ),
    "15.3": Exercise(
        Value(
            share_lost,
            lambda rng: (int(rng.integers(5, 12)), float(rng.uniform(1.5, 9))),
            names=("share",),
            mistakes={
                "that is the share that is kept": lambda n, a: 1 - share_lost(n, a),
                "a point is lost only beyond −1 and h, one pixel outside": lambda n, a: share_lost(n, a, 0.0),
                "the last pixel is h − 1, so beyond it one more pixel is forgiven: h": lambda n, a: (
                    1 - ((np.minimum(np.arange(n) + a, n + 1) - np.maximum(np.arange(n) - a, -1)) / (2 * a)).mean()
                ),
                "the interval from i − d to i + d is 2d long": lambda n, a: 1 - 2 * (1 - share_lost(n, a)),
            },
        ),
        [
            "The interval [i − d, i + d] is cut at −1 and at h. What are the two ends of what is left?",
            "From the larger of i − d and −1 to the smaller of i + d and h. Divide its length by 2d: that is the share kept.",
            "With `i = np.arange(h)`: `kept = np.minimum(i + d, h) - np.maximum(i - d, -1)`; "
            "1 minus the mean of `kept / (2 * d)` over the points.",
        ],
    ),
    "15.4": Exercise(
        Value(
            paired,
            two_rows,
            names=("difference", "half"),
            mistakes={
                "that is base minus ours": lambda ours, base: paired(base, ours),
                "only seeds that both have make a pair": lambda ours, base: (mean(ours) - mean(base), 0.0),
                "the spread is of the differences, seed by seed, not of two heaps": as_two_heaps,
                "the standard deviation of a sample divides by R − 1: `ddof=1`": lambda ours, base: paired(
                    ours, base, ddof=0
                ),
                "the interval is of the mean: divide by √R": lambda ours, base: paired(ours, base, root=False),
                "with few seeds 2 is too small: take t": lambda ours, base: paired(ours, base, t=2.0),
                "with few seeds 1.96 is too small: take t": lambda ours, base: paired(ours, base, t=1.96),
                "R seeds have R − 1 degrees of freedom": lambda ours, base: paired(ours, base, freedom=0),
            },
        ),
        [
            "Which seeds are in both? `[seed for seed in ours if seed in base]`. Then one difference for each: an array of R.",
            "Its mean is the first result. Its standard deviation, with `ddof=1`, divided by √R, is the standard error.",
            "Half of the interval is `T95[R - 1]` standard errors.",
        ],
    ),
    "15.5": Exercise(
        Value(
            runs_of_each,
            lambda rng: (float(rng.uniform(1, 3)), float(rng.uniform(0.2, 0.9))),
            names=("runs",),
            tolerance=1e-12,  # a whole number
            mistakes={
                "the difference of two means has the variance of both: 2σ²/R": lambda s, d: runs_of_each(s, d, 4),
                "at twice its standard error is asked for": lambda s, d: runs_of_each(s, d, 2),
                "that is for one mean at one standard error": lambda s, d: runs_of_each(s, d, 1),
                "rounded down it is one run too few": lambda s, d: int(8 * s**2 / d**2),
                "a whole number of runs is asked for, rounded up": lambda s, d: 8 * s**2 / d**2,
                "the standard error falls with √R, so R goes with the square": lambda s, d: int(
                    np.ceil(8**0.5 * s / d)
                ),
            },
        ),
        [
            "What is the variance of a mean of R independent runs? And of the difference of two such means?",
            "σ²/R, and 2σ²/R. So δ must be at least 2 √(2σ²/R).",
            "Solve for R: 8σ²/δ². Round up with `np.ceil`.",
        ],
    ),
    "15.6": Exercise(
        Value(
            position_parameters,
            lambda rng: (int(rng.integers(2, 5)), 24, int(rng.integers(4, 7)), 9, int(rng.integers(10, 20))),
            names=("relative", "fixed", "depthwise"),
            tolerance=1e-12,  # counts are whole numbers
            mistakes={
                "each head has a table of its own": lambda m, c, h, w, n: (
                    (2 * h - 1) * (2 * w - 1),
                    h * w * n,
                    10 * c,
                ),
                "displacements run from −(h − 1) to h − 1: 2h − 1 of them": lambda m, c, h, w, n: (
                    m * 2 * h * 2 * w,
                    m * h * w * n,
                    10 * c,
                ),
                "the convolution has a bias for each channel": lambda m, c, h, w, n: (
                    *position_parameters(m, c, h, w, n)[:2],
                    9 * c,
                ),
                "a depthwise convolution has one 3 × 3 kernel a channel, not one for each pair": lambda m, c, h, w, n: (
                    *position_parameters(m, c, h, w, n)[:2],
                    9 * c * c + c,
                ),
            },
        ),
        [
            "Relative: one number for each whole displacement, for each head. How many row displacements are there on h rows?",
            "Fixed: one number for each query (h · w of them), each point (n) and each head.",
            "Depthwise: each channel has its own 3 × 3 kernel and one bias. Together: `heads * (2*h - 1) * (2*w - 1)`, "
            "`heads * h * w * n`, `10 * dim`.",
        ],
    ),
    "15.7": Exercise(
        Behaviour(try_deformable_from),
        [
            "Go through `enumerate(config.stages, 1)` and build a list of changed stages; "
            "`replace(config, stages=tuple(…))` at the end.",
            "Within a stage the second block of each pair has an odd index: `i % 2` is 1 there.",
            'The letter of such a block is `"D" if number >= first else "S"`; all other letters stay. '
            "`replace(stage, mixers=tuple(…))`.",
        ],
    ),
    "15.8": Exercise(
        Value(
            offset_network_cost,
            lambda rng: (48, (2, 3, 4)[int(rng.integers(3))], (3, 5)[int(rng.integers(2))], int(rng.integers(9, 30))),
            names=("parameters", "multiply-adds"),
            tolerance=1e-12,  # counts are whole numbers
            mistakes={
                "one network serves all groups: its parameters are counted once": lambda c, g, k, n: (
                    c * (k * k + 5),
                    n * c * (k * k + 2),
                ),
                "it runs once for each group": lambda c, g, k, n: (
                    offset_network_cost(c, g, k, n)[0],
                    n * c // g * (k * k + 2),
                ),
                "the layer norm has a scale and a shift for each channel": lambda c, g, k, n: (
                    c // g * (k * k + 3),
                    n * c * (k * k + 2),
                ),
                "depthwise: each channel has one k × k kernel": lambda c, g, k, n: (
                    (c // g) ** 2 * k * k + 5 * (c // g),
                    n * c * (k * k + 2),
                ),
            },
        ),
        [
            "Let e = C/G. Parameters: e kernels of k × k and e biases; two vectors of e for the layer norm; a matrix (e, 2).",
            "A weight that is met once at each position costs as many multiply-adds as there are positions. "
            "Biases cost none here.",
            "`e * (k*k + 1) + 2*e + 2*e` parameters; `groups * n * e * (k*k + 2)` multiply-adds.",
        ],
    ),
    "15.9": Exercise(
        Value(
            descend,
            a_descent,
            names=("offsets", "s"),
            mistakes={
                "that goes up: subtract the gradient": lambda o, p, s, u, target, rate, steps, learn: descend(
                    o, p, s, u, target, -rate, steps, learn
                ),
                "s is moved by a gradient that was computed after the offsets had moved": one_after_the_other,
                "s moves only where `learn` is true": lambda *inputs: descend(*inputs[:-1], True),
                "s never moves, also where `learn` is true": lambda *inputs: descend(*inputs[:-1], False),
            },
        ),
        [
            "One step: compute P with `points`, then dP = P − target, then both gradients with your `points_vjp`.",
            "Keep both gradients before you change anything, then change offsets and s.",
            "`offsets = offsets - rate * doffsets`, not `-=`: the latter writes to the array you were given. "
            "And `s = s - learn * rate * ds`: True counts as 1.",
        ],
    ),
}
