"""Answers to chapter 14: `right` ones, written otherwise than the solution; `wrong` ones, with what must be said of them."""

import numpy as np


def to_image(points, size, image):
    rows = np.interp(
        points[..., 0], *zip((-9.5, (-9) * image[0] / size[0] - 0.5), (99.5, 100 * image[0] / size[0] - 0.5))
    )
    cols = points[..., 1] * image[1] / size[1] + (image[1] / size[1] - 1) / 2
    return np.stack([rows, cols], -1)


def share(points, boxes, rim=0.5, which=np.logical_and):
    count = 0
    for image, (row0, col0, row1, col1) in zip(points, boxes):
        for row, col in image:
            count += which(row0 - rim <= row < row1 - rim, col0 - rim <= col < col1 - rim)
    return count / points[..., 0].size


def effective(weights):
    keys = np.empty(weights.shape[:-1])
    for at in np.ndindex(keys.shape):
        p = weights[at][weights[at] > 0]
        keys[at] = np.prod(p**-p)
    return keys


def scores(a, weights, groups):
    heads, queries, keys = weights.shape
    s = np.zeros((groups, keys))
    for m in range(heads):
        for i in range(queries):
            s[m // (heads // groups)] += weights[m, i] * a[i] / heads
    return s


def mixing_vjp(a, x, weights, points):
    dx = np.zeros(x.shape)
    for group, s in zip(points, scores(a, weights, len(points))):
        for (row, col), given in zip(group, s):
            for r in range(x.shape[0]):
                for c in range(x.shape[1]):
                    dx[r, c] += given * max(0, 1 - abs(row - r)) * max(0, 1 - abs(col - c))
    return dx


def without(p, v):
    y = np.empty(v.shape)
    for n in range(len(p)):
        rest = np.arange(len(p)) != n
        y[n] = p[rest] / p[rest].sum() @ v[rest]
    return y


def spearman(a, b):
    n = len(a)
    u, w = (np.array([(x < one).sum() for one in x]) for x in (a, b))
    return 1 - 6 * ((u - w) ** 2).sum() / (n * (n * n - 1))


def writes(a, x, weights, points):
    x += 1
    return mixing_vjp(a, x, weights, points)


ANSWERS = {
    "14.1": {
        "right": [to_image],
        "wrong": [
            (lambda p, size, image: p * np.array(image) / np.array(size), "corner of a pixel"),
            (lambda p, size, image: p * (np.array(image) - 1) / (np.array(size) - 1), "the edges must coincide"),
            (lambda p, size, image: to_image(p, image, size), "from the image to the map"),
            (lambda p, size, image: to_image(p, size[::-1], image[::-1]), "rows go with h"),
            (lambda p, size, image: to_image(p, size, image)[..., ::-1], "row and col swapped"),
            (lambda p, size, image: to_image(p, size, image) + 0.5, "a term?"),
        ],
    },
    "14.2": {
        "right": [share],
        "wrong": [
            (lambda p, b: share(p, b, rim=0.0), "half a pixel before row0"),
            (lambda p, b: share(p, b, which=np.logical_or), "both coordinates"),
            (lambda p, b: share(p, b) * 180, "not a share"),
            (lambda p, b: share(p[..., ::-1], b), "share: yours"),
            (lambda p, b: share(p, b[::-1]), "share: yours"),
        ],
    },
    "14.3": {
        "right": [effective],
        "wrong": [
            (lambda w: np.log(effective(w)), "that is the entropy"),
            (lambda w: 1 / effective(w), "a minus in front"),
            (lambda w: 2 ** np.log(effective(w)), "entropies in bits"),
            (lambda w: 1 / (w**2).sum(-1), "another number"),
            (lambda w: np.exp(-(w * np.log(w)).sum(-1)), "is nan"),
        ],
    },
    "14.4": {
        "right": [scores],
        "wrong": [
            (lambda a, p, g: scores(a, p, g) * len(p), "divide by M"),
            (lambda a, p, g: scores(np.ones(len(a)), p, g), "a is not used"),
            (lambda a, p, g: scores(a, p, g) * g, "not by the M/G"),
            (lambda a, p, g: (a @ p / len(p)).reshape(-1, g, p.shape[-1]).sum(0), "do not alternate"),
            (lambda a, p, g: scores(a, p, g).T, "(7, 2), but (2, 7) is asked for (transposed?)"),
            (lambda a, p, g: -scores(a, p, g), "(sign?)"),
        ],
    },
    "14.5": {
        "right": [mixing_vjp],
        "wrong": [
            (
                lambda a, x, p, points: mixing_vjp(a, x, p, points[..., ::-1]),
                "row and column of the points are swapped",
            ),
            (lambda a, x, p, points: mixing_vjp(a, x, p, points[[0, 0]]), "points of group 0"),
            (lambda a, x, p, points: mixing_vjp(a, x, p, points) * len(p), "divide by M"),
            (lambda a, x, p, points: mixing_vjp(a, x, p, np.rint(points)), "not only to the nearest"),
            (lambda a, x, p, points: -mixing_vjp(a, x, p, points), "(sign?)"),
            (lambda a, x, p, points: mixing_vjp(np.ones(len(a)), x, p, points), "cotangent of ones"),
            (lambda a, x, p, points: mixing_vjp(a, x, p, points).T, "(transposed?)"),
            (writes, "it writes to its argument 1"),
        ],
    },
    "14.6": {
        "right": [without],
        "wrong": [
            (lambda p, v: p @ v - p[:, None] * v, "add up to 1 again"),
            (lambda p, v: without(p, v) - p @ v, "not the output"),
            (lambda p, v: v, "key n alone"),
            (lambda p, v: (p @ v - p[:, None] * v) / (1 + p[:, None]), "they must grow"),
            (lambda p, v: -without(p, v), "(sign?)"),
        ],
    },
    "14.7": {
        "right": [spearman],
        "wrong": [
            (lambda a, b: np.corrcoef(a, b)[0, 1], "not their ranks"),
            (lambda a, b: np.corrcoef(a.argsort(), b.argsort())[0, 1], "argsort once more"),
            (lambda a, b: -spearman(a, b), "from the other end"),
        ],
    },
}
