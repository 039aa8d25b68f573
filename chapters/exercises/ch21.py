"""Exercises of chapter 21: segmentation."""

from itertools import pairwise

import numpy as np

from minidat import ops
from minidat.tutorial.contracts import Gradient, Value
from minidat.tutorial.report import Exercise

BINS = (1, 2, 3)


def hats(places, n):
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(n)))


def larger(n, m, *, clip=True):
    a = (np.arange(m) + 0.5) * n / m - 0.5
    return hats(np.clip(a, 0, n - 1) if clip else a, n)


def centres(n, m):
    return hats(np.arange(m) * (n - 1) / (m - 1), n)


def without_half(n, m):
    return hats(np.clip(np.arange(m) * n / m, 0, n - 1), n)


def resize(x, size):
    return np.einsum("ir,jq,rqc->ijc", *(larger(n, m) for n, m in zip(x.shape[:2], size)), x)


def resized(x):
    return resize(x, (9, 7))


def resize_gradient(dy, x, matrix=larger):
    rows, cols = (matrix(n, m) for n, m in zip(x.shape[:2], dy.shape[:2]))
    return np.einsum("ijc,ir,jq->rqc", dy, rows, cols)


def cells(n, m, *, overlap=True, mean=True):
    i, k = np.arange(m)[:, None], np.arange(n)
    end = -(-(i + 1) * n // m) if overlap else (i + 1) * n // m
    inside = ((k >= i * n // m) & (k < end)) + 0.0
    return inside / inside.sum(1, keepdims=True) if mean else inside


def pyramid(x, *mixes):
    parts = [x]
    for s, mix in zip(BINS, mixes):
        pooled = np.einsum("ir,jq,rqc->ijc", *(cells(n, s) for n in x.shape[:2]), x)
        parts.append(resize(pooled @ mix, x.shape[:2]))
    return np.concatenate(parts, -1)


def pyramid_gradient(dy, x, *mixes, straight=True, pooled=True):
    c, d = x.shape[2], mixes[0].shape[1]
    dx, dmixes = dy[..., :c] * straight, []
    for k, (s, mix) in enumerate(zip(BINS, mixes)):
        rows, cols = (cells(n, s) for n in x.shape[:2])
        part = np.einsum("ir,jq,rqc->ijc", rows, cols, x)
        du = resize_gradient(dy[..., c + k * d : c + (k + 1) * d], part)
        dmixes.append(np.einsum("ijc,ijd->cd", part, du))
        dx = dx + np.einsum("ijc,ir,jq->rqc", du @ mix.T, rows, cols) * pooled
    return dx, *dmixes


def pyramid_inputs(rng):
    return rng.standard_normal((5, 4, 3)), *rng.standard_normal((3, 3, 2))


def top_down(*laterals):
    outs = [laterals[-1]]
    for lateral in laterals[-2::-1]:
        outs.insert(0, lateral + outs[0].repeat(2, 0).repeat(2, 1))
    return np.concatenate([out.ravel() for out in outs])


def top_down_gradient(dy, *laterals, trickle=True, mean=False, far=True):
    ends = np.cumsum([0, *(lateral.size for lateral in laterals)])
    dp = [dy[start:end].reshape(lateral.shape) for (start, end), lateral in zip(pairwise(ends), laterals)]
    found = [dp[0]]
    for before, own in pairwise(dp):
        h, w, c = own.shape
        blocks = (found[-1] if far else before).reshape(h, 2, w, 2, c)
        found.append(own + trickle * (blocks.mean((1, 3)) if mean else blocks.sum((1, 3))))
    return tuple(found)


def laterals(rng):
    return rng.standard_normal((8, 4, 2)), rng.standard_normal((4, 2, 2)), rng.standard_normal((2, 1, 2))


def pixel_loss(logits, labels):
    return ops.pixel_cross_entropy.raw(logits, labels)[0]


def pixel_gradient(dy, logits, labels, *, ignore=True, valid=False, target=True):
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    d = p - (labels[..., None] == np.arange(logits.shape[-1])) * target
    kept = labels[..., None] != 255
    return dy * (d * kept if ignore else d) / (kept.sum() if valid else labels.size)


def pixel_inputs(rng):
    labels = rng.integers(0, 4, (4, 5))
    labels[1, :3] = 255
    return rng.standard_normal((4, 5, 4)), labels


def coarse_loss(logits, labels):
    return pixel_loss(resize(logits, labels.shape), labels)


def coarse_gradient(dy, logits, labels, **options):
    fine = resize(logits, labels.shape)
    return resize_gradient(pixel_gradient(dy, fine, labels, **options), logits)


def labels_made_coarse(dy, logits, labels):
    rows, cols = (np.arange(n) * m // n for n, m in zip(logits.shape[:2], labels.shape))
    return pixel_gradient(dy, logits, labels[rows[:, None], cols])


def coarse_inputs(rng):
    labels = rng.integers(0, 4, (8, 9))
    labels[2:4, :3] = 255
    return rng.standard_normal((4, 3, 4)), labels


def confusion(predicted, truth, classes, ignored=255):
    counts = np.zeros((classes, classes))
    for p, t in zip(predicted, truth):
        kept = t != ignored
        np.add.at(counts, (np.minimum(t, classes - 1)[kept], p[kept]), 1)
    return counts


def summed_up(counts, *, union=True, empty=False):
    right, true, called = np.diag(counts), counts.sum(1), counts.sum(0)
    with np.errstate(invalid="ignore"):
        iou, accuracy = right / (true + called - right * union), right / true
    if empty:
        iou, accuracy = np.nan_to_num(iou), np.nan_to_num(accuracy)
    return np.nanmean(iou), np.nanmean(accuracy), right.sum() / true.sum()


def mean_iou(predicted, truth, classes, **options):
    return summed_up(confusion(predicted, truth, classes), **options)


def over_images(predicted, truth, classes):
    return tuple(np.mean([mean_iou([p], [t], classes) for p, t in zip(predicted, truth)], 0))


def iou_inputs(rng):
    """Class 4 is never true, but predicted; class 5 is neither."""
    truth = [rng.integers(0, 4, shape) for shape in ((5, 6), (3, 4))]
    predicted = [np.where(rng.uniform(size=t.shape) < 0.5, t, rng.integers(0, 5, t.shape)) for t in truth]
    predicted[0][0, 0] = 4
    truth[0][0, 0] = 1
    truth[0][1, :3] = 255
    return predicted, truth, 6


EXERCISES = {
    "21.1": Exercise(
        Value(
            larger,
            lambda rng: (int(rng.integers(3, 6)), int(rng.integers(7, 12))),
            names=("W",),
            mistakes={
                "the outer edges coincide, not the outer centres": centres,
                "the half pixel is missing: a = (i + ½) n/m − ½": without_half,
                "beyond the outermost centres the edge is repeated: clip": lambda n, m: larger(n, m, clip=False),
                "m rows of n hats: (m, n)": lambda n, m: larger(m, n),
            },
        ),
        [
            "The places are `(np.arange(m) + 0.5) * n / m - 0.5`, cut to 0 … n − 1.",
            "g(a, k) = max(0, 1 − |a − k|). Give the places an axis, and let them meet `np.arange(n)`.",
        ],
    ),
    "21.2": Exercise(
        Gradient(
            resized,
            lambda rng: (rng.standard_normal((4, 5, 2)),),
            names=("dx",),
            mistakes={
                "this resizes dy back: the matrices of the way down, not those of the way up, transposed": lambda dy, x: (
                    resize(dy, x.shape[:2])
                ),
                "the edges coincide, not the centres": lambda dy, x: resize_gradient(dy, x, centres),
            },
        ),
        [
            "W_y is `larger(x.shape[0], dy.shape[0])`, and W_x the same for the columns.",
            'The sum over i and j: `np.einsum("ijc,ir,jq->rqc", dy, rows, cols)`.',
        ],
    ),
    "21.3": Exercise(
        Value(
            cells,
            lambda rng: (int(rng.integers(7, 14)), int(rng.integers(2, 7))),
            names=("W",),
            mistakes={
                "a cell ends at ⌈(i + 1) n/m⌉: cells may share a pixel": lambda n, m: cells(n, m, overlap=False),
                "a mean: each row sums to one": lambda n, m: cells(n, m, mean=False),
            },
        ),
        [
            "Cell i begins at `i * n // m`. In whole numbers ⌈a/b⌉ is `-(-a // b)`.",
            "Fill `np.zeros((m, n))` row by row with one over the number of pixels in the cell.",
        ],
    ),
    "21.4": Exercise(
        Gradient(
            pyramid,
            pyramid_inputs,
            names=("dx", "dV_1", "dV_2", "dV_3"),
            mistakes={
                "x also goes straight into y": lambda dy, *a: pyramid_gradient(dy, *a, straight=False),
                "the ways through the pooled maps are missing": lambda dy, *a: pyramid_gradient(dy, *a, pooled=False),
            },
        ),
        [
            "The first C channels of dy are the straight way. Then D for each of the bins, in their order.",
            "`pooled, pool_vjp = ops.adaptive_average_pool.raw(x[None], size=(s, s))` and `_, up_vjp = ops.resize.raw(pooled @ "
            "mix, size=x.shape[:2])`; each vjp returns a tuple of one.",
            "dV is `pooled.reshape(-1, C).T @ du.reshape(-1, D)`; to dx comes `pool_vjp(du @ mix.T)[0][0]`.",
        ],
    ),
    "21.5": Exercise(
        Gradient(
            top_down,
            laterals,
            names=("dl_1", "dl_2", "dl_3"),
            mistakes={
                "each p also goes down into the finer one": lambda dy, *a: top_down_gradient(dy, *a, trickle=False),
                "one pixel was used four times: its gradient is the sum over the block, not the mean": lambda dy, *a: (
                    top_down_gradient(dy, *a, mean=True)
                ),
                "what comes back from the finer map is the whole gradient of its p, not dp alone": lambda dy, *a: (
                    top_down_gradient(dy, *a, far=False)
                ),
            },
        ),
        [
            "Cut dy into pieces of `lateral.size` numbers, each in its lateral's shape.",
            "Go from fine to coarse: dl₁ = dp₁, and dlᵢ = dpᵢ + what dlᵢ₋₁ hands back.",
            "`repeat(2, 0).repeat(2, 1)` hands back the sum of 2 × 2 blocks: `d.reshape(h, 2, w, 2, c).sum((1, 3))`.",
        ],
    ),
    "21.6": Exercise(
        Gradient(
            pixel_loss,
            pixel_inputs,
            names=("dlogits", None),
            mistakes={
                "an ignored pixel gets no gradient": lambda dy, *a: pixel_gradient(dy, *a, ignore=False),
                "the mean is over all pixels, ignored ones too": lambda dy, *a: pixel_gradient(dy, *a, valid=True),
                "softmax minus the one-hot label": lambda dy, *a: pixel_gradient(dy, *a, target=False),
            },
        ),
        [
            "Softmax over the last axis, minus `labels[..., None] == np.arange(K)`.",
            "Divide by `labels.size`, multiply by dy, and set the pixels of 255 to zero.",
        ],
    ),
    "21.7": Exercise(
        Gradient(
            coarse_loss,
            coarse_inputs,
            names=("dlogits", None),
            mistakes={
                "the logits are resized to the labels, not the labels to the logits": labels_made_coarse,
                "an ignored pixel gets no gradient": lambda dy, *a: coarse_gradient(dy, *a, ignore=False),
                "the mean is over all pixels, ignored ones too": lambda dy, *a: coarse_gradient(dy, *a, valid=True),
            },
        ),
        [
            "Forward: `fine, up_vjp = ops.resize.raw(logits[None], size=labels.shape)`, then the loss of `fine[0]`.",
            "Backward: the vjp of the loss (21.6, or `ops.pixel_cross_entropy.raw`), then `up_vjp`. Mind the axis of the batch.",
        ],
    ),
    "21.8": Exercise(
        Value(
            mean_iou,
            iou_inputs,
            names=("mIoU", "mAcc", "aAcc"),
            mistakes={
                "count over all images, then divide": over_images,
                "the union counts the right pixels once": lambda *a: mean_iou(*a, union=False),
                "a class in neither truth nor prediction is left out of the mean": lambda *a: mean_iou(*a, empty=True),
            },
        ),
        [
            "Fill a table `counts[truth, predicted]` over all images: `np.add.at(counts, (t[kept], p[kept]), 1)`.",
            "Its diagonal is what is right, its rows sum to what is true, its columns to what is predicted.",
            "0/0 is NaN, and `np.nanmean` leaves it out.",
        ],
    ),
}
