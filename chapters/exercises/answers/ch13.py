"""Answers to chapter 13: `right` ones, written otherwise than the solution; `wrong` ones, with what must be said of them."""

import math

import numpy as np


def decode(records):
    images = np.empty((len(records), 32, 32, 3), np.uint8)
    for i, channel, row in np.ndindex(len(records), 3, 32):
        start = 1 + 1024 * channel + 32 * row
        images[i, row, :, channel] = records[i, start : start + 32]
    return images, records[:, 0]


def rates(base, total, warmup, minimum):
    def one(t):
        if t < warmup:
            return base * t / warmup
        return minimum + (base - minimum) * math.cos(math.pi * t / total / 2) ** 2

    return [one(t) for t in range(total)]


def textbook(base, total, warmup, minimum):
    t = np.arange(total)
    part = np.maximum(t - warmup, 0) / (total - warmup)
    return np.where(t < warmup, base * t / warmup, minimum + (base - minimum) * (1 + np.cos(np.pi * part)) / 2)


def shares(beta, t):
    powers = beta ** np.arange(t)[::-1]
    return powers / powers.sum()


def adamw(theta, g, m, v, t, rate, decay):
    m, v = m + (g - m) / 10, v + (g**2 - v) / 1000
    step = m / (1 - 0.9**t) / ((v / (1 - 0.999**t)) ** 0.5 + 1e-8)
    return [theta - rate * (step + decay * theta), m, v]


def uncorrected(theta, g, m, v, t, rate, decay):
    m, v = m + (g - m) / 10, v + (g**2 - v) / 1000
    return theta - rate * (m / (v**0.5 + 1e-8) + decay * theta), m, v


def with_l2(theta, g, m, v, t, rate, decay):
    return adamw(theta, g + decay * theta, m, v, t, rate, 0.0)


def in_place(theta, g, m, v, t, rate, decay):
    theta *= 1 - rate * decay
    new, m, v = adamw(theta, g, m, v, t, rate, 0.0)
    return new, m, v


def clip(gradients, limit):
    norm = np.linalg.norm(np.concatenate([g.ravel() for g in gradients]))
    return [g * limit / norm for g in gradients] if norm > limit else gradients


def entropy(classes, smoothing):
    t = np.full(classes, smoothing / classes)
    t[0] += 1 - smoothing
    return -(t * np.log(t)).sum()


def compare(a, b):
    n, won, lost = len(a), (a & ~b).sum(), (b & ~a).sum()
    return (won - lost) / n, math.sqrt(won + lost - (won - lost) ** 2 / n) / n


def walk(mu, s, batch, rate, steps, variance=None, size=None, power=0.5):
    """Exercise 13.8, a step at a time."""
    variance = s * s / batch if variance is None else variance
    size = (mu * mu + s * s / batch) ** 0.5 if size is None else size
    moved = spread = 0.0
    for _ in range(steps):
        moved += rate * mu / size
        spread += (rate / size) ** 2 * variance
    return moved, spread**power if power == 0.5 else steps * (spread / steps) ** 0.5


def run_through(rates, decay, decayed=False):
    """Exercise 13.9, a step at a time."""
    weight, pushed = 1.0, 0.0
    for rate in rates:
        weight -= rate * decay * weight
        pushed = pushed * (1 - decay * rate if decayed else 1) + rate
    return weight, pushed


