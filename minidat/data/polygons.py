"""Polygons to masks by cocoapi's rule: a pixel belongs to a polygon that holds its centre, with corners rounded to ⅕ pixel.

A polygon is walked on a grid FINE times as fine. Where the walk steps from one fine column to the next and the lower one of
the two is the middle of a pixel column, the pixels of this column below the step change between in and out (even-odd).
Source: cocoapi, `rleFrPoly` of `maskApi.c`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidat.data.rle import Rle

FINE = 5  # fine rows and columns a pixel
FARTHEST = 1e5  # pixels: the walk takes a step for each fifth of them


def rasterise(parts: Sequence[Sequence[float]], size: tuple[int, int]) -> np.ndarray:
    """The union of polygons, each [x0, y0, x1, y1, …] in pixels from the image's top left corner: bool (H, W).

    The x, y order is COCO's. Raises ValueError for a polygon of fewer than three corners, an odd number of coordinates, or
    coordinates that are not finite or farther than `FARTHEST`.
    """
    mask = np.zeros(size, bool)
    for part in parts:
        mask |= _one(part, size).mask
    return mask


def _one(part: Sequence[float], size: tuple[int, int]) -> Rle:
    numbers = np.asarray(part, np.float64)
    if numbers.ndim != 1 or numbers.size < 6 or numbers.size % 2:
        raise ValueError(f"a polygon has {numbers.size} coordinates, expected x and y of three corners or more")
    if not (np.abs(numbers) <= FARTHEST).all():
        raise ValueError(f"a polygon has a corner at {numbers[~(np.abs(numbers) <= FARTHEST)][0]:g}, beyond all images")
    height, width = size
    u, v = _walk(np.trunc(FINE * numbers.reshape(-1, 2) + 0.5).astype(np.int64))  # (S,), (S,)
    (step,) = np.nonzero(np.diff(u))
    column, over = np.divmod(np.minimum(u[step], u[step + 1]), FINE)
    row = np.ceil((np.minimum(v[step], v[step + 1]) + 0.5) / FINE - 0.5)
    row = np.clip(row, 0, height).astype(np.int64)
    centre = (over == FINE // 2) & (column >= 0) & (column < width)
    places, times = np.unique((column * height + row)[centre], return_counts=True)
    return Rle.between(places[(times % 2 == 1) & (places < height * width)], size)


def _walk(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points on the fine grid along the edges between corners int64 (K, 2), the last edge leading back: columns (S,) and
    rows (S,). An edge takes a step for each unit of its longer side, and rounds the other coordinate. It is computed from its
    lower end, so that it has the same points in both directions."""
    ahead = np.roll(corners, -1, 0)
    sides = np.abs(ahead - corners)  # (K, 2)
    longer = np.where(sides[:, 0] >= sides[:, 1], 0, 1)  # (K,) the axis of the steps
    edges = np.arange(len(corners))
    turned = corners[edges, longer] > ahead[edges, longer]
    low = np.where(turned[:, None], ahead, corners)
    high = np.where(turned[:, None], corners, ahead)
    steps = sides[edges, longer]
    slope = (high - low)[edges, 1 - longer] / np.maximum(steps, 1)

    edge = np.repeat(edges, steps + 1)  # (S,)
    t = np.arange(len(edge)) - np.repeat(np.cumsum(steps + 1) - (steps + 1), steps + 1)
    t = np.where(turned[edge], steps[edge] - t, t)
    points = np.empty((len(edge), 2), np.int64)
    walked = np.arange(len(edge))
    points[walked, longer[edge]] = low[edge, longer[edge]] + t
    points[walked, 1 - longer[edge]] = np.trunc(low[edge, 1 - longer[edge]] + slope[edge] * t + 0.5).astype(np.int64)
    return points[:, 0], points[:, 1]


def trace(mask: np.ndarray) -> list[list[float]] | None:
    """The borders of a mask's parts along its pixels' sides, as polygons [x0, y0, x1, y1, …] that `rasterise` turns into the
    same mask; None for a mask with a hole, of which polygons cannot tell, and for an empty one.

    Each side between an inner and an outer pixel is walked with the inside on the right. Where two borders meet in a point,
    the walk turns right, so that parts that touch at a corner stay apart.
    """
    ahead = _sides(mask)
    polygons = []
    while ahead:
        start = at = next(iter(ahead))
        direction = next(iter(ahead[start]))
        corners = []
        while True:
            ahead[at].remove(direction)
            if not ahead[at]:
                del ahead[at]
            corners.append((at, direction))
            at = at[0] + direction[0], at[1] + direction[1]
            if at == start:
                break
            right = direction[1], -direction[0]
            direction = right if right in ahead[at] else next(iter(ahead[at] - {right}))
        turns = [point for i, (point, way) in enumerate(corners) if way != corners[i - 1][1]]
        y, x = np.array(turns).T
        if (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() < 0:  # walked against the clock: around a hole
            return None
        polygons.append(np.stack([x, y], 1).ravel().astype(float).tolist())
    return polygons or None


def _sides(mask: np.ndarray) -> dict[tuple[int, int], set[tuple[int, int]]]:
    """From each corner (row, col) of pixels, the directions in which a border leaves it."""
    padded = np.pad(mask, 1)
    found: dict[tuple[int, int], set[tuple[int, int]]] = {}
    # Beside the inside: the outer neighbour, the corner where the walk along their common side begins, its direction.
    for (dr, dc), (row, col), way in (
        ((-1, 0), (0, 0), (0, 1)),
        ((0, 1), (0, 1), (1, 0)),
        ((1, 0), (1, 1), (0, -1)),
        ((0, -1), (1, 0), (-1, 0)),
    ):
        outer = np.roll(padded, (-dr, -dc), (0, 1))
        for r, c in np.argwhere(padded & ~outer).tolist():
            found.setdefault((r - 1 + row, c - 1 + col), set()).add(way)
    return found
