"""Exercises of chapter 13: training."""

import numpy as np

from minidat.tutorial.contracts import Value
from minidat.tutorial.report import Exercise


def decode(records):
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0]


def some_records(rng):
    return (rng.integers(0, 256, (2, 3073)).astype(np.uint8),)


def rates(base, total, warmup, minimum, start=0):
    t = np.arange(total)
    cosine = minimum + (base - minimum) * (1 + np.cos(np.pi * np.maximum(t - start, 0) / (total - start))) / 2
    return np.where(t < warmup, base * t / max(warmup, 1), cosine)


def shares(beta, t):
    return (1 - beta) * beta ** (t - np.arange(1, t + 1)) / (1 - beta**t)


def adamw(theta, g, m, v, t, rate, decay, *, corrected=True, coupled=False, kept=None, square=True):
    grad = g + decay * theta if coupled else g
    m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad * grad
    mean, size = (m / (1 - 0.9**t), v / (1 - 0.999**t)) if corrected else (m, v)
    kept = (1 if coupled else 1 - rate * decay) if kept is None else kept
    return kept * theta - rate * mean / ((np.sqrt(size) if square else size) + 1e-8), m, v


def adamw_inputs(rng):
    theta, g, m = (rng.standard_normal((3, 4)) for _ in range(3))
    v = 0.1 * rng.random((3, 4))
    g[0, 0] = m[0, 0] = v[0, 0] = 0  # a number that never had a gradient
    return theta, g, 0.3 * m, v, int(rng.integers(2, 9)), 0.03, 0.4


def clip(gradients, limit, *, always=False, power=1.0):
    norm = np.sqrt(sum((g * g).sum() for g in gradients)) ** power
    factor = limit / norm if always else min(1.0, limit / norm)
    return [g * factor for g in gradients]


def clip_inputs(rng):
    limit = 5.0 if rng.random() > 0.5 else 99.0  # the first seeds have one below and two above
    return [2 * rng.standard_normal((3, 4)), 3 * rng.standard_normal(5)], limit


def floor(classes, smoothing):
    other = smoothing / classes
    label = 1 - smoothing + other
    return -label * np.log(label) - (classes - 1) * other * np.log(other)


def compare(a, b):
    d = a.astype(float) - b
    return d.mean(), d.std() / np.sqrt(len(d))


def two_runs(rng):
    hard = rng.random(400)
    return hard + 0.2 * rng.random(400) < 0.8, hard + 0.2 * rng.random(400) < 0.75


def adam_walk(mu, s, batch, rate, steps, *, root=True, averaged=True):
    size = np.sqrt(mu**2 + s**2 / batch)
    scatter = s / (np.sqrt(batch) if averaged else 1)
    return steps * rate * mu / size, (np.sqrt(steps) if root else steps) * rate * scatter / size


def a_walk(rng):
    return 0.5 + rng.random(), 3 + rng.random(), int(rng.integers(4, 30)), 0.1 * rng.random(), int(rng.integers(2, 9))


def decay_and_push(rates, decay):
    return np.prod(1 - decay * rates), rates.sum()


def pushed_and_decayed(rates, decay):
    theta = 0.0
    for rate in rates:
        theta = (1 - rate * decay) * theta + rate
    return theta


