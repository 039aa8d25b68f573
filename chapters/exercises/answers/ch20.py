"""Answers to chapter 20: `right` ones, written otherwise than the solution; `wrong` ones, with what must be said of them."""

import numpy as np

from minidat import ops
from minidat.autograd import Tensor


def anchors(stride, side, ratios, height, width, centre=0.0, swap=False, root=True):
    found = np.zeros((height, width, len(ratios), 4))
    for i, j, k in np.ndindex(height, width, len(ratios)):
        f = ratios[k] ** 0.5 if root else ratios[k]
        h, w = (side / f, side * f) if swap else (side * f, side / f)
        row, col = (i + centre) * stride, (j + centre) * stride
        found[i, j, k] = row - h / 2, col - w / 2, row + h / 2, col + w / 2
    return found


def overlaps(a, b, least=0.0, longer=0.0):
    found = np.zeros((len(a), len(b)))
    for i, j in np.ndindex(*found.shape):
        h = min(a[i, 2], b[j, 2]) - max(a[i, 0], b[j, 0]) + longer
        w = min(a[i, 3], b[j, 3]) - max(a[i, 1], b[j, 1]) + longer
        both = max(h, least) * max(w, least)
        own = [(box[2] - box[0] + longer) * (box[3] - box[1] + longer) for box in (a[i], b[j])]
        found[i, j] = both / (sum(own) - both)
    return found


def assign(overlap, positive, negative, rule4=True, overwrite=True, between=-2):
    found = []
    for column in overlap.T:
        i = int(np.argmax(column))
        found.append(i if column[i] >= positive else -1 if column[i] < negative else between)
    for i, row in enumerate(overlap):
        for n, value in enumerate(row):
            if rule4 and value == max(row) > 0 and (overwrite or found[n] < 0):
                found[n] = i
    return np.array(found)


def decode(boxes, deltas, grow=np.exp, half=2.0, unit=True):
    found = np.zeros(boxes.shape)
    for k in (0, 1):
        side = boxes[:, k + 2] - boxes[:, k]
        middle = boxes[:, k] + side / 2 + deltas[:, k] * (side if unit else 1)
        own = side * grow(deltas[:, k + 2]) / half
        found[:, k], found[:, k + 2] = middle - own, middle + own
    return found


def focal(dy, x, t, alpha=0.25, gamma=2.0):
    """By the engine, from the definition."""
    leaf = Tensor(x, requires_grad=True)
    p = ops.sigmoid(leaf)
    q = Tensor(t) * (1 - p) + Tensor(1 - t) * p
    loss = Tensor(np.where(t == 1, alpha, 1 - alpha)) * q * q * -ops.log(1 - q)
    loss.backward(dy)
    return leaf.grad


def axis(start, stop, bins, n, s, shift=0.5, clip=True, scale=1.0, low=0):
    w = np.zeros((bins, n))
    for i, k, r in np.ndindex(bins, s, n):
        p = start + (i + (k + shift) / s) * (stop - start) / bins
        p = min(max(p, low), n - 1) if clip else p
        w[i, r] += max(0, 1 - abs(p - r)) / s * scale
    return w


def roi(dy, x, rows, cols):
    return np.stack([rows.T @ dy[..., c] @ cols for c in range(dy.shape[-1])], -1)


def suppress(boxes, scores, threshold, sign=-1, above=np.greater):
    left, stay = list(np.argsort(sign * scores)), []
    while left:
        first = left.pop(0)
        stay.append(first)
        left = [i for i in left if not above(overlaps(boxes[i : i + 1], boxes[first : first + 1])[0, 0], threshold)]
    return np.array(stay)


def suppress_all(boxes, scores, threshold):
    order = np.argsort(-scores)
    overlap = overlaps(boxes, boxes)
    return np.array([i for n, i in enumerate(order) if (overlap[i, order[:n]] <= threshold).all()])


def ap(scores, right, count, sign=1):
    order = sorted(range(len(scores)), key=lambda i: -sign * scores[i])
    found, points = 0, []
    for n, i in enumerate(order, 1):
        found += bool(right[i])
        points.append((found / count, found / n))
    return sum(max([p for r, p in points if r >= k / 100 - 1e-12], default=0) for k in range(101)) / 101


