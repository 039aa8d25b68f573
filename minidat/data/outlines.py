"""The ten shapes: how far a point is from each outline, and how much of each pixel an object covers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

CLASSES = ("disc", "ring", "square", "frame", "triangle", "plus", "ex", "star", "crescent", "bar")
REACH = 1.12  # no outline goes further than this many radii from its centre
UPRIGHT = ("plus", "ex")  # turned by 45 degrees they become each other, so they lean by 15 at most


class Place(NamedTuple):
    """Where the objects are, each float32 (B,): pixels from the top left corner of the image, radians."""

    row: np.ndarray
    col: np.ndarray
    radius: np.ndarray
    turn: np.ndarray


def turned(labels: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Angles in radians, as far as a shape may turn, from uniform numbers of 0..1; both of any one shape."""
    upright = np.isin(labels, [CLASSES.index(name) for name in UPRIGHT])
    return np.where(upright, (u - 0.5) * np.float32(np.pi / 6), u * np.float32(2 * np.pi))


def _disc(x, y, r):
    return np.sqrt(x * x + y * y) - r


def _ring(x, y, r):
    return np.abs(np.sqrt(x * x + y * y) - 0.82 * r) - 0.18 * r


def _square(x, y, r):
    return np.maximum(np.abs(x), np.abs(y)) - 0.78 * r


def _frame(x, y, r):
    return np.abs(np.maximum(np.abs(x), np.abs(y)) - 0.63 * r) - 0.16 * r


def _triangle(x, y, r):
    # Three half-planes at 120 degrees; corners at twice the distance of the sides.
    return np.maximum(0.8660254 * np.abs(x) + 0.5 * y, -y) - 0.56 * r


def _plus(x, y, r):
    x, y = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(x - r, y - 0.26 * r), np.maximum(x - 0.26 * r, y - r))


def _ex(x, y, r):
    return _plus(0.70710678 * (x + y), 0.70710678 * (x - y), 1.08 * r)


def _star(x, y, r):
    # A pentagram is where at most one of five half-planes is left: the second largest distance is negative.
    first = second = np.float32(-np.inf)
    for k in range(5):
        angle = 2 * np.pi * k / 5
        d = float(np.cos(angle)) * x + float(np.sin(angle)) * y
        first, second = np.maximum(first, d), np.maximum(second, np.minimum(first, d))
    return second - 0.345 * r  # tips at 0.345 / cos 72° = 1.116 radii


def _crescent(x, y, r):
    return np.maximum(np.sqrt(x * x + y * y) - r, 0.8 * r - np.sqrt((x - 0.5 * r) ** 2 + y * y))


def _bar(x, y, r):
    return np.maximum(np.abs(x) - 1.05 * r, np.abs(y) - 0.3 * r)


# Signed distance to the outline, in pixels, negative inside; in the order of CLASSES.
_OUTLINES = (_disc, _ring, _square, _frame, _triangle, _plus, _ex, _star, _crescent, _bar)


def cover(labels: np.ndarray, place: Place, size: tuple[int, int]) -> np.ndarray:
    """How much of each pixel the object covers, float32 (B, H, W) in 0..1; 0 where the label is −1."""
    rows, cols = (np.arange(n, dtype=np.float32) + 0.5 for n in size)  # pixel centres, from the top left corner
    y = (rows - place.row[:, None])[:, :, None]  # (B, H, 1)
    x = (cols - place.col[:, None])[:, None, :]  # (B, 1, W)
    cos, sin = (f(place.turn)[:, None, None] for f in (np.cos, np.sin))
    x, y = cos * x + sin * y, cos * y - sin * x  # (B, H, W) in the object's own axes
    distance = np.full_like(x, np.inf)
    for label, outline in enumerate(_OUTLINES):
        (mine,) = np.nonzero(labels == label)
        if mine.size:
            distance[mine] = outline(x[mine], y[mine], place.radius[mine, None, None])
    return np.clip(0.5 - distance, 0, 1)
