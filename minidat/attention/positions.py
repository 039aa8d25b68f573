"""The position encodings of the paper's ablation, and DAT++'s: what deformable attention knows of where queries and keys are."""

from __future__ import annotations

import numpy as np

from minidat import nn, ops
from minidat.attention.grids import Grids
from minidat.autograd import Tensor


class Position(nn.Module):
    """What all of them do. `grids`: of the map that tables are made for.

    A subclass adds to the logits (`bias`), to the output of the heads (`add_to`), or to neither.
    """

    def __init__(self, dim: int, heads: int, groups: int, grids: Grids, rng: np.random.Generator): ...

    def check_size(self, size: tuple[int, int]) -> None:
        """Raises ValueError for a map (H, W) that this encoding does not take."""

    def bias(self, points: Tensor, grids: Grids) -> Tensor | None:
        """What is added to the logits, broadcast to (B, M, H·W, N), or None. points (B, G, N, 2): the keys, in pixels."""
        return None

    def add_to(self, z: Tensor, q: Tensor) -> Tensor:
        """The heads' output z, queries q, both (B, H, W, C) → what W_o is applied to."""
        return z


class NoPosition(Position):
    """Logits compare contents alone."""


class RelativePosition(Position):
    """φ(B̂; R), B̂ `table` (M, 2H−1, 2W−1)                                                               DAT eq. (9)

    Maps of any size: on another map than the table's, a displacement means the same fraction of the map.
    """

    def __init__(self, dim: int, heads: int, groups: int, grids: Grids, rng: np.random.Generator):
        self.table = nn.table(rng, (heads, *(2 * n - 1 for n in grids.size)))

    def cells(self, size: tuple[int, int]) -> tuple[float, float]:
        """Cells of the table in one pixel of a map (H, W), along rows and columns: 1 on the map that it is made for."""
        h, w = ((length - 1) / 2 / max(n - 1, 1) for length, n in zip(self.table.shape[1:], size, strict=True))
        return h, w

    def bias(self, points: Tensor, grids: Grids) -> Tensor:
        return ops.position_bias(self.table, points, grids.rows, grids.cols, cells=self.cells(grids.size))


class FixedPosition(Position):
    """A number for each pair of query and key, `table` (M, H·W, N), wherever the key's point goes. For maps of one size."""

    def __init__(self, dim: int, heads: int, groups: int, grids: Grids, rng: np.random.Generator):
        (h, w), (rows, cols) = grids.size, grids.keys
        self.size = grids.size
        self.table = nn.table(rng, (heads, h * w, rows * cols))

    def check_size(self, size: tuple[int, int]) -> None:
        if tuple(size) != self.size:
            raise ValueError(f"DeformableAttention: a fixed table is for a map of {self.size}, got {tuple(size)}")

    def bias(self, points: Tensor, grids: Grids) -> Tensor:
        self.check_size(grids.size)
        return self.table


class DepthwisePosition(Position):
    """DWConv₃ₓ₃(q) is added to the heads' output: `local`. Nothing is added to the logits."""

    def __init__(self, dim: int, heads: int, groups: int, grids: Grids, rng: np.random.Generator):
        self.local = nn.DepthwiseConv2d(dim, 3, rng=rng)

    def add_to(self, z: Tensor, q: Tensor) -> Tensor:
        return z + self.local(q)


class LogPosition(Position):
    """max(0, u W₁ + b₁) W₂, u = sign(D) log₂(1 + |D|)/log₂ 8: `hidden`, `spread`, shared by the groups      released DAT++

    D = 4·(query − key) in normalised units, (row, col). Maps of any size.
    """

    def __init__(self, dim: int, heads: int, groups: int, grids: Grids, rng: np.random.Generator):
        self.hidden = nn.Linear(2, 32, rng=rng)
        self.spread = nn.Linear(32, heads // groups, rng=rng, bias=False)

    def bias(self, points: Tensor, grids: Grids) -> Tensor:
        height, width = (8 / max(n - 1, 1) for n in grids.size)  # 4 · 2 normalised units are n − 1 pixels
        network = (self.hidden.weight, self.hidden.bias, self.spread.weight)
        return ops.log_position_bias(points, grids.rows, grids.cols, *network, scale=(height, width))


POSITIONS: dict[str, type[Position]] = {
    "relative": RelativePosition,
    "none": NoPosition,
    "fixed": FixedPosition,
    "depthwise": DepthwisePosition,
    "log": LogPosition,
}
