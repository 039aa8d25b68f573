"""Exercises of chapter 20: detection."""

import numpy as np

from minidat import ops
from minidat.ops.bilinear import g
from minidat.tutorial.contracts import Gradient, Value
from minidat.tutorial.report import Exercise


def anchors(stride, side, ratios, height, width, *, power=0.5, shift=0.0):
    centre = stride * (np.indices((height, width)).transpose(1, 2, 0)[:, :, None] + shift)
    half = np.stack([side * ratios**power, side / ratios**power], -1) / 2
    return np.concatenate([centre - half, centre + half], -1)


def anchors_inputs(rng):
    return int(rng.integers(4, 17)), rng.uniform(10, 60), rng.uniform(0.3, 3, 3), 2, 5


def boxes(rng, count):
    start = rng.uniform(0, 20, (count, 2))
    return np.concatenate([start, start + rng.uniform(3, 20, (count, 2))], 1)


def overlaps(a, b, *, least=0.0, longer=0.0):
    sides = np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2]) + longer
    both = (np.maximum(sides, least) if least is not None else sides).prod(-1)
    areas = [(box[:, 2:] - box[:, :2] + longer).prod(-1) for box in (a, b)]
    return both / (areas[0][:, None] + areas[1] - both)


def assign(overlap, positive, negative, *, last=True, overwrite=True):
    most, who = overlap.max(0), overlap.argmax(0)
    found = np.where(most >= positive, who, np.where(most < negative, -1, -2))
    for i, own in enumerate(overlap if last else ()):
        if own.max() > 0:
            tied = own == own.max()
            found[tied if overwrite else tied & (found < 0)] = i
    return found


def assign_inputs(rng):
    overlap = rng.integers(0, 13, (4, 30)) / 20 * (rng.uniform(size=(4, 30)) < 0.7)
    overlap[2] *= 0.6  # nothing fits it well
    overlap[3] = 0  # nothing meets it
    overlap[:2, 7] = 0.95, 0.9
    overlap[0, 7], overlap[1, 7] = 0.7, 0.66  # the best of both objects
    overlap[1] = np.minimum(overlap[1], 0.66)
    return overlap, 0.5, 0.4


def decode(anchor, deltas, *, grow=np.exp, unit=True, half=0.5):
    sides = anchor[:, 2:] - anchor[:, :2]
    centre = (anchor[:, 2:] + anchor[:, :2]) / 2 + deltas[:, :2] * (sides if unit else 1)
    own = sides * grow(deltas[:, 2:]) * half
    return np.concatenate([centre - own, centre + own], 1)


def focal(x, t):
    return ops.focal_loss.raw(x, t)[0]


def focal_gradient(dy, x, t, *, alpha=(0.25, 0.75), sign=True, slope=True):
    u = (1 - 2 * t) * x
    q, ell = 1 / (1 + np.exp(-u)), np.logaddexp(0, u)
    pull = q**2 * ((2 * (1 - q) * ell if slope else 0) + q)
    return dy * (1 - 2 * t if sign else 1) * np.where(t == 1, *alpha) * pull


def axis_matrix(start, stop, bins, n, s, *, shift=0.5, clip=True, mean=True):
    p = start + (np.arange(bins)[:, None] + (np.arange(s) + shift) / s) * (stop - start) / bins
    weights = g(np.clip(p, 0, n - 1) if clip else p, n)
    return weights.mean(1) if mean else weights.sum(1)


def axis_inputs(rng):
    start = rng.uniform(-0.95, -0.8)  # places beyond both ends
    return start, rng.uniform(5.8, 5.95), int(rng.integers(3, 5)), 6, int(rng.integers(2, 4))


def roi(x, rows, cols):
    return np.einsum("ir,jq,rqc->ijc", rows, cols, x)


def roi_inputs(rng):
    return rng.standard_normal((4, 5, 2)), rng.uniform(size=(3, 4)), rng.uniform(size=(2, 5))


def suppress(candidates, scores, threshold, *, ask_all=False, order=-1, stays=np.less_equal):
    overlap, stay, asked = overlaps(candidates, candidates), [], []
    for i in np.argsort(order * scores, kind="stable"):
        if all(stays(overlap[i, j], threshold) for j in (asked if ask_all else stay)):
            stay.append(i)
        asked.append(i)
    return np.array(stay)


