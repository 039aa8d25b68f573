"""Where reference points and queries lie: in the paper's text, and in the two released versions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidat import nn, ops
from minidat.autograd import Tensor, array_module
from minidat.autograd.backend import like
from minidat.ops.checks import check_whole
from minidat.ops.coordinates import output_size, to_normalised, to_pixels
from minidat.ops.deformed_points import LIMITS


@dataclass(frozen=True)
class Convention:
    """Three choices that differ between the paper's text and the released code.

    `reference`, `query`: how the n points of an axis, i = 0 … n−1, are spread over [−1, 1]; see `grid`. `scale`: what the
    range factor s is divided by, along an axis of the key grid with n points: n ("cells") or n − 1 ("gaps").
    """

    reference: str
    scale: str
    query: str


CONVENTIONS = {
    "paper": Convention(reference="corner", scale="gaps", query="corner"),
    "v1": Convention(reference="centre", scale="cells", query="centre"),
    "v2": Convention(reference="shifted", scale="gaps", query="corner"),
}
"""The paper's text ((0, 0) … (H_G−1, W_G−1) normalised to [−1, 1]), and the two released versions. The paper does not say
what s is divided by. With "gaps", s·tanh reaches s/2 pixels each way at r = 1, so each point has its s×s region."""


def grid(n: int, kind: str) -> np.ndarray:
    """(n,) normalised coordinates of the n points of an axis, i = 0 … n−1.

    "corner": 2i/(n−1) − 1, from −1 to 1; the only point of an axis is at −1, the first pixel. "centre": 2(i+½)/n − 1.
    "shifted": 2(i+½)/(n−1) − 1, half a cell too far.
    """
    i = np.arange(n)
    if kind == "corner":
        return to_normalised(i, n)
    return 2 * (i + 0.5) / (n if kind == "centre" else max(n - 1, 1)) - 1


@dataclass(frozen=True)
class Offsets:
    """How the offset network reads the map, and how far it may move a point.

    `stride` r: there is one point for r×r pixels. `kernel`, `padding`: of θ_offset's depthwise convolution; None pads by
    kernel // 2. `range_factor` s and `limit`: see `ops.deformed_points`. `learned=False`: there is no θ_offset, every
    point stays at its reference. Raises ValueError for a value that is out of range or unknown.
    """

    stride: int = 1
    kernel: int = 5
    padding: int | None = None
    range_factor: float = 2.0
    limit: str = "tanh"
    learned: bool = True

    def __post_init__(self):
        check_whole("Offsets", stride=self.stride, kernel=self.kernel)
        check_whole("Offsets", 0, padding=self.pad)
        if not math.isfinite(self.range_factor):
            raise ValueError(f"Offsets: range_factor is {self.range_factor}; it must be finite")
        if self.limit not in LIMITS:
            raise ValueError(f"Offsets: limit {self.limit!r} is unknown; choose from {', '.join(LIMITS)}")

    @property
    def pad(self) -> int:
        """Pixels of zeros around the map."""
        return self.kernel // 2 if self.padding is None else self.padding

    def key_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H_G, W_G), the key grid on a map of (H, W). Raises ValueError for a map that has none."""
        rows, cols = (output_size(n, self.kernel, self.stride, self.pad) for n in size)
        if rows < 1 or cols < 1:
            raise ValueError(
                f"DeformableAttention: a map of {size[0]}×{size[1]} is too small for offsets by a kernel of {self.kernel} "
                f"padded by {self.pad}"
            )
        return rows, cols


class Grids(nn.Module):
    """Arrays that depend only on the map's size: reference points and query coordinates.

    `size` (H, W), `keys` (H_G, W_G); `reference` (N, 2), normalised, N = H_G·W_G; `rows` (H), `cols` (W): the queries'
    coordinates, in pixels; `amplitude`: s in normalised units, for rows and for columns. The Tensors are constants, float64.
    """

    def __init__(self, size: tuple[int, int], offsets: Offsets, convention: Convention):
        check_whole("DeformableAttention", height=size[0], width=size[1])
        self.size, self.keys = size, offsets.key_size(size)
        self.offsets, self.convention = offsets, convention
        axes = [grid(n, convention.reference) for n in self.keys]
        self.reference = Tensor(np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2).astype(np.float64))
        self.rows, self.cols = (Tensor(to_pixels(grid(n, convention.query), n)) for n in size)
        fewer = 0 if convention.scale == "cells" else 1
        self.amplitude = tuple(offsets.range_factor / max(n - fewer, 1) for n in self.keys)

    def of(self, x: Tensor) -> Grids:
        """The grids for map x (B, H, W, C), on its device: these, or new ones where x has another size."""
        _, h, w, _ = x.shape
        if (h, w) == self.size:
            return self
        grids = Grids((h, w), self.offsets, self.convention)
        for _, t in grids.tensors():
            t.data = like(t.data, x.data)
        return grids

    def still(self, x: Any, groups: int) -> Tensor:
        """The reference points in pixels, (B, G, N, 2), in the dtype of x (B, H, W, C): points without offsets."""
        pixels = [to_pixels(self.reference.data[:, axis], n) for axis, n in enumerate(self.size)]
        points = array_module(x.data).stack(pixels, -1).astype(x.dtype)  # (N, 2)
        return ops.broadcast_to(Tensor(points), shape=(x.shape[0], groups, *points.shape))
