"""RoIAlign: the part of a map inside a box, read at a fixed number of places. φ once more, and separable."""

from __future__ import annotations

from typing import Any

from minidat.autograd.backend import array_module
from minidat.autograd.engine import op
from minidat.ops.bilinear import g
from minidat.ops.checks import check_floating, check_whole
from minidat.ops.separable import separable_resample
from minidat.ops.take import take


@op("b h w c, r 4, r -> r i j c")
def roi_align(
    x, boxes, images, *, size: tuple[int, int], scale: float = 1.0, samples: int = 0, half_pixel: bool = True
):
    """Y_r = W_y X W_xᵀ for each box r, W[i, k] = mean over the samples p of bin i of g(p, k)                    Mask R-CNN

    x (B, H, W, C); boxes (R, 4), (row0, col0, row1, col1) in pixels of the image, edges; images (R): the map of each box.
    `scale`: pixels of the map in one of the image. `size`: bins, along rows and columns. `samples` of a bin along an axis; 0:
    ⌈side of the box on the map / bins⌉, as published. Returns (R, *size, C).
    A pixel's centre is ½ from its edge, so an edge e of the image is at e·scale − ½ in pixels of the map; `half_pixel=False`,
    as before 2019, forgets that ½ and makes boxes at least one pixel large. A sample more than a pixel outside the map counts
    as zero; others read the nearest edge. A box of no area, or with its edges in reverse order, reads zeros where `samples`
    is 0. Gradient to the map: the same matrices transposed. None to the boxes.
    Raises ValueError for a box of an image that is not there, TypeError for maps that are not floating-point.
    """
    check_roi_align(x, boxes, images, size, samples)
    rows, cols = box_matrices(x, boxes, size, scale, samples, half_pixel)  # (r, i, h), (r, j, w)
    maps, take_vjp = take.raw(x, indices=images, axis=0)  # (r, h, w, c)
    y, vjp = separable_resample.raw(maps, rows, cols)
    return y, lambda dy: (*take_vjp(vjp(dy)[0]), None, None)


def box_matrices(x, boxes, size: tuple[int, int], scale: float, samples: int, half_pixel: bool) -> list:
    """[W_y (R, i, H), W_x (R, j, W)] of boxes in pixels of the image."""
    edges = boxes.astype(x.dtype, copy=False) * scale - (0.5 if half_pixel else 0.0)
    least = None if half_pixel else 1.0
    return [bin_matrix(edges[:, k], edges[:, k + 2], size[k], x.shape[1 + k], samples, least) for k in (0, 1)]


def bin_matrix(start, stop, bins: int, n: int, samples: int, least: float | None = None):
    """(R, bins, n): how the pixels of an axis of n make up the bins of boxes that reach from start to stop (R), in pixels.
    `least`: a smallest side, in pixels."""
    xp = array_module(start)
    side = stop - start if least is None else xp.maximum(stop - start, least)  # (r)
    count = xp.maximum(xp.ceil(side / bins), 0) if samples == 0 else xp.full(side.shape, samples, dtype=side.dtype)
    most = max(int(count.max()), 1) if len(count) else 1
    k, own = xp.arange(most, dtype=side.dtype), xp.maximum(count, 1)[:, None]  # own samples of each box
    inside = (k + 0.5) / own  # (r, k): places in a bin, in bins
    bin_side = (side / bins)[:, None, None]
    p = start[:, None, None] + bin_side * (xp.arange(bins, dtype=side.dtype)[:, None] + inside[:, None])  # (r, i, k)
    counts = (k < count[:, None])[:, None] & (p >= -1) & (p <= n)
    weight = counts.astype(side.dtype) / own[:, None]
    return (g(xp.clip(p, 0, n - 1), n) * weight[..., None]).sum(axis=2)


def check_roi_align(x: Any, boxes: Any, images: Any, size: tuple[int, int], samples: int) -> None:
    """Raises ValueError and TypeError as `roi_align` says."""
    check_whole("roi_align", height=size[0], width=size[1])
    check_whole("roi_align", 0, samples=samples)
    check_floating("roi_align", x)
    if not x.shape[1] or not x.shape[2]:
        raise ValueError(
            f"roi_align: a map of {x.shape[1]}×{x.shape[2]} has no pixels; axes 'h' and 'w' must not be empty"
        )
    on_host = array_module(images) is array_module()
    if len(images) and (not len(x) or (on_host and (images.min() < 0 or images.max() >= len(x)))):
        raise ValueError(f"roi_align: boxes are of images {images.tolist()[:4]} …, but axis 'b' is {len(x)} in input 0")