def suppress_inputs(rng):
    few = boxes(rng, 3)
    half = np.array([[100.0, 0, 104, 4], [100, 0, 102, 4]])  # an IoU of exactly 0.5: both stay
    return np.concatenate([np.repeat(few, 7, 0) + rng.uniform(-4, 4, (21, 4)), half]), rng.permutation(23) / 23, 0.5


def average_precision(scores, right, count, *, best=True, order=-1, beyond=True):
    right = right[np.argsort(order * scores, kind="stable")]
    found = np.cumsum(right)
    precision, recall = found / np.arange(1, len(found) + 1), found / count
    values = []
    for r in np.linspace(0, 1, 101):
        reached = precision[recall >= r]
        if len(reached) or beyond:
            values.append((reached.max() if best else reached[0]) if len(reached) else 0.0)
    return np.mean(values)


def precision_inputs(rng):
    right = rng.uniform(size=25) < 0.6
    right[:4] = True, False, False, True
    return rng.integers(1, 9, 25) / 10, right, int(right.sum()) + 5


EXERCISES = {
    "20.1": Exercise(
        Value(
            anchors,
            anchors_inputs,
            names=("anchors",),
            mistakes={
                "ρ is height over width: √ρ goes to the height": lambda t, a, r, h, w: anchors(t, a, 1 / r, h, w),
                "all have the area a²: the side is multiplied by √ρ, not by ρ": lambda *a: anchors(*a, power=1),
                "the centre is at stride · (i, j), on the corner of the pixel's patch": lambda *a: anchors(
                    *a, shift=0.5
                ),
                "the pixel (i, j) is stride pixels of the image from the next one": lambda t, *a: anchors(1, *a),
            },
        ),
        [
            "`np.mgrid[0:height, 0:width]` gives rows and columns; stack them along a last axis of 2 and multiply by the stride.",
            "Half of a shape is `np.stack([side * np.sqrt(ratios), side / np.sqrt(ratios)], -1) / 2`, (R, 2).",
            "Centres need an axis for the R shapes, (H, W, 1, 2). Then `np.concatenate([centre - half, centre + half], -1)`.",
        ],
    ),
    "20.2": Exercise(
        Value(
            overlaps,
            lambda rng: (boxes(rng, 6), boxes(rng, 7)),
            names=("IoU",),
            mistakes={
                "boxes that are apart have no intersection: a side below 0 counts as 0": lambda a, b: overlaps(
                    a, b, least=None
                ),
                "these boxes count edges: no side is one pixel longer": lambda a, b: overlaps(a, b, longer=1.0),
                "the union counts the intersection once: |A| + |B| − |A ∩ B|": lambda a, b: (
                    overlaps(a, b) / (1 + overlaps(a, b))
                ),
            },
        ),
        [
            "Give `a` an axis: `a[:, None, :2]` is (N, 1, 2) and meets `b[:, :2]`, (M, 2), in (N, M, 2).",
            "It begins at `np.maximum` of the beginnings and ends at `np.minimum` of the ends; a side is at least 0.",
        ],
    ),
    "20.3": Exercise(
        Value(
            assign,
            assign_inputs,
            names=("assigned",),
            mistakes={
                "rule 4 is missing: each object also gets its best anchors": lambda *a: assign(*a, last=False),
                "rule 4 overwrites: the anchor may have been another object's": lambda *a: assign(*a, overwrite=False),
                "between the two thresholds an anchor is neither: −2": lambda *a: np.maximum(assign(*a), -1),
            },
        ),
        [
            "`overlap.max(0)` is each anchor's best IoU, `overlap.argmax(0)` whose it is. Rules 1 to 3 are two `np.where`.",
            "Rule 4 is a loop over objects: `found[own == own.max()] = i`. All that tie, and only where the maximum is above 0.",
        ],
    ),
    "20.4": Exercise(
        Value(
            decode,
            lambda rng: (boxes(rng, 5), rng.standard_normal((5, 4)) / 3),
            names=("boxes",),
            mistakes={
                "the centre moves by δ times the anchor's side": lambda b, d: decode(b, d, unit=False),
                "sides are multiplied by e^δ": lambda b, d: decode(b, d, grow=lambda x: x),
                "sides are multiplied by e^δ, not by 1 + δ": lambda b, d: decode(b, d, grow=lambda x: 1 + x),
                "from the centre it is half a side to each edge": lambda b, d: decode(b, d, half=1.0),
            },
        ),
        [
            "Solve the two equations for c* and s*.",
            "The centre of an anchor is the mean of its two corners, its sides are their difference.",
            "Then `np.concatenate([centre - half, centre + half], 1)`.",
        ],
    ),
    "20.5": Exercise(
        Gradient(
            focal,
            lambda rng: (2 * rng.standard_normal((4, 3)), (rng.uniform(size=(4, 3)) < 0.5) + 0.0),
            names=("dx", None),
            mistakes={
                "du/dx is −1 where t = 1": lambda dy, x, t: focal_gradient(dy, x, t, sign=False),
                "α belongs to t = 1, and 1 − α to t = 0": lambda dy, x, t: focal_gradient(dy, x, t, alpha=(0.75, 0.25)),
                "q moves too: the term γ (1 − q) ℓ is missing": lambda dy, x, t: focal_gradient(dy, x, t, slope=False),
                "α is missing": lambda dy, x, t: focal_gradient(dy, x, t, alpha=(1, 1)),
            },
        ),
        [
            "`sign = 1 - 2 * t` is −1 where t = 1 and +1 where t = 0, so `u = sign * x`.",
            "ℓ = ln(1 + eᵘ) is `np.logaddexp(0, u)`.",
            "Step 3 gives dL/du; multiply by `sign` and by dy.",
        ],
    ),
    "20.6": Exercise(
        Value(
            axis_matrix,
            axis_inputs,
            names=("W",),
            mistakes={
                "a sample lies in the middle of its part of the bin: (k + ½)/s, counted from 0": lambda *a: axis_matrix(
                    *a, shift=0.0
                ),
                "beyond the border the edge is repeated: clip p to 0 … n − 1": lambda *a: axis_matrix(*a, clip=False),
                "a bin is the mean of its samples": lambda *a: axis_matrix(*a, mean=False),
            },
        ),
        [
            "`i = np.arange(bins)[:, None]` and `k = np.arange(s)` make places of shape (bins, s).",
            "p = start + (i + (k + ½)/s) · (stop − start)/bins. Here k counts from 0, in the equation from 1.",
            "`g(np.clip(p, 0, n - 1), n)` is (bins, s, n); take the mean over the samples.",
        ],
    ),
    "20.7": Exercise(
        Gradient(
            roi,
            roi_inputs,
            names=("dx", None, None),
            mistakes={
                "a pixel gets from every bin: the sum is over i and j, and W is not squared": lambda dy, x, rows, cols: (
                    np.einsum("ijc,ir,jq->rqc", dy, rows**2, cols**2)
                ),
            },
        ),
        [
            "Step 2 is a sum over i and j for each r, q and channel: `np.einsum` takes it as it stands.",
            'In letters: "ijc,ir,jq->rqc".',
        ],
    ),
    "20.8": Exercise(
        Value(
            suppress,
            suppress_inputs,
            names=("kept",),
            mistakes={
                "a suppressed box suppresses nobody": lambda *a: suppress(*a, ask_all=True),
                "the highest score comes first": lambda *a: suppress(*a, order=1),
                "a box goes *above* the threshold; at it, it stays": lambda *a: suppress(*a, stays=np.less),
                "the indices are in the order of the scores": lambda *a: np.sort(suppress(*a)),
            },
        ),
        [
            "Go through `np.argsort(-scores)` and keep a list of those that stay.",
            "`iou(boxes, boxes)` is all overlaps. A box stays if none that stays overlaps it by more than the threshold.",
        ],
    ),
    "20.9": Exercise(
        Value(
            average_precision,
            precision_inputs,
            names=("AP",),
            mistakes={
                "at each recall take the largest precision at this recall or a higher one": lambda *a: (
                    average_precision(*a, best=False)
                ),
                "detections come by descending score": lambda *a: average_precision(*a, order=1),
                "recalls that are never reached count 0": lambda *a: average_precision(*a, beyond=False),
            },
        ),
        [
            "Sort `right` by descending score, stable. `np.cumsum(right)` counts the right ones so far.",
            "Precision divides by how many detections there were so far, recall by `count`.",
            "For each of `np.linspace(0, 1, 101)`: `precision[recall >= r].max(initial=0.0)`.",
        ],
    ),
}