ANSWERS = {
    "13.1": {
        "right": [decode],
        "wrong": [
            (lambda r: (r[:, 1:].reshape(-1, 32, 32, 3), r[:, 0]), "reshape to that first"),
            (lambda r: (decode(r)[0].swapaxes(1, 2), r[:, 0]), "rows and columns are exchanged"),
            (lambda r: (decode(r)[0][..., ::-1], r[:, 0]), "blue, green, red"),
            (lambda r: (r[:, 1:].reshape(-1, 3, 32, 32), r[:, 0]), "images has shape (2, 3, 32, 32)"),
            (lambda r: (r[:, :-1].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), r[:, -1]), "the first byte"),
            (lambda r: decode(r)[0], "one ndarray, but 2 are asked for"),
        ],
    },
    "13.2": {
        "right": [rates],
        "wrong": [
            (textbook, "the warm-up's steps included"),
            (lambda b, t, w, m: rates(b, t, w, 0.0), "not at 0"),
            (lambda b, t, w, m: rates(b, t, 0, m), "the warm-up is missing"),
            (lambda b, t, w, m: rates(b, t, w, m)[::-1], "rates["),
            (lambda b, t, w, m: rates(b, t, w, m)[:-1], "rates has shape"),
        ],
    },
    "13.3": {
        "right": [shares],
        "wrong": [
            (lambda b, t: shares(b, t) * (1 - b**t), "shares in m"),
            (lambda b, t: shares(b, t)[::-1], "counts most"),
            (lambda b, t: shares(b, t) / (1 - b), "1 − β is missing"),
            (lambda b, t: np.ones(t) / t, "a plain mean"),
            (lambda b, t: 1.0, "shares has shape ()"),
        ],
    },
    "13.4": {
        "right": [adamw],
        "wrong": [
            (uncorrected, "divide by 1 − βᵗ"),
            (with_l2, "not AdamW"),
            (lambda *a: adamw(*a[:6], 0.0), "the decay is missing"),
            (lambda *a: adamw(*a[:6], a[6] / a[5]), "multiplied by the rate"),
            (lambda *a: adamw(*a[:4], a[4] + 1, *a[5:]), "no t + 1"),
            (lambda *a: (2 * a[0] - adamw(*a)[0], *adamw(*a)[1:]), "theta["),
            (in_place, "it writes to its argument 0"),
        ],
    },
    "13.5": {
        "right": [clip],
        "wrong": [
            (lambda g, c: [clip([one], c)[0] for one in g], "all of them together"),
            (lambda g, c: [one * c / np.sqrt(sum((h**2).sum() for h in g)) for one in g], "left as it is"),
            (lambda g, c: [one * min(1, c / sum((h**2).sum() for h in g)) for one in g], "root of the sum"),
            (lambda g, c: [np.clip(one, -c, c) for one in g], "clips elements"),
            (lambda g, c: clip(g, c)[0], "one ndarray, but 2 are asked for"),
        ],
    },
    "13.6": {
        "right": [entropy],
        "wrong": [
            (lambda k, e: 0.0, "without smoothing only"),
            (lambda k, e: np.log(k), "a guess"),
            (lambda k, e: -entropy(k, e), "a minus in front"),
            (lambda k, e: -(1 - e) * np.log(1 - e) - e * np.log(e / (k - 1)), "not over the K − 1"),
        ],
    },
    "13.7": {
        "right": [compare],
        "wrong": [
            (lambda a, b: (compare(a, b)[0], np.sqrt((a.var() + b.var()) / len(a))), "the same images"),
            (lambda a, b: (compare(a, b)[0], compare(a, b)[1] * np.sqrt(len(a))), "divided by √n"),
            (lambda a, b: (compare(a, b)[0], (a * 1.0 - b).std(ddof=1) / len(a) ** 0.5), "not by n − 1"),
            (lambda a, b: compare(b, a), "the first minus the second"),
            (lambda a, b: a - b, "raises TypeError"),
        ],
    },
    "13.8": {
        "right": [walk],
        "wrong": [
            (lambda *i: walk(*i, power=1), "√J"),
            (lambda *i: (walk(*i)[0], walk(*i, variance=i[1] ** 2)[1]), "s/√B"),
            (lambda *i: walk(*i, size=1.0), "plain descent"),
            (lambda *i: walk(*i, size=i[1] / np.sqrt(i[2])), "μ² plus its variance"),
            (lambda *i: walk(*i, size=np.hypot(i[0], i[1])), "s²/B"),
        ],
    },
    "13.9": {
        "right": [run_through],
        "wrong": [
            (lambda r, d: (1 - d * sum(r), sum(r)), "not a sum"),
            (lambda r, d: ((1 - d) ** len(r), sum(r)), "multiplied by the rate"),
            (lambda r, d: (np.exp(-d * sum(r)), sum(r)), "exactly"),
            (lambda r, d: (run_through(r, d)[0], -sum(r)), "goes up"),
            (lambda r, d: run_through(r, d, decayed=True), "it does not decay"),
        ],
    },
}
