"""Answers to chapter 17: `right` ones, written otherwise than the solution; `wrong` ones, with what must be said of them."""

import math

import numpy as np


def step_time(b, f, tau, bandwidth, speed):
    parts = np.zeros(3)
    for bytes_, flops in zip(b, f):
        limits = [tau, bytes_ / bandwidth, flops / speed]
        parts[limits.index(max(limits))] += max(limits)
    return parts.sum(), parts / parts.sum()


def sum_of_all(b, f, tau, bandwidth, speed):
    parts = np.array([tau * len(b), b.sum() / bandwidth, f.sum() / speed])
    return parts.sum(), parts / parts.sum()


def by_number(b, f, tau, bandwidth, speed):
    limits = np.array([np.full(b.shape, tau), b / bandwidth, f / speed])
    return limits.max(0).sum(), [(limits.argmax(0) == i).mean() for i in range(3)]


def rows(xp, z, rows):
    padded = xp.concatenate([z, xp.zeros((1, z.shape[1]))])  # row H is zero
    return padded[xp.where((rows < 0) | (rows >= len(z)), len(z), rows)]


def added(losses):
    return (sum(losses) * (1 / len(losses))).get().item()


def traffic(steps, kept, n):
    arrays = sum(len({*reads}) + 1 for reads, _ in steps)
    fused, seen = 0, set()
    for reads, write in steps:
        for name in set(reads) - seen:
            fused, seen = fused + 1, seen | {name}
        seen |= {write}
    return 4 * n * arrays, 4 * n * (fused + len({write for _, write in steps if write in kept}))


def by_size(x, bits):
    step = 2.0 ** (np.floor(np.log2(np.abs(x.astype(float)))) - bits)  # between neighbours
    return (np.round(x / step) * step).astype(np.float32)


def cut(x, bits):
    return (x.view(np.uint32) & np.uint32(2**32 - 2 ** (23 - bits))).view(np.float32)


def intensity(n, k, m):
    return 0.5 / (1 / m + 1 / n + 1 / k)


def in_units(values, bits):
    return sum(int(n) for n in np.round(np.asarray(values, float) * 2**bits)) / 2**bits


def up_or_down(x, bits, u):
    step = 2.0 ** (np.floor(np.log2(np.abs(x.astype(float)))) - bits)
    low = np.floor(x / step)
    return ((low + (u < x / step - low)) * step).astype(np.float32)


ANSWERS = {
    "17.1": {
        "right": [step_time],
        "wrong": [
            (sum_of_all, "not their sum"),
            (by_number, "not of the number of launches"),
            (lambda *a: step_time(*a)[0], "but 2 are asked for"),
            (lambda *a: (step_time(*a)[0], step_time(*a)[1][::-1]), "parts["),
        ],
    },
    "17.2": {
        "right": [intensity],
        "wrong": [
            (lambda n, k, m: intensity(n, k, m) / 2, "are two operations"),
            (lambda n, k, m: 4 * intensity(n, k, m), "four bytes"),
            (lambda n, k, m: n * m / (2 * (n + m)), "the result is written too"),
            (lambda n, k, m: 1 / intensity(n, k, m), "bytes for each operation"),
        ],
    },
    "17.3": {
        "right": [rows],
        "wrong": [
            (lambda xp, z, rows: z[rows], "raises IndexError"),
            (lambda xp, z, rows: z[xp.clip(rows, 0, len(z) - 1)], "with a plain array: y["),
            (lambda xp, z, rows: z[rows % len(z)], "count as zero"),
            (lambda xp, z, rows: z[xp.minimum(rows, len(z) - 1)] * (rows < len(z))[:, None], "with a plain array: y["),
        ],
    },
    "17.4": {
        "right": [lambda q, k: np.einsum("nd,md->nm", q, k) / math.sqrt(q.shape[1])],
        "wrong": [
            (lambda q, k: q @ k.T / np.sqrt(q.shape[1]), "float32 arrays are float64"),
            (lambda q, k: (q @ k.T / math.sqrt(q.shape[1])).astype(np.float32), "float64 arrays are float32"),
            (lambda q, k: q @ k.T, "a factor?"),
            (lambda q, k: k @ q.T * 7**-0.5, "transposed?"),
        ],
    },
    "17.5": {
        "right": [added],
        "wrong": [
            (lambda losses: sum(float(loss) for loss in losses) / len(losses), "it waits 4 times for 4 losses"),
            (lambda losses: sum(losses) / len(losses), "returns a device array"),
            (lambda losses: float(sum(losses)), "mean: yours"),
            (lambda losses: float(np.mean(np.array(losses, float))), "it waits 4 times"),
        ],
    },
    "17.6": {
        "right": [in_units],
        "wrong": [
            (lambda values, bits: float(values.sum()), "12 orders"),
            (lambda values, bits: float(values.astype(float).sum()), "which is 0"),
            (lambda values, bits: float(np.rint(values * 2.0**bits).astype(np.int64).sum()), "sum: yours"),
            (lambda values, bits: math.fsum(values.tolist()), "which is 0"),
        ],
    },
    "17.7": {
        "right": [traffic],
        "wrong": [
            (lambda s, kept, n: (traffic(s, kept, n)[0], traffic(s, "abxyzut", n)[1]), "needed afterwards"),
            (
                lambda s, kept, n: (
                    traffic(s, kept, n)[0],
                    4 * n * (len({*"".join(r for r, _ in s)}) + len({w for _, w in s} & {*kept})),
                ),
                "from a register",
            ),
            (lambda s, kept, n: (traffic(s, kept, n)[0], traffic(s, kept, n)[1] // 4), "fused: yours"),
            (lambda s, kept, n: (4 * n * sum(len(r) + 1 for r, _ in s), traffic(s, kept, n)[1]), "reads it once"),
        ],
    },
    "17.8": {
        "right": [by_size],
        "wrong": [
            (cut, "add half"),
            (lambda x, bits: np.round(x.astype(float) * 2**bits) / 2**bits, "not to 1"),
            (lambda x, bits: by_size(x, bits - 1), "is not stored"),
            (lambda x, bits: x, "rounded["),
            (lambda x, bits: x.astype(np.float16), "rounded["),
        ],
    },
    "17.9": {
        "right": [up_or_down],
        "wrong": [
            (lambda x, bits, u: by_size(x, bits), "on average"),
            (lambda x, bits, u: np.where(u < 0.5, cut(x, bits), up_or_down(x, bits, u * 0)), "on average"),
            (lambda x, bits, u: up_or_down(x, bits - 1, u), "than its two neighbours"),
            (lambda x, bits, u: x, "than its two neighbours"),
        ],
    },
}
