"""How much detections and objects overlap: |d ∩ g| / |d ∪ g|, and |d ∩ g| / |d| where g is a crowd.

Source: cocoapi, `bbIou` and `rleIou` of `maskApi.c`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidat.data.rle import Rle, common


def extent_overlaps(found: np.ndarray, truth: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Of boxes (D, 4) and (G, 4) as (row, col, height, width), crowd bool (G,): float64 (D, G). Boxes that do not meet have 0."""
    ends, starts = found[:, None, :2] + found[:, None, 2:], found[:, None, :2]  # (D, 1, 2)
    sides = np.minimum(ends, truth[:, :2] + truth[:, 2:]) - np.maximum(starts, truth[:, :2])  # (D, G, 2)
    inside = np.where((sides > 0).all(-1), sides[..., 0] * sides[..., 1], 0.0)  # (D, G)
    own, other = found[:, 2] * found[:, 3], truth[:, 2] * truth[:, 3]
    return _ratio(inside, own[:, None], other, crowd)


def mask_overlaps(found: Sequence[Rle], truth: Sequence[Rle], crowd: np.ndarray) -> np.ndarray:
    """Of D and G masks of one size, crowd bool (G,): float64 (D, G)."""
    inside = np.array([common(mask, found) for mask in truth], float).reshape(len(truth), len(found)).T  # (D, G)
    own, other = (np.array([mask.area for mask in masks], float) for masks in (found, truth))
    return _ratio(inside, own[:, None], other, crowd)


def _ratio(inside: np.ndarray, own: np.ndarray, other: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """inside: (D, G). own: (D, 1), other: (G,), the areas."""
    whole = np.where(crowd, own, own + other - inside)  # (D, G)
    return np.divide(inside, whole, out=np.zeros_like(inside), where=inside > 0)
