"""Answers to chapter 15: `right` ones, written otherwise than the solution; `wrong` ones, with what must be said of them."""

from dataclasses import replace
from math import tanh

import numpy as np


def reach(s, size, keys, convention):
    unit = 2 * s / (keys if convention == "v1" or keys == 1 else keys - 1)
    return unit / 2 * (size - 1) / 2


def points_vjp(dP, offsets, p, s, u):
    doffsets, ds = np.zeros(offsets.shape), 0.0
    for n, c in np.ndindex(*offsets.shape):
        t = tanh(offsets[n, c])
        doffsets[n, c] = s * u[c] * (1 - t**2) * dP[n, c]
        ds += u[c] * t * dP[n, c]
    return doffsets, ds


def vjp_with(change):
    return lambda *inputs: change(*points_vjp(*inputs))


def share_lost(n, a):
    share = 0.0
    for i in range(n):
        share += max(0.0, -1 - (i - a)) + max(0.0, (i + a) - n)
    return share / (2 * a * n)


T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365}


def seed_by_seed(ours, base, *, less=1, of_mean=True, t=lambda r: T95[r - 1]):
    """Exercise 15.4 with sums written out."""
    total, r = 0.0, len(set(ours) & set(base))
    for seed in set(ours) & set(base):
        total += ours[seed] - base[seed]
    squares = sum((ours[seed] - base[seed] - total / r) ** 2 for seed in set(ours) & set(base))
    return total / r, t(r) * (squares / (r - less) / (r if of_mean else 1)) ** 0.5


def unpaired(ours, base):
    """The error of two heaps of numbers."""
    common = sorted(set(ours) & set(base))
    variances = [np.var([row[seed] for seed in common], ddof=1) / len(common) for row in (ours, base)]
    return seed_by_seed(ours, base)[0], T95[len(common) - 1] * sum(variances) ** 0.5


def position_parameters(heads, dim, h, w, n):
    displacements = {(i - k, j - m) for i in range(h) for j in range(w) for k in range(h) for m in range(w)}
    return heads * len(displacements), np.zeros((heads, h * w, n)).size, np.zeros((3, 3, dim)).size + dim


def deformable_from(config, first, letter="D", odd=1, count_from=1):
    changed = list(config.stages)
    for i, stage in enumerate(config.stages):
        mixers = list(stage.mixers)
        mixers[odd::2] = [letter if i + count_from >= first else "S"] * len(mixers[odd::2])
        changed[i] = replace(stage, mixers=tuple(mixers))
    return replace(config, stages=tuple(changed))


def offset_network_cost(dim, groups, kernel, n):
    e = dim // groups
    shapes = [(kernel, kernel, e), (e,), (e,), (e,), (e, 2)]
    once = n * (kernel * kernel * e + 2 * e)
    return sum(int(np.prod(shape)) for shape in shapes), sum(once for _ in range(groups))


def descend(offsets, p, s, u, target, rate, steps, learn, sign=1):
    for _ in range(steps):
        dP = p + s * u * np.tanh(offsets) - target
        doffsets, ds = points_vjp(dP, offsets, p, s, u)
        offsets = offsets - sign * rate * doffsets
        if learn:
            s = s - sign * rate * ds
    return offsets, s


def descend_in_place(offsets, p, s, u, target, rate, steps, learn):
    offsets -= rate * points_vjp(p + s * u * np.tanh(offsets) - target, offsets, p, s, u)[0]
    return offsets, s


def in_turn(offsets, p, s, u, target, rate, steps, learn):
    for _ in range(steps):
        offsets = descend(offsets, p, s, u, target, rate, 1, False)[0]
        s = descend(offsets, p, s, u, target, rate, 1, learn)[1]
    return offsets, s


def enough_runs(sigma, delta, networks=2, errors=2):
    """Exercise 15.5 by trying one run more."""
    runs = 1
    while delta < errors * (networks * sigma**2 / runs) ** 0.5:
        runs += 1
    return runs


