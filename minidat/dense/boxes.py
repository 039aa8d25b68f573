"""Boxes (row0, col0, row1, col1), edges in pixels: their overlap, and how a network writes one box as seen from another.

Source: mmdetection 2.26, `bbox_overlaps`, `delta_xywh_bbox_coder.py`. No side is one pixel longer than its edges say.
"""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np

from minidat import ops
from minidat.autograd import Tensor, no_grad

MOST = log(1000 / 16)
"""The largest |ln(side/side of the anchor)| that is believed: 4.135."""


def areas(boxes: np.ndarray) -> np.ndarray:
    """(…, 4) → (…)"""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """|A ∩ B| / |A ∪ B| of each of `one` (n, 4) with each of `other` (m, 4): (n, m), float64; 0 for two boxes of no area."""
    a, b = one.astype(np.float64)[:, None], other.astype(np.float64)
    sides = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0)  # (n, m, 2)
    both = sides[..., 0] * sides[..., 1]
    return both / np.maximum(areas(a) + areas(b) - both, 1e-6)


def clipped(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Boxes (…, 4) cut to an image of (H, W)."""
    return np.clip(boxes, 0, np.array([*size, *size], boxes.dtype))


def encode(boxes: np.ndarray, targets: np.ndarray, stds: tuple[float, ...] = (1, 1, 1, 1)) -> np.ndarray:
    """δ of each target as seen from its box, (n, 4): ((t − c)_row/h, (t − c)_col/w, ln(h_t/h), ln(w_t/w))/stds

    c, t: centres; h, w: sides of the box. A target of no area would be at −∞: sides count as a thousandth of a pixel at least.
    """
    centre, sides = _centre_and_sides(boxes)
    t_centre, t_sides = _centre_and_sides(targets)
    sides = np.maximum(sides, 1e-3)
    move, grow = (t_centre - centre) / sides, np.log(np.maximum(t_sides, 1e-3) / sides)
    return np.concatenate([move, grow], -1) / np.array(stds, boxes.dtype)


def decode(boxes: Any, deltas: Tensor, stds: tuple[float, ...] = (1, 1, 1, 1)) -> Tensor:
    """The inverse of `encode`, for a loss of boxes: centre + δ·sides, sides·e^δ with |δ| ≤ `MOST`; boxes (n, 4), an array of the
    deltas' kind, is a constant. Not cut to the image."""
    centre, sides = _centre_and_sides(boxes)
    moved = deltas[:, :2] * (sides * stds[0]) + centre  # the two directions share a std in every published head
    grown = ops.exp(ops.clip(deltas[:, 2:] * stds[2], low=-MOST, high=MOST)) * (0.5 * sides)
    return ops.concatenate(moved - grown, moved + grown, axis=1)


def decoded(boxes: np.ndarray, deltas: np.ndarray, stds: tuple[float, ...], size: tuple[int, int]) -> np.ndarray:
    """`decode` of arrays, the boxes then cut to an image of (H, W)."""
    with no_grad():
        return clipped(decode(boxes, Tensor(deltas), stds).data, size)


def _centre_and_sides(boxes: Any) -> tuple[Any, Any]:
    return (boxes[..., :2] + boxes[..., 2:]) * 0.5, boxes[..., 2:] - boxes[..., :2]
