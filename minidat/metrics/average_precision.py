"""Average precision by COCO's rules, for boxes and for masks.

Within an image and class, detections in the order of their scores each take the object that they overlap most, if by a
threshold or more. Over all images, sorted by score, precision is the share of detections so far that took one, and recall
the share of objects taken; AP is the mean of precision over recall, classes and thresholds .50, .55, …, .95. The steps are
numbered as in `match` and `Curves`. Source: cocoapi, `cocoeval.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minidat.data.rle import Rle
from minidat.data.samples import Truth
from minidat.metrics.overlap import extent_overlaps, mask_overlaps

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}  # pixels²
MOST = (1, 10, 100)  # detections of an image and class that count
EPS = float(np.spacing(1.0))


class Found(NamedTuple):
    """The D detections in an image. extents: float64 (D, 4), boxes as (row, col, height, width) in pixels. labels: integers
    (D,). scores: (D,). masks: none where boxes alone are asked for. areas: (D,) pixels²; None takes those of what is compared,
    boxes or masks."""

    extents: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    masks: Sequence[Rle] = ()
    areas: np.ndarray | None = None


class _Matches(NamedTuple):
    """Of one image and class, D detections in the order of their scores, G objects, A areas, T thresholds."""

    scores: np.ndarray  # (D,)
    taken: np.ndarray  # bool (A, T, D): the detection took an object
    ignored: np.ndarray  # bool (A, T, D): the detection counts neither way
    objects: np.ndarray  # (A,) how many objects count


class AveragePrecision:
    """Collects images with `add`, in any order, and gives COCO's numbers with `result`.

    classes: how many. kind: "boxes" or "masks". All state is what was added: a second object has its own.
    """

    def __init__(self, classes: int, kind: str = "boxes"):
        if kind not in ("boxes", "masks"):
            raise ValueError(f"kind is {kind!r}, expected boxes or masks")
        self.classes, self.kind = classes, kind
        self._images: dict[int, dict[int, _Matches]] = {}  # image → class → matches

    def add(self, image: int, truth: Truth, found: Found) -> None:
        """An image, by its number, with its objects and detections.

        Raises ValueError for an image that was added before, for labels outside 0 … classes − 1, for scores that are not
        finite, and where masks are compared, for a number of masks other than that of the labels.
        """
        if image in self._images:
            raise ValueError(f"image {image} was added before")
        for what, labels in (("an object", truth.labels), ("a detection", found.labels)):
            if len(labels) and not 0 <= np.min(labels) <= np.max(labels) < self.classes:
                span = f"{np.min(labels)}..{np.max(labels)}"
                raise ValueError(f"image {image}: labels of {what} run {span}, expected within 0..{self.classes - 1}")
        if not np.isfinite(found.scores).all():
            raise ValueError(f"image {image}: a detection's score is not finite (NaN or infinity)")
        if self.kind == "masks":
            for what, one in (("objects", truth), ("detections", found)):
                if len(one.masks) != len(one.labels):
                    raise ValueError(f"image {image}: {len(one.labels)} {what} have {len(one.masks)} masks")
        present = np.unique(np.concatenate([truth.labels, found.labels]).astype(np.int64))
        self._images[image] = {int(label): self._match(int(label), truth, found) for label in present}

    def _match(self, label: int, truth: Truth, found: Found) -> _Matches:
        (objects,) = np.nonzero(np.asarray(truth.labels) == label)
        (own,) = np.nonzero(np.asarray(found.labels) == label)
        own = own[np.argsort(-np.asarray(found.scores, np.float64)[own], kind="stable")[: MOST[-1]]]  # (D,)
        crowd = np.asarray(truth.crowd, bool)[objects]  # (G,)
        areas = None if found.areas is None else np.asarray(found.areas, np.float64)[own]
        if self.kind == "boxes":
            boxes = np.asarray(found.extents, np.float64).reshape(-1, 4)[own]  # (D, 4)
            overlaps = extent_overlaps(boxes, np.asarray(truth.extents, np.float64).reshape(-1, 4)[objects], crowd)
            areas = boxes[:, 2] * boxes[:, 3] if areas is None else areas
        else:
            masks = [found.masks[i] for i in own]
            overlaps = mask_overlaps(masks, [truth.masks[i] for i in objects], crowd)
            areas = np.array([mask.area for mask in masks], np.float64) if areas is None else areas
        scores = np.asarray(found.scores, np.float64)[own]
        return match(overlaps, scores, areas, np.asarray(truth.areas, np.float64)[objects], crowd)

    def result(self) -> Curves:
        """Precision and recall over all images, taken in the order of their numbers."""
        precision = np.full((len(THRESHOLDS), len(RECALLS), self.classes, len(AREAS), len(MOST)), -1.0)
        recall = np.full((len(THRESHOLDS), self.classes, len(AREAS), len(MOST)), -1.0)
        images = [self._images[image] for image in sorted(self._images)]
        for label in range(self.classes):
            own = [matches[label] for matches in images if label in matches]
            if not own:
                continue
            objects = np.sum([matches.objects for matches in own], axis=0)  # (A,)
            for m, most in enumerate(MOST):
                scores = np.concatenate([matches.scores[:most] for matches in own])
                order = np.argsort(-scores, kind="stable")
                taken, ignored = (
                    np.concatenate([one[..., :most] for one in both], axis=-1)[..., order]
                    for both in ([matches.taken for matches in own], [matches.ignored for matches in own])
                )
                for a in np.flatnonzero(objects):
                    drawn = curves(taken[a], ignored[a], int(objects[a]))
                    precision[:, :, label, a, m], recall[:, label, a, m] = drawn
        return Curves(precision, recall)


def match(
    overlaps: np.ndarray, scores: np.ndarray, areas: np.ndarray, sizes: np.ndarray, crowd: np.ndarray
) -> _Matches:
    """Which detection takes which object, in one image and class.

    overlaps: (D, G), detections in the order of their scores. areas: (D,) of detections, sizes: (G,) of objects. For each range
    of areas, objects outside it are ignored, and crowds always. A detection takes, of the objects whose overlap reaches the
    threshold and that are free, the one with the largest, the last of equal ones; one that is ignored only if there is no
    other. A crowd is always free. A detection that took an ignored object, or none and has an area outside the range, is
    ignored itself.
    """
    ranges = np.array(list(AREAS.values()))[:, :, None]  # (A, 2, 1)
    outside = (sizes < ranges[:, 0]) | (sizes > ranges[:, 1]) | crowd  # (A, G)
    count, shape = len(scores), (len(AREAS), len(THRESHOLDS))
    free = np.ones((*shape, len(sizes)), bool)  # (A, T, G)
    taken, ignored = np.zeros((*shape, count), bool), np.zeros((*shape, count), bool)
    rows, cols = np.indices(shape)
    for d in range(count if len(sizes) else 0):
        near = free & (overlaps[d] >= THRESHOLDS[:, None])  # (A, T, G)
        real = near & ~outside[:, None]
        near = np.where(real.any(-1, keepdims=True), real, near)
        best = len(sizes) - 1 - np.where(near, overlaps[d], -1.0)[..., ::-1].argmax(-1)  # (A, T) the last of equal ones
        taken[..., d] = near.any(-1)
        ignored[..., d] = taken[..., d] & outside[rows, best]
        free[rows, cols, best] &= ~taken[..., d] | crowd[best]
    far = (areas < ranges[:, 0]) | (areas > ranges[:, 1])  # (A, D)
    return _Matches(scores, taken, ignored | (~taken & far[:, None]), (~outside).sum(-1))


def curves(taken: np.ndarray, ignored: np.ndarray, objects: int) -> tuple[np.ndarray, np.ndarray]:
    """Precision at the `RECALLS`, (T, 101), and the last recall, (T,), of detections (T, D) in the order of their scores.

    Precision is first made the largest of all at this recall or a higher one, then read where the recall is first reached, and
    is 0 where it never is.
    """
    right = np.cumsum(taken & ~ignored, 1).astype(float)  # (T, D)
    wrong = np.cumsum(~taken & ~ignored, 1).astype(float)
    recall = right / objects
    precision = right / (wrong + right + EPS)
    precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    precision = np.pad(precision, ((0, 0), (0, 1)))  # (T, D + 1): 0 past the end
    places = np.stack([np.searchsorted(row, RECALLS, side="left") for row in recall])  # (T, 101)
    last = recall[:, -1] if recall.shape[1] else np.zeros(len(recall))
    return np.take_along_axis(precision, places, 1), last


class Curves(NamedTuple):
    """precision: (T, 101, K, A, M) over thresholds, recalls, classes, areas and most detections. recall: (T, K, A, M), the
    largest. −1 where there is no object: no mean takes part of it."""

    precision: np.ndarray
    recall: np.ndarray

    def ap(self, threshold: float | None = None, area: str = "all", label: int | None = None) -> float:
        """Mean precision with 100 detections, of one threshold such as 0.5 or all, one class or all; −1 without an object."""
        chosen = self.precision[_thresholds(threshold)][..., list(AREAS).index(area), -1]  # (T, 101, K)
        return _mean(chosen if label is None else chosen[..., label])

    def ar(self, most: int = 100, area: str = "all") -> float:
        """Mean of the largest recall with this many detections an image and class; −1 where there is no object."""
        return _mean(self.recall[..., list(AREAS).index(area), MOST.index(most)])

    @property
    def numbers(self) -> dict[str, float]:
        """COCO's twelve, by name, in its order; −1 where there is no object."""
        small = {"APs": "small", "APm": "medium", "APl": "large"}
        aps = {"AP": self.ap(), "AP50": self.ap(0.5), "AP75": self.ap(0.75)}
        aps |= {name: self.ap(area=area) for name, area in small.items()}
        ars = {f"AR{most}": self.ar(most) for most in MOST}
        return aps | ars | {name.replace("P", "R"): self.ar(area=area) for name, area in small.items()}


def _thresholds(threshold: float | None) -> slice:
    if threshold is None:
        return slice(None)
    (places,) = np.nonzero(np.isclose(THRESHOLDS, threshold, rtol=0, atol=1e-9))
    if not len(places):
        raise ValueError(f"threshold is {threshold}, expected one of {', '.join(f'{t:.2f}' for t in THRESHOLDS)}")
    return slice(places[0], places[0] + 1)


def _mean(values: np.ndarray) -> float:
    counted = values[values > -1]
    return float(np.mean(counted)) if counted.size else -1.0