ANSWERS = {
    "15.1": {
        "right": [reach],
        "wrong": [
            (lambda *i: 2 * reach(*i), "each way it is half of that"),
            (lambda s, size, keys, c: reach(s, size + 1, keys, c), "spans size − 1 pixels"),
            (lambda s, size, keys, c: reach(s, size, keys, "v1" if c == "paper" else "paper"), "other convention"),
            (lambda s, size, keys, c: reach(s, size, keys, c) * 2 / (size - 1), "units of [−1, 1]"),
            (lambda *i: -reach(*i), "(sign?)"),
        ],
    },
    "15.2": {
        "right": [points_vjp],
        "wrong": [
            (vjp_with(lambda do, ds: (-do, ds)), "(sign?)"),
            (vjp_with(lambda do, ds: (do.T, ds)), "(transposed?)"),
            (vjp_with(lambda do, ds: (do[:, ::-1], ds)), "(row and col swapped?)"),
            (vjp_with(lambda do, ds: (do, 0.0)), "a term missing?"),
            (lambda dP, o, p, s, u: points_vjp(np.ones(dP.shape), o, p, s, u), "cotangent of ones"),
            (lambda dP, o, p, s, u: (points_vjp(dP, o, p, s, u)[0] / s, points_vjp(dP, o, p, s, u)[1]), "step 3"),
            (lambda dP, o, p, s, u: points_vjp(dP, o, p, s, u / u), "u is missing"),
            (
                lambda dP, o, p, s, u: (s * u * (1 - np.tanh(o)) * dP, points_vjp(dP, o, p, s, u)[1]),
                "1 − t is not 1 − t²",
            ),
            (
                lambda dP, o, p, s, u: (points_vjp(dP, o, p, s, u)[0], u * np.tanh(o) * dP),
                "ds has shape (5, 2), but ()",
            ),
        ],
    },
    "15.3": {
        "right": [share_lost],
        "wrong": [
            (lambda n, a: 1 - share_lost(n, a), "share that is kept"),
            (
                lambda n, a: np.mean([max(0, a - i) + max(0, i + a - n + 1) for i in range(n)]) / (2 * a),
                "beyond −1 and h",
            ),
            (
                lambda n, a: np.mean([max(0, a - i - 1) + max(0, i + a - n - 1) for i in range(n)]) / (2 * a),
                "forgiven: h",
            ),
            (lambda n, a: 1 - 2 * (1 - share_lost(n, a)), "2d long"),
        ],
    },
    "15.4": {
        "right": [seed_by_seed],
        "wrong": [
            (lambda ours, base: seed_by_seed(base, ours), "base minus ours"),
            (lambda ours, base: (np.mean([*ours.values()]) - np.mean([*base.values()]), 1.0), "make a pair"),
            (unpaired, "seed by seed"),
            (lambda ours, base: seed_by_seed(ours, base, less=0), "ddof=1"),
            (lambda ours, base: seed_by_seed(ours, base, of_mean=False), "divide by √R"),
            (lambda ours, base: seed_by_seed(ours, base, t=lambda r: 2.0), "2 is too small"),
            (lambda ours, base: seed_by_seed(ours, base, t=lambda r: 1.96), "1.96 is too small"),
            (lambda ours, base: seed_by_seed(ours, base, t=lambda r: T95[r]), "R − 1 degrees"),
            (lambda ours, base: seed_by_seed(ours, base)[0], "one float"),
        ],
    },
    "15.5": {
        "right": [enough_runs],
        "wrong": [
            (lambda *i: enough_runs(*i, networks=1), "variance of both"),
            (lambda *i: enough_runs(*i, errors=1), "twice its standard error"),
            (lambda *i: enough_runs(*i, networks=1, errors=1), "for one mean"),
            (lambda *i: enough_runs(*i) - 1, "one run too few"),
            (lambda sigma, delta: 8 * (sigma / delta) ** 2, "rounded up"),
            (lambda sigma, delta: int(np.ceil(2 * 2**0.5 * sigma / delta)), "with the square"),
        ],
    },
    "15.6": {
        "right": [position_parameters],
        "wrong": [
            (lambda m, *i: position_parameters(1, *i), "each head"),
            (lambda m, c, h, w, n: (m * 4 * h * w, m * h * w * n, 10 * c), "2h − 1 of them"),
            (lambda *i: (*position_parameters(*i)[:2], 9 * i[1]), "a bias for each channel"),
            (lambda *i: (*position_parameters(*i)[:2], 9 * i[1] ** 2 + i[1]), "one 3 × 3 kernel a channel"),
        ],
    },
    "15.7": {
        "right": [deformable_from],
        "wrong": [
            (lambda config, first: config, "expected LD · LD"),
            (lambda config, first: deformable_from(config, first, count_from=0), "first = 1: yours LS"),
            (lambda config, first: deformable_from(config, first, odd=0), "first = 1: yours DS"),
            (
                lambda config, first: replace(deformable_from(config, first), drop_path=0.9),
                "something else has changed",
            ),
            (lambda config, first: deformable_from(config, first).stages, "a Config is asked for"),
        ],
    },
    "15.8": {
        "right": [offset_network_cost],
        "wrong": [
            (lambda c, g, k, n: (c * (k * k + 5), n * c * (k * k + 2)), "counted once"),
            (lambda c, g, k, n: (c // g * (k * k + 5), n * c // g * (k * k + 2)), "once for each group"),
            (lambda c, g, k, n: (c // g * (k * k + 3), n * c * (k * k + 2)), "a scale and a shift"),
            (lambda c, g, k, n: ((c // g) ** 2 * k * k + 5 * (c // g), n * c * (k * k + 2)), "one k × k kernel"),
        ],
    },
    "15.9": {
        "right": [descend],
        "wrong": [
            (lambda *i: descend(*i, sign=-1), "subtract the gradient"),
            (in_turn, "after the offsets had moved"),
            (lambda *i: descend(*i[:-1], True), "only where `learn` is true"),
            (lambda *i: descend(*i[:-1], False), "s never moves"),
            (descend_in_place, "it writes to its argument 0"),
        ],
    },
}
