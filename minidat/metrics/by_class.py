"""What a classifier takes for what: the confusion matrix, accuracy by class, and its most confident mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

KEPT = 24  # mistakes whose images are kept


@dataclass(frozen=True, eq=False)
class Mistake:
    """An image uint8 (H, W, 3), its label, the class that was more probable, and that class's probability."""

    image: np.ndarray
    label: int
    predicted: int
    confidence: float


class ByClass:
    """Counts over images that are added batch by batch, for K `classes`.

    confusion: int64 (K, K), how often an image of class i (row) was taken for class j (column). mistakes: those of which the
    network was surest, the surest first.
    """

    def __init__(self, classes: Sequence[str]):
        self.classes = tuple(classes)
        self.confusion = np.zeros((len(classes), len(classes)), np.int64)
        self.mistakes: list[Mistake] = []

    def add(self, images: np.ndarray, labels: np.ndarray, logits: np.ndarray) -> None:
        """Images uint8 (B, H, W, 3), labels (B,) and logits (B, K). Logits that are not finite choose the first largest class, as
        the accuracy has it."""
        predicted = logits.argmax(1)  # (B,)
        np.add.at(self.confusion, (labels, predicted), 1)
        wrong = np.flatnonzero(predicted != labels)
        wide = logits[wrong].astype(np.float64)
        with np.errstate(all="ignore"):  # outputs that are not finite, of a damaged network
            sure = np.exp(wide.max(1) - np.logaddexp.reduce(wide, 1))  # (B',) the softmax of the largest
        best = np.argsort(-sure, kind="stable")[:KEPT]
        found = [
            Mistake(images[i].copy(), int(labels[i]), int(predicted[i]), float(p))
            for i, p in zip(wrong[best], sure[best])
        ]
        self.mistakes = sorted(self.mistakes + found, key=lambda mistake: -mistake.confidence)[:KEPT]

    @property
    def count(self) -> np.ndarray:
        """Images of each class, (K,)."""
        return self.confusion.sum(1)

    @property
    def right(self) -> np.ndarray:
        """Those of them that were recognised, (K,)."""
        return self.confusion.diagonal()

    def confusions(self, most: int) -> list[tuple[int, int, int]]:
        """(class, what it was taken for, how often) of the pairs that were confused most often, at most `most` of them."""
        others = self.confusion.copy()
        np.fill_diagonal(others, 0)
        flat = np.argsort(-others, axis=None, kind="stable")[:most]
        pairs = zip(*np.unravel_index(flat, others.shape), strict=True)
        return [(int(i), int(j), int(others[i, j])) for i, j in pairs if others[i, j]]
