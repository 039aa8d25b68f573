"""The most important keys: how much of a network's answer is mixed from each place that its deformable blocks read.

A reconstruction: the paper shows such a figure, our sources do not say how its scores are computed, and the released code has
nothing for it. Chapter 14 derives what stands here. With the weights P of the attention frozen and one number in each pixel, a
block mixes

    y_i = 1/M Σ_m Σ_n P⁽ᵐ⁾_in Σ_(r, c) Φ_n,(r, c) x[r, c],

which is linear in x. Its vjp takes the importance a_i of the queries to scores of keys, s_n = 1/M Σ_m Σ_i P⁽ᵐ⁾_in a_i, and
these, by Φᵀ, to the importance of the pixels below. From the last block to the first:

* a residual path keeps half of the importance where it is, and half goes where the attention read;
* other blocks, MLPs and layer norms leave it where it is;
* a pixel of the next stage's map is made of 2×2 pixels, which share its importance.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidat import nn, ops
from minidat.attention import DeformableAttention, PooledAttention
from minidat.autograd import Tensor, no_grad
from minidat.autograd.backend import asnumpy
from minidat.models import Pyramid
from minidat.ops.heads import split_heads

Place = tuple[int, int]
"""A block: (stage, block of the stage), counted from 0."""


@dataclass(frozen=True)
class Read:
    """What a deformable block did with one image: P (M, H·W, N), points (G, N, 2) in pixels of its map, the map's size. cell: its
    keys are means of so many rows and columns of pixels (`PooledAttention`); 0: they were read at the points."""

    weights: np.ndarray
    points: np.ndarray
    size: tuple[int, int]
    cell: int = 0


def look(model: Pyramid, x: Any) -> tuple[np.ndarray, dict[Place, Read]]:
    """Logits (K,) of one image x (1, H, W, 3), and what each deformable block did. The results are NumPy's."""
    seen: dict[Place, Read] = {}
    with no_grad(), _watched(model, seen):
        logits = model(Tensor(x))
    return asnumpy(logits.data)[0], seen


@contextmanager
def _watched(model: Pyramid, seen: dict[Place, Read]) -> Generator[None]:
    """Inside, every deformable attention also leaves what it did in `seen`."""
    watched = []
    for i, stage in enumerate(model.stages):
        for j, block in enumerate(stage.blocks):
            if isinstance(block.mixer, DeformableAttention):
                watched.append((block, block.mixer))
                block.mixer = _Watch(block.mixer, seen, (i, j))
    try:
        yield
    finally:
        for block, mixer in watched:
            block.mixer = mixer


class _Watch(nn.Module):
    """A deformable attention with a window in it."""

    def __init__(self, attention: DeformableAttention, seen: dict[Place, Read], place: Place):
        self.attention, self.seen, self.place = attention, seen, place
        self.check_size = attention.check_size

    def __call__(self, x: Tensor, record: dict | None = None) -> Tensor:
        self.seen[self.place] = read(self.attention, x)
        return self.attention(x, record)


def read(attention: DeformableAttention, x: Tensor) -> Read:
    """P = softmax(q k̃ᵀ/√d + φ(B̂; R)) of every head, for one map x (1, H, W, C), layer-normed                 DAT eq. (9)"""
    _, h, w, c = x.shape
    grids = attention.grids.of(x)
    q = attention.query(x)  # (1, H, W, C)
    points = attention.points(q, grids)  # (1, G, N, 2)
    k = attention.key(attention.sample(x, points))  # (1, N, C)
    q, k = (split_heads(t.reshape(1, -1, c), attention.heads) for t in (q, k))  # (1, M, H·W or N, d)
    scores = q @ k.transpose(0, 1, 3, 2) * (c // attention.heads) ** -0.5  # (1, M, H·W, N)
    bias = attention.position.bias(points, grids)
    weights = ops.softmax(scores if bias is None else scores + bias)
    cell = attention.offsets.stride if isinstance(attention, PooledAttention) else 0
    return Read(asnumpy(weights.data)[0], asnumpy(points.data)[0], (h, w), cell)


def hand_down(a: np.ndarray, one: Read) -> tuple[np.ndarray, np.ndarray]:
    """The importance a (H, W) of a block's queries → scores of its keys (G, N), and the importance (H, W) of the pixels that
    they were read from. What keys beyond the border read is zero, and their importance is lost."""
    groups, keys = one.points.shape[:2]
    by_head = a.ravel() @ one.weights / len(one.weights)  # (M, N)
    scores = by_head.reshape(groups, -1, keys).sum(1)  # heads of a group are adjacent
    if one.cell:
        rows, cols = (n // one.cell for n in one.size)
        below = np.zeros(one.size)
        each = scores.sum(0).reshape(rows, cols) / one.cell**2
        below[: rows * one.cell, : cols * one.cell] = each.repeat(one.cell, 0).repeat(one.cell, 1)
        return scores, below
    _, vjp = ops.bilinear_sample.raw(np.zeros((1, *one.size, groups)), one.points[None].astype(float))
    return scores, vjp(scores.T[None])[0][0].sum(-1)


def spread(a: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The importance a (h, w) of a map → that of the map (H, W) before it, twice as high and wide: pixel (r, c) is shared by
    (2r, 2c) … (2r + 1, 2c + 1), by fewer at the border of an odd map."""
    rows, cols = (np.minimum(np.arange(n) // 2, m - 1) for n, m in zip(size, a.shape, strict=True))
    shares = np.bincount(rows)[:, None] * np.bincount(cols)  # (h, w): pixels that share each
    return (a / shares)[np.ix_(rows, cols)]


def important_keys(
    model: Pyramid, seen: Mapping[Place, Read], image: tuple[int, int], query: tuple[float, float] | None = None
) -> dict[Place, np.ndarray]:
    """The scores (G, N) of every deformable block's keys, for an image of (H, W) that `look` was given.

    query: (row, col) in pixels of the image: how much the keys count for the pixel of the last map that holds this one. None:
    for the whole answer, of which every pixel of the last map has the same share. Raises ValueError for a query outside.
    """
    sizes = list(zip(*(model.config.map_sizes(n) for n in image), strict=True))  # of each stage's map
    a = importance(sizes[-1], image, query)
    scores = {}
    for i in reversed(range(len(model.stages))):
        for j in reversed(range(len(model.stages[i].blocks))):
            if (i, j) in seen:
                scores[i, j], below = hand_down(a, seen[i, j])
                a = (a + below) / 2  # the residual path, and the attention
        if i:
            a = spread(a, sizes[i - 1])
    return scores


def importance(size: tuple[int, int], image: tuple[int, int], query: tuple[float, float] | None = None) -> np.ndarray:
    """(h, w), adding up to 1: of the pixels of a map of this size over an image of (H, W); see `important_keys`."""
    if query is None:
        return np.full(size, 1 / (size[0] * size[1]))
    if not all(-0.5 <= place < n - 0.5 for place, n in zip(query, image, strict=True)):  # pixel i: i − ½ … i + ½
        raise ValueError(
            f"query {query[0]:g},{query[1]:g} is outside the image, which has {image[0]}×{image[1]} pixels"
        )
    a = np.zeros(size)
    a[tuple(int((place + 0.5) * m / n) for place, m, n in zip(query, size, image, strict=True))] = 1
    return a
