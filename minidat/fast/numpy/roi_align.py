"""RoIAlign on the part of the map that a box meets. The equation copies the whole map for each box: for 512 boxes on a map of
200×336×256 that are 35 GB. Here a box costs as much as its own rows and columns, and one turn of a loop."""

from __future__ import annotations

import numpy as np

from minidat import ops
from minidat.fast.dispatch import NUMPY
from minidat.ops.roi_align import box_matrices, check_roi_align


@NUMPY.implements(ops.roi_align, constants=(1, 2))
def roi_align(
    x, boxes, images, *, size: tuple[int, int], scale: float = 1.0, samples: int = 0, half_pixel: bool = True
):
    """Y_r = W_y X W_xᵀ without the rows and columns of X whose weights are 0; see `ops.roi_align`."""
    whole = images.astype(np.int64)  # a constant comes in the map's dtype
    if (whole != images).any():
        return NotImplemented  # the plain op raises the error
    images = whole
    check_roi_align(x, boxes, images, size, samples)
    rows, cols = box_matrices(x, boxes, size, scale, samples, half_pixel)  # (r, i, h), (r, j, w)
    parts = []
    for w_y, w_x, image in zip(rows, cols, images.tolist(), strict=True):
        down, right = _span(w_y), _span(w_x)
        parts.append(((image, down, right), w_y[:, down], w_x[:, right]))
    y = np.empty((len(boxes), *size, x.shape[3]), x.dtype)
    for out, (at, w_y, w_x) in zip(y, parts, strict=True):
        out[...] = _product(w_y, x[at], w_x)

    def vjp(dy):
        dx = np.zeros(x.shape, dy.dtype)
        for d, (at, w_y, w_x) in zip(dy, parts, strict=True):
            dx[at] += _product(w_y.T, d, w_x.T)
        return dx, None, None

    return y, vjp


def _span(matrix: np.ndarray) -> slice:
    """From the first to the last column (of an axis of the map) that has a weight."""
    (used,) = np.nonzero(matrix.any(axis=0))
    return slice(used[0], used[-1] + 1) if len(used) else slice(0, 0)


def _product(w_y: np.ndarray, x: np.ndarray, w_x: np.ndarray) -> np.ndarray:
    """W_y X W_xᵀ of a map (h, w, c)."""
    h, w, c = x.shape
    return w_x @ (w_y @ x.reshape(h, w * c)).reshape(len(w_y), w, c)
