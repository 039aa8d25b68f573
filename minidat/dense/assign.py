"""Which anchor is held to which object, and which anchors are drawn for the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from minidat.dense.boxes import iou

NEGATIVE, IGNORED_BOX = -1, -2


@dataclass(frozen=True)
class Assigner:
    """`positive`: an IoU from which on a box is held to the object that it overlaps with most; below `negative` it is background;
    between them it is ignored. `lowest`: each object whose best IoU reaches it also gets all the boxes that tie for it, whoever
    had them before, in the order of the objects; None: it does not.

    Source: mmdetection 2.26, `max_iou_assigner.py`. Difference: an object that no box meets gets none (there all of them, with
    `lowest` 0: they tie at IoU 0).
    """

    positive: float
    negative: float
    lowest: float | None = 0.0

    def __call__(self, boxes: np.ndarray, objects: np.ndarray) -> np.ndarray:
        """boxes (n, 4), objects (m, 4) → (n): the index of an object, `NEGATIVE` or `IGNORED_BOX`."""
        found = np.full(len(boxes), NEGATIVE)
        if not len(objects) or not len(boxes):
            return found
        overlap = iou(objects, boxes)  # (m, n)
        best = overlap.max(axis=0)
        found[best >= self.negative] = IGNORED_BOX
        mine = best >= self.positive
        found[mine] = overlap.argmax(axis=0)[mine]
        if self.lowest is not None:
            for i, most in enumerate(overlap.max(axis=1)):
                if most > 0 and most >= self.lowest:
                    found[overlap[i] == most] = i
        return found

    def among(self, counted: np.ndarray, boxes: np.ndarray, objects: np.ndarray) -> np.ndarray:
        """The same of the boxes where `counted` (n) is True, which do not see the others; these are ignored."""
        found = np.full(len(boxes), IGNORED_BOX)
        found[counted] = self(boxes[counted], objects)
        return found


class Drawn(NamedTuple):
    """Indices of the boxes that a loss looks at, each in rising order."""

    positive: np.ndarray
    negative: np.ndarray


@dataclass(frozen=True)
class Sampler:
    """Draws `count` boxes, `positives` of them at most held to objects, and fills up with background."""

    count: int
    positives: int

    def __call__(self, assigned: np.ndarray, rng: np.random.Generator) -> Drawn:
        positive = _some(np.flatnonzero(assigned >= 0), self.positives, rng)
        negative = _some(np.flatnonzero(assigned == NEGATIVE), self.count - len(positive), rng)
        return Drawn(positive, negative)


def _some(indices: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` of them, or all where there are fewer."""
    return indices if len(indices) <= count else np.sort(rng.permutation(indices)[:count])
