"""Non-maximum suppression: of boxes that overlap, the one with the highest score stays."""

from __future__ import annotations

import numpy as np

from minidat.dense.boxes import iou

CHUNK = 256


def nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    threshold: float,
    labels: np.ndarray | None = None,
    most: int | None = None,
) -> np.ndarray:
    """Indices of the boxes that stay, by descending score, `most` of them at most; equal scores keep their order.

    Boxes (n, 4) are looked at by descending score; one that overlaps with one that stays, by an IoU above `threshold`, goes. An
    IoU of exactly `threshold` does no harm. labels (n): boxes of different labels do not meet; None: all have one.
    """

    def meet(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        overlap = iou(boxes[one], boxes[other]) > threshold
        return overlap if labels is None else overlap & (labels[one][:, None] == labels[other])

    order, kept = np.argsort(-scores, kind="stable"), np.zeros(0, np.int64)
    for start in range(0, len(order), CHUNK):
        chunk = order[start : start + CHUNK]
        chunk = chunk[~meet(chunk, kept).any(axis=1)]
        harm, stays = meet(chunk, chunk), np.ones(len(chunk), bool)
        for i in range(len(chunk)):
            if stays[i]:
                stays[i + 1 :] &= ~harm[i, i + 1 :]
        kept = np.concatenate([kept, chunk[stays]])
        if most is not None and len(kept) >= most:
            break
    return kept[:most]