EXERCISES = {
    "13.1": Exercise(
        Value(
            decode,
            some_records,
            names=("images", "labels"),
            mistakes={
                "the bytes lie as (channel, row, column): reshape to that first, then move the axis": lambda r: (
                    r[:, 1:].reshape(-1, 32, 32, 3),
                    r[:, 0],
                ),
                "rows and columns are exchanged": lambda r: (decode(r)[0].swapaxes(1, 2), r[:, 0]),
                "the colours are in the order blue, green, red": lambda r: (decode(r)[0][..., ::-1], r[:, 0]),
                "the label is the first byte of a record, the image begins after it": lambda r: (
                    r[:, :-1].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1),
                    r[:, -1],
                ),
            },
        ),
        [
            "`records[:, 0]` are the labels. What shape do the other 3072 bytes have, as they lie in the file?",
            "`records[:, 1:].reshape(-1, 3, 32, 32)` is (image, channel, row, column).",
            "`.transpose(0, 2, 3, 1)` puts the channels last.",
        ],
    ),
    "13.2": Exercise(
        Value(
            rates,
            lambda rng: (1.0 + rng.random(), int(rng.integers(30, 40)), 7, 0.1),
            names=("rates",),
            mistakes={
                "the cosine counts from step 0, the warm-up's steps included": lambda b, t, w, m: rates(b, t, w, m, w),
                "the rate ends at η_min, not at 0": lambda b, t, w, m: rates(b, t, w, 0.0),
                "half a cosine: the argument goes from 0 to π": lambda b, t, w, m: np.where(
                    np.arange(t) < w, b * np.arange(t) / w, m + (b - m) * (1 + np.cos(2 * np.pi * np.arange(t) / t)) / 2
                ),
                "the line starts at 0 for t = 0": lambda b, t, w, m: np.where(
                    np.arange(t) < w, b * (np.arange(t) + 1) / w, rates(b, t, w, m)
                ),
                "the warm-up is missing": lambda b, t, w, m: rates(b, t, 0, m),
            },
        ),
        [
            "Compute both branches for all steps: `t = np.arange(total)`.",
            "`np.where(t < warmup, line, cosine)` takes the one or the other at each step.",
            "The cosine: `minimum + (base - minimum) * (1 + np.cos(np.pi * t / total)) / 2`.",
        ],
    ),
    "13.3": Exercise(
        Value(
            shares,
            lambda rng: (0.5 + 0.4 * rng.random(), int(rng.integers(3, 9))),
            names=("shares",),
            mistakes={
                "these are the shares in m; those in m̂ add up to 1": lambda b, t: shares(b, t) * (1 - b**t),
                "the newest gradient, the last, counts most": lambda b, t: shares(b, t)[::-1],
                "the factor 1 − β is missing": lambda b, t: shares(b, t) / (1 - b),
                "all alike would be a plain mean": lambda b, t: np.full(t, 1 / t),
            },
        ),
        [
            "Step 2 has the share of g_i in m_t: what stands in front of it?",
            "(1 − β) βᵗ⁻ⁱ, and m̂ = m/(1 − βᵗ).",
            "`i = np.arange(1, t + 1)` gives all of them at once. Add them up: they must give 1.",
        ],
    ),
    "13.4": Exercise(
        Value(
            adamw,
            adamw_inputs,
            names=("theta", "m", "v"),
            mistakes={
                "m and v are used as they are: divide by 1 − βᵗ": lambda *a: adamw(*a, corrected=False),
                "the decay goes through Adam there (that is Adam with L2, not AdamW)": lambda *a: adamw(
                    *a, coupled=True
                ),
                "the decay is multiplied by the rate: 1 − η λ": lambda *a: adamw(*a, kept=1 - a[6]),
                "the decay is missing": lambda *a: adamw(*a, kept=1.0),
                "divide by the root of v̂": lambda *a: adamw(*a, square=False),
                "t is 1 at the first step: no t + 1": lambda *a: adamw(*a[:4], a[4] + 1, *a[5:]),
                "the gradient is the old m's: renew m and v first": lambda *a: (
                    (1 - a[5] * a[6]) * a[0]
                    - a[5] * a[2] / (1 - 0.9 ** a[4]) / (np.sqrt(a[3] / (1 - 0.999 ** a[4])) + 1e-8),
                    *adamw(*a)[1:],
                ),
            },
        ),
        [
            "Three lines: the new m, the new v, the new θ. The loops above say what each element does.",
            "`m = 0.9 * m + 0.1 * g` makes a new array; `m *= 0.9` would write into the caller's.",
            "`(1 - rate * decay) * theta - rate * mean / (np.sqrt(square) + 1e-8)` with mean and square corrected.",
        ],
    ),
    "13.5": Exercise(
        Value(
            clip,
            clip_inputs,
            names=("first", "second"),
            mistakes={
                "each array is clipped by itself: the norm is that of all of them together": lambda g, c: [
                    clip([one], c)[0] for one in g
                ],
                "a gradient below the limit is left as it is": lambda g, c: clip(g, c, always=True),
                "the norm is the root of the sum of squares": lambda g, c: clip(g, c, power=2.0),
                "that clips elements: every element of a clipped gradient is scaled by one factor": lambda g, c: [
                    np.clip(one, -c, c) for one in g
                ],
            },
        ),
        [
            "First one number: the sum of the squares of all elements of all arrays, and its root.",
            "Then one factor: `min(1.0, limit / norm)`.",
            "Return a new list, `[g * factor for g in gradients]`.",
        ],
    ),
    "13.6": Exercise(
        Value(
            floor,
            lambda rng: (int(rng.integers(5, 50)), 0.05 + 0.3 * rng.random()),
            names=("floor",),
            mistakes={
                "zero is the floor without smoothing only": lambda k, e: 0.0,
                "that is the loss of a guess": lambda k, e: np.log(k),
                "the label's own target is 1 − ε + ε/K: it gets a share of ε too": lambda k, e: (
                    -(1 - e) * np.log(1 - e) - (k - 1) * e / k * np.log(e / k)
                ),
                "ε is spread over all K classes, not over the K − 1 others": lambda k, e: (
                    -(1 - e) * np.log(1 - e) - e * np.log(e / (k - 1))
                ),
                "there are K − 1 other classes": lambda k, e: floor(k, e) + e / k * np.log(e / k) * (k - 2),
                "entropies are positive: a minus in front": lambda k, e: -floor(k, e),
            },
        ),
        [
            "At its floor the loss is −Σ y ln y. Which values does y have, and how often?",
            "Once 1 − ε + ε/K, for the label; K − 1 times ε/K.",
        ],
    ),
    "13.7": Exercise(
        Value(
            compare,
            two_runs,
            names=("difference", "error"),
            mistakes={
                "both saw the same images: that formula is for two independent sets": lambda a, b: (
                    compare(a, b)[0],
                    np.sqrt((a.mean() * (1 - a.mean()) + b.mean() * (1 - b.mean())) / len(a)),
                ),
                "that is the spread of one image; the mean of n has it divided by √n": lambda a, b: (
                    compare(a, b)[0],
                    (a.astype(float) - b).std(),
                ),
                "take `std` as NumPy has it, which divides by n and not by n − 1": lambda a, b: (
                    compare(a, b)[0],
                    (a.astype(float) - b).std(ddof=1) / np.sqrt(len(a)),
                ),
                "the difference is the first minus the second": lambda a, b: (-compare(a, b)[0], compare(a, b)[1]),
            },
        ),
        [
            "Subtract image by image: d is 1, 0 or −1. (Booleans do not subtract: `a.astype(float) - b`.)",
            "The difference of the accuracies is the mean of d.",
            "The standard error of a mean of n numbers is their standard deviation divided by √n.",
        ],
    ),
    "13.8": Exercise(
        Value(
            adam_walk,
            a_walk,
            names=("moved", "scatter"),
            mistakes={
                "variances add up over steps, standard deviations do not: √J": lambda *i: adam_walk(*i, root=False),
                "a mean of B images scatters less than one image: s/√B": lambda *i: adam_walk(*i, averaged=False),
                "the mean square of a batch's gradient is μ² plus its variance": lambda mu, s, b, rate, k: (
                    k * rate * mu / (s / np.sqrt(b)),
                    np.sqrt(k) * rate,
                ),
                "that is plain descent: divide by the root of v̂": lambda mu, s, b, rate, k: (
                    k * rate * mu,
                    np.sqrt(k) * rate * s / np.sqrt(b),
                ),
                "v̂ is of the batch's gradient, whose variance is s²/B": lambda mu, s, b, rate, k: (
                    k * rate * mu / np.hypot(mu, s),
                    np.sqrt(k) * rate * s / np.sqrt(b) / np.hypot(mu, s),
                ),
            },
        ),
        [
            "The gradient of a batch is a mean of B independent numbers. Its mean is μ. And its variance?",
            "s²/B. The mean square of a random number is its mean squared plus its variance: μ² + s²/B.",
            "One step is η g/√(μ² + s²/B). Over J steps means add up, and variances add up.",
        ],
    ),
    "13.9": Exercise(
        Value(
            decay_and_push,
            lambda rng: (0.1 * rng.random(12), 0.5 + rng.random()),
            names=("left", "pushed"),
            mistakes={
                "each step multiplies by 1 − η λ: a product, not a sum": lambda rates, decay: (
                    1 - decay * rates.sum(),
                    rates.sum(),
                ),
                "the decay is multiplied by the rate of its step": lambda rates, decay: (
                    (1 - decay) ** len(rates),
                    rates.sum(),
                ),
                "that is close, but a step multiplies by 1 − η λ exactly": lambda rates, decay: (
                    np.exp(-decay * rates.sum()),
                    rates.sum(),
                ),
                "θ ← θ − η u with u = −1 goes up": lambda rates, decay: (np.prod(1 - decay * rates), -rates.sum()),
                "it does not decay": lambda rates, decay: (
                    np.prod(1 - decay * rates),
                    pushed_and_decayed(rates, decay),
                ),
            },
        ),
        [
            "Look at AdamW's last equation with the gradient's part left out. What does it do to θ?",
            "`np.prod(1 - decay * rates)` is what is left.",
            "Without decay a step adds −η u = η.",
        ],
    ),
}