def ap_first(scores, right, count):
    right = right[np.argsort(-scores, kind="stable")]
    found = np.cumsum(right)
    precision, recall = found / np.arange(1, len(found) + 1), found / count
    return np.mean([next((p for p, r in zip(precision, recall) if r >= at), 0.0) for at in np.linspace(0, 1, 101)])


def ap_reached(scores, right, count):
    return ap(scores, right, count) * 101 / (np.linspace(0, 1, 101) <= right.sum() / count).sum()


ANSWERS = {
    "20.1": {
        "right": [anchors],
        "wrong": [
            (lambda *a: anchors(*a, swap=True), "√ρ goes to the height"),
            (lambda *a: anchors(*a, root=False), "not by ρ"),
            (lambda *a: anchors(*a, centre=0.5), "on the corner"),
            (lambda t, *a: anchors(1, *a), "stride pixels of the image"),
            (lambda *a: anchors(*a)[..., [1, 0, 3, 2]], "yours"),
        ],
    },
    "20.2": {
        "right": [overlaps],
        "wrong": [
            (lambda a, b: overlaps(a, b, least=-np.inf), "a side below 0 counts as 0"),
            (lambda a, b: overlaps(a, b, longer=1.0), "no side is one pixel longer"),
            (lambda a, b: overlaps(a, b) / (1 + overlaps(a, b)), "counts the intersection once"),
            (lambda a, b: overlaps(b, a), "transposed?"),
        ],
    },
    "20.3": {
        "right": [assign],
        "wrong": [
            (lambda *a: assign(*a, rule4=False), "rule 4 is missing"),
            (lambda *a: assign(*a, overwrite=False), "rule 4 overwrites"),
            (lambda *a: assign(*a, between=-1), "neither: −2"),
        ],
    },
    "20.4": {
        "right": [decode],
        "wrong": [
            (lambda b, d: decode(b, d, unit=False), "times the anchor's side"),
            (lambda b, d: decode(b, d, grow=lambda x: x), "multiplied by e^δ"),
            (lambda b, d: decode(b, d, grow=lambda x: 1 + x), "not by 1 + δ"),
            (lambda b, d: decode(b, d, half=1.0), "half a side"),
        ],
    },
    "20.5": {
        "right": [focal],
        "wrong": [
            (lambda dy, x, t: -focal(dy, x, t), "(sign?)"),
            (lambda dy, x, t: focal(dy, x, t) * (1 - 2 * t), "−1 where t = 1"),
            (lambda dy, x, t: focal(dy, x, t, alpha=0.75), "1 − α to t = 0"),
            (lambda dy, x, t: focal(np.ones_like(dy), x, t), "cotangent of ones"),
            (lambda dy, x, t: focal(dy, x, t) / np.where(t == 1, 0.25, 0.75), "α is missing"),
        ],
    },
    "20.6": {
        "right": [axis],
        "wrong": [
            (lambda *a: axis(*a, shift=0.0), "counted from 0"),
            (lambda *a: axis(*a, clip=False), "the edge is repeated"),
            (lambda *a: axis(*a, low=-1), "W[0, 0]"),
            (lambda *a: axis(*a, scale=a[-1]), "the mean of its samples"),
            (lambda *a: axis(*a).T, "transposed?"),
        ],
    },
    "20.7": {
        "right": [roi],
        "wrong": [
            (lambda dy, x, rows, cols: roi(dy, x, rows**2, cols**2), "W is not squared"),
            (lambda dy, x, rows, cols: -roi(dy, x, rows, cols), "(sign?)"),
            (lambda dy, x, rows, cols: roi(np.ones_like(dy), x, rows, cols), "cotangent of ones"),
        ],
    },
    "20.8": {
        "right": [suppress],
        "wrong": [
            (suppress_all, "suppresses nobody"),
            (lambda *a: suppress(*a, sign=1), "highest score comes first"),
            (lambda *a: suppress(*a, above=np.greater_equal), "at it, it stays"),
            (lambda *a: np.sort(suppress(*a)), "in the order of the scores"),
        ],
    },
    "20.9": {
        "right": [ap],
        "wrong": [
            (ap_first, "a higher one"),
            (lambda *a: ap(*a, sign=-1), "by descending score"),
            (ap_reached, "count 0"),
        ],
    },
}
