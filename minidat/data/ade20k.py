"""ADE20K: images and the class of each of their pixels."""

from __future__ import annotations

import numpy as np

from minidat.data.samples import IGNORED


def labels_of(png: np.ndarray) -> np.ndarray:
    """ADE20K's numbers uint8 (H, W), 0 for what is of no class and 1 … K, as classes: `IGNORED` and 0 … K − 1, uint8 (H, W)."""
    return np.where(png == 0, IGNORED, png - np.uint8(1)).astype(np.uint8)
