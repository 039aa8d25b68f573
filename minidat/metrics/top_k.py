"""Top-1 and top-5 accuracy of logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Accuracy:
    """Of `count` images, how many have their class first, and among the first five."""

    top1: int
    top5: int
    count: int

    def __add__(self, other: Accuracy) -> Accuracy:
        return Accuracy(self.top1 + other.top1, self.top5 + other.top5, self.count + other.count)


def accuracy(logits: np.ndarray, labels: np.ndarray) -> Accuracy:
    """Of logits (B, K) and labels (B,). Among equal logits the lower class comes first. Logits with a NaN rank nothing: such an
    image counts as wrong."""
    first = np.argsort(-logits, axis=1, kind="stable")[:, :5] == labels[:, None]  # (B, 5) where the label is
    first &= ~np.isnan(logits).any(1, keepdims=True)
    return Accuracy(int(first[:, 0].sum()), int(first.sum()), len(labels))


def check_finite(logits: np.ndarray, images: Sequence[object]) -> None:
    """Raises ValueError, naming the first image, where logits (B, K) of these images are NaN or infinite: they rank nothing."""
    wrong = ~np.isfinite(logits).all(1)  # (B,)
    if wrong.any():
        raise ValueError(
            f"{images[int(wrong.argmax())]}: the network's outputs are not finite (NaN or infinity), so they mean nothing; "
            "its weights may be damaged"
        )
