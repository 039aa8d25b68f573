"""Mean intersection over union: how well each pixel's class is told.

Source: mmsegmentation 0.29, `core/evaluation/metrics.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minidat.data.samples import IGNORED


@dataclass(frozen=True, eq=False)
class Confusion:
    """Pixels counted over images. counts: int64 (K, K), [truth, predicted]; pixels whose truth is `IGNORED` are in no count."""

    counts: np.ndarray

    @classmethod
    def of(cls, predicted: np.ndarray, truth: np.ndarray, classes: int) -> Confusion:
        """Of one image or a batch: predicted and truth, integers of the same shape, 0 … K − 1; truth may be `IGNORED`.

        Raises ValueError for different shapes, and for a class out of range at a pixel that counts.
        """
        if predicted.shape != truth.shape:
            raise ValueError(f"the prediction has shape {predicted.shape}, the truth {truth.shape}")
        counted = truth != IGNORED
        rows, cols = truth[counted].astype(np.int64), predicted[counted].astype(np.int64)  # (P,)
        for what, labels in (("truth", rows), ("prediction", cols)):
            if labels.size and not 0 <= labels.min() <= labels.max() < classes:
                raise ValueError(
                    f"the {what}'s classes run {labels.min()}..{labels.max()}, expected within 0..{classes - 1}"
                )
        return cls(np.bincount(rows * classes + cols, minlength=classes**2).reshape(classes, classes))

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.counts + other.counts)

    @property
    def iou(self) -> np.ndarray:
        """float64 (K,): right / (truth + predicted − right) of each class; NaN for one that is in neither."""
        right = np.diag(self.counts)
        return _share(right, self.counts.sum(0) + self.counts.sum(1) - right)

    @property
    def accuracy(self) -> np.ndarray:
        """float64 (K,): right / truth of each class; NaN for one that the truth does not have."""
        return _share(np.diag(self.counts), self.counts.sum(1))

    @property
    def numbers(self) -> dict[str, float]:
        """mIoU and mAcc, the means over classes that have a value, and aAcc, the share of pixels that are right. NaN where no
        pixel counts."""
        right, pixels = np.diag(self.counts).sum(), self.counts.sum()
        return {
            "mIoU": _mean(self.iou),
            "mAcc": _mean(self.accuracy),
            "aAcc": float(right / pixels) if pixels else float("nan"),
        }


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _mean(values: np.ndarray) -> float:
    counted = values[~np.isnan(values)]
    return float(counted.mean()) if counted.size else float("nan")
