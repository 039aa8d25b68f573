"""Answers to chapter 21: `right` ones, written otherwise than the solution; `wrong` ones, with what must be said of them."""

import numpy as np

from minidat import ops
from minidat.autograd import Tensor


def hat(a, k):
    return max(0.0, 1.0 - abs(a - k))


def larger(n, m, clip=True, half=0.5):
    w = np.zeros((m, n))
    for i, k in np.ndindex(m, n):
        a = (i + half) * n / m - half
        w[i, k] = hat(min(max(a, 0), n - 1) if clip else a, k)
    return w


def centres(n, m):
    return np.array([[hat(i * (n - 1) / (m - 1), k) for k in range(n)] for i in range(m)])


def resize_vjp(dy, x, matrix=larger):
    rows, cols = matrix(x.shape[0], dy.shape[0]), matrix(x.shape[1], dy.shape[1])
    return np.stack([rows.T @ dy[..., c] @ cols for c in range(dy.shape[2])], -1)


def shrunk(dy, x):
    rows, cols = larger(dy.shape[0], x.shape[0]), larger(dy.shape[1], x.shape[1])
    return np.stack([rows @ dy[..., c] @ cols.T for c in range(dy.shape[2])], -1)


def cells(n, m, end=np.ceil, mean=True):
    w = np.zeros((m, n))
    for i in range(m):
        inside = slice(int(i * n // m), int(end((i + 1) * n / m)))
        w[i, inside] = 1
    return w / w.sum(1, keepdims=True) if mean else w


def pyramid(dy, x, *mixes, blind=()):
    """By the engine."""
    leaves = [Tensor(a, requires_grad=True) for a in (x, *mixes)]
    batch = leaves[0].reshape(1, *x.shape)
    parts = [batch.detach() if "x" in blind else batch]
    for s, mix in zip((1, 2, 3), leaves[1:]):
        source = batch.detach() if "pooled" in blind else batch
        parts.append(ops.resize(ops.adaptive_average_pool(source, size=(s, s)) @ mix, size=x.shape[:2]))
    ops.concatenate(*parts, axis=-1).backward(dy[None])
    return [np.zeros(leaf.shape) if leaf.grad is None else leaf.grad for leaf in leaves]


def top_down(dy, *laterals, trickle=1.0, far=True):
    dp, start = [], 0
    for lateral in laterals:
        dp.append(dy[start : start + lateral.size].reshape(lateral.shape))
        start += lateral.size
    found = [dp[0].copy()]
    for i in range(1, len(dp)):
        own = dp[i].copy()
        for r, c in np.ndindex(*own.shape[:2]):
            finer = found[i - 1] if far else dp[i - 1]
            own[r, c] += trickle * finer[2 * r : 2 * r + 2, 2 * c : 2 * c + 2].sum((0, 1))
        found.append(own)
    return found


def pixel(dy, logits, labels, ignore=True, n=None, target=1.0):
    d = np.zeros(logits.shape)
    for i, j in np.ndindex(*labels.shape):
        if labels[i, j] == 255 and ignore:
            continue
        p = np.exp(logits[i, j])
        d[i, j] = p / p.sum()
        if labels[i, j] != 255:
            d[i, j, labels[i, j]] -= target
    return dy * d / (n or labels.size)


def coarse(dy, logits, labels, **options):
    rows, cols = larger(logits.shape[0], labels.shape[0]), larger(logits.shape[1], labels.shape[1])
    fine = np.stack([rows @ logits[..., k] @ cols.T for k in range(logits.shape[2])], -1)
    return resize_vjp(pixel(dy, fine, labels, **options), logits)


def nearest_labels(dy, logits, labels):
    (h, w), (i, j) = logits.shape[:2], labels.shape
    return pixel(dy, logits, np.array([[labels[r * i // h, c * j // w] for c in range(w)] for r in range(h)]))


def mean_iou(predicted, truth, classes, twice=0, empty=False):
    p, t = (np.concatenate([image.ravel() for image in images]) for images in (predicted, truth))
    p, t = p[t != 255], t[t != 255]
    ious, accuracies = [], []
    for k in range(classes):
        both = int(((p == k) & (t == k)).sum())
        either = int((p == k).sum() + (t == k).sum()) - (0 if twice else both)
        if either or empty:
            ious.append(both / max(either, 1))
        if (t == k).any() or empty:
            accuracies.append(both / max((t == k).sum(), 1))
    return np.mean(ious), np.mean(accuracies), (p == t).mean()


def over_images(predicted, truth, classes):
    return tuple(np.mean([mean_iou([p], [t], classes) for p, t in zip(predicted, truth)], 0))


ANSWERS = {
    "21.1": {
        "right": [larger],
        "wrong": [
            (centres, "not the outer centres"),
            (lambda n, m: larger(n, m, half=0.0), "half pixel is missing"),
            (lambda n, m: larger(n, m, clip=False), "edge is repeated"),
            (lambda n, m: larger(n, m).T, "transposed?"),
        ],
    },
    "21.2": {
        "right": [resize_vjp],
        "wrong": [
            (shrunk, "this resizes dy back"),
            (lambda dy, x: resize_vjp(dy, x, centres), "not the centres"),
            (lambda dy, x: -resize_vjp(dy, x), "(sign?)"),
            (lambda dy, x: resize_vjp(np.ones_like(dy), x), "cotangent of ones"),
        ],
    },
    "21.3": {
        "right": [cells],
        "wrong": [
            (lambda n, m: cells(n, m, end=np.floor), "cells may share a pixel"),
            (lambda n, m: cells(n, m, mean=False), "each row sums to one"),
        ],
    },
    "21.4": {
        "right": [pyramid],
        "wrong": [
            (lambda *a: pyramid(*a, blind=("x",)), "straight into y"),
            (lambda *a: pyramid(*a, blind=("pooled",)), "the pooled maps are missing"),
            (lambda *a: pyramid(*a)[:3], "3 results, but 4 are asked for"),
            (lambda dy, *a: pyramid(np.ones_like(dy), *a), "cotangent of ones"),
        ],
    },
    "21.5": {
        "right": [top_down],
        "wrong": [
            (lambda *a: top_down(*a, trickle=0.0), "down into the finer one"),
            (lambda *a: top_down(*a, trickle=0.25), "not the mean"),
            (lambda *a: top_down(*a, far=False), "not dp alone"),
        ],
    },
    "21.6": {
        "right": [pixel],
        "wrong": [
            (lambda *a: pixel(*a, ignore=False), "gets no gradient"),
            (lambda dy, x, t: pixel(dy, x, t, n=(t != 255).sum()), "ignored ones too"),
            (lambda *a: pixel(*a, target=0.0), "minus the one-hot label"),
            (lambda dy, x, t: pixel(1.0, x, t), "cotangent of ones"),
        ],
    },
    "21.7": {
        "right": [coarse],
        "wrong": [
            (nearest_labels, "not the labels to the logits"),
            (lambda *a: coarse(*a, ignore=False), "gets no gradient"),
            (lambda dy, x, t: coarse(dy, x, t, n=(t != 255).sum()), "ignored ones too"),
        ],
    },
    "21.8": {
        "right": [mean_iou],
        "wrong": [
            (over_images, "then divide"),
            (lambda *a: mean_iou(*a, twice=1), "once"),
            (lambda *a: mean_iou(*a, empty=True), "left out of the mean"),
        ],
    },
}
