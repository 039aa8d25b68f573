"""The mask head of Mask R-CNN: what part of a box is the object, cell by cell; and masks of cells on the image."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from minidat import nn, ops
from minidat.autograd import Tensor
from minidat.autograd.backend import like
from minidat.dense.layers import Conv, TransposedConv2d, kaiming
from minidat.dense.targets import Objects, Size
from minidat.ops.bilinear import g
from minidat.ops.checks import check_whole


class MaskHead(nn.Module):
    """(conv₃ₓ₃ → ReLU)ᶜ → transposed conv₂ₓ₂ → ReLU → conv₁ₓ₁: a map of logits for each class                       Mask R-CNN

    From `side`×`side` cells, read by RoIAlign, to twice as many. Source: mmdetection 2.26, `fcn_mask_head.py`.
    """

    def __init__(
        self,
        classes: int,
        c_in: int = 256,
        *,
        rng: np.random.Generator,
        channels: int = 256,
        convs: int = 4,
        side: int = 14,
    ):
        check_whole("MaskHead", 0, convs=convs)
        check_whole("MaskHead", side=side)
        self.side = side
        widths = [c_in, *[channels] * convs]
        self.convs = [Conv(a, b, 3, rng=rng, start=kaiming) for a, b in pairwise(widths)]
        self.up = TransposedConv2d(widths[-1], channels, rng=rng, start=kaiming)
        self.out = Conv(channels, classes, 1, rng=rng, start=kaiming)

    def __call__(self, x: Tensor) -> Tensor:
        """(R, side, side, C) → logits (R, 2 side, 2 side, classes)"""
        for conv in self.convs:
            x = ops.relu(conv(x))
        return self.out(ops.relu(self.up(x)))


def own_class(logits: Tensor, labels: np.ndarray) -> Tensor:
    """(R, m, m, K), labels (R) → (R, m, m): each box's map of its own class."""
    r, m, n, k = logits.shape
    rows = logits.transpose(0, 3, 1, 2).reshape(r * k, m, n)
    return ops.take(rows, indices=like(np.arange(r) * k + labels, logits.data), axis=0)


def mask_targets(objects: Objects, which: np.ndarray, boxes: np.ndarray, side: int) -> np.ndarray:
    """(R, side, side) float32, 0 or 1: of box r, the cells that are at least half of the mask of object which[r].

    boxes (R, 4) in pixels. The mask is read as RoIAlign reads a map of the image's size.
    """
    if not len(boxes):
        return np.zeros((0, side, side), np.float32)
    if objects.masks is None:
        raise ValueError("this head learns masks, and the objects have none")
    kept, which = np.unique(which, return_inverse=True)
    maps = objects.masks[kept].astype(np.float32)[..., None]
    read, _ = ops.roi_align.raw(maps, boxes.astype(np.float32), which, size=(side, side))
    return (read[..., 0] >= 0.5).astype(np.float32)


def mask_loss(logits: Tensor, labels: np.ndarray, targets: np.ndarray) -> Tensor:
    """Mean over boxes and cells of the binary cross-entropy of each box's own class; 0 where there is no box."""
    own = own_class(logits, labels)
    return ops.binary_cross_entropy(own, like(targets, own.data)).sum() / max(targets.size, 1)


def paste(cells: np.ndarray, boxes: np.ndarray, size: Size) -> np.ndarray:
    """Probabilities of cells (k, m, m) inside boxes (k, 4), in pixels → masks (k, H, W) bool on an image of `size`.

    Y = W_y X W_xᵀ with W[i, j] = g(u_i·m − ½, j), u_i = (i + ½ − edge₀)/(edge₁ − edge₀): the bilinear value at each pixel's
    centre, zero outside; the mask is where it is at least ½. Only the rows and columns near a box are computed. Source:
    mmdetection 2.26, `_do_paste_mask`.
    """
    found = np.zeros((len(cells), *size), bool)
    for mask, x, box in zip(found, cells, boxes, strict=True):
        axes = []
        for axis in (0, 1):
            first, last = box[axis], box[axis + 2]
            inside = slice(max(int(first) - 1, 0), max(min(int(np.ceil(last)) + 1, size[axis]), 0))
            u = (np.arange(size[axis])[inside] + 0.5 - first) / max(last - first, 1e-6)
            axes.append((inside, g((u * x.shape[axis] - 0.5).astype(x.dtype), x.shape[axis])))
        (rows, w_y), (cols, w_x) = axes
        mask[rows, cols] = w_y @ x @ w_x.T >= 0.5
    return found


def split_by(counts: Sequence[int], array: np.ndarray) -> list[np.ndarray]:
    """The first axis of an array cut into parts of these lengths."""
    return np.split(array, np.cumsum(counts)[:-1]) if counts else []
