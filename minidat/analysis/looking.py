"""Where deformable points go, in numbers: into an object's box, and away from the points of other groups."""

from __future__ import annotations

import numpy as np

from minidat.analysis.points import map_to_image


def in_box(points: np.ndarray, size: tuple[int, int], boxes: np.ndarray, image: tuple[int, int]) -> np.ndarray:
    """(B,) the share of points in a box. points (B, G, N, 2), (row, col) in pixels of a map of `size` that covers an image of
    (H, W); boxes (B, 4), rows and columns r0, c0, r1, c1 in pixels of the image, half-open."""
    at = map_to_image(points, size, image)
    low, high = boxes[:, None, None, :2] - 0.5, boxes[:, None, None, 2:] - 0.5  # outer edges of pixels
    return ((at >= low) & (at < high)).all(-1).mean((1, 2))


def groups_apart(points: np.ndarray) -> tuple[float, float]:
    """How far the groups' points of one reference point lie from each other, in pixels of the map: the mean over pairs of
    groups, in one image, and the same with the second group's points of another image.

    points (B, G, N, 2), B ≥ 2. Both are 0 for one group, and equal where groups move their points independently.
    """
    groups = points.shape[1]
    pairs = [(g, h) for g in range(groups) for h in range(g + 1, groups)]
    if not pairs:
        return 0.0, 0.0
    first, second = (points[:, [pair[i] for pair in pairs]] for i in (0, 1))  # (B, pairs, N, 2)
    own = np.linalg.norm(first - second, axis=-1).mean()
    other = np.linalg.norm(first - np.roll(second, 1, axis=0), axis=-1).mean()
    return float(own), float(other)
