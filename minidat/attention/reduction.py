"""Spatial-reduction attention, as in PVT: keys and values come from a map R times smaller along each side."""

from __future__ import annotations

import numpy as np

from minidat import nn, ops
from minidat.attention.entry import entered
from minidat.attention.heads import multi_head_attention
from minidat.autograd import Tensor
from minidat.ops.checks import check_whole
from minidat.ops.heads import check_heads


class SpatialReductionAttention(nn.Module):
    """z = Concat_m softmax(q⁽ᵐ⁾ k⁽ᵐ⁾ᵀ/√d) v⁽ᵐ⁾ W_o,  q = x W_q,  k | v = x′ W_kv,  x′ = LN(x ∗ W_R, stride R)               PVT

    | symbol | attribute |
    |---|---|
    | W_q | `query` (released: `q`) |
    | W_kv | `key_value`, side by side (released: `kv`) |
    | W_o | `out` (released: `proj`) |
    | W_R (R, R, C, C) and LN, where R > 1 | `reduce` `norm` (released: `proj_ds.0`, `proj_ds.1.norm`) |
    | M, R | `heads` `reduction` |

    With R = 1, x′ = x and this is multi-head self-attention. Rows and columns beyond the last whole R×R patch are in no key.
    Differences from the released code: none. Raises ValueError when heads do not divide dim, when R < 1, and for a map
    smaller than R×R, TypeError for an input that is no floating array.
    """

    def __init__(self, dim: int, heads: int, *, reduction: int, rng: np.random.Generator):
        check_heads("SpatialReductionAttention", dim, heads)
        check_whole("SpatialReductionAttention", reduction=reduction)
        self.heads, self.reduction = heads, reduction
        self.query = nn.Linear(dim, dim, rng=rng)
        if reduction > 1:
            self.reduce = nn.Conv2d(dim, dim, reduction, rng=rng, stride=reduction)
            self.norm = nn.LayerNorm(dim)
        self.key_value = nn.Linear(dim, 2 * dim, rng=rng)
        self.out = nn.Linear(dim, dim, rng=rng)

    def __call__(self, x: Tensor, record: dict | None = None) -> Tensor:
        """x (B, H, W, C), any H and W from R on → the same shape."""
        x = entered("SpatialReductionAttention", x, "B H W C", self.out.weight.shape[0])
        _, h, w, _ = x.shape
        self.check_size((h, w))
        k, v = ops.split(self.key_value(self.reduced(x)), 2, axis=-1)
        return self.out(multi_head_attention(self.query(x), k, v, None, heads=self.heads))

    def reduced(self, x: Tensor) -> Tensor:
        """x′ (B, ⌊H/R⌋, ⌊W/R⌋, C): what keys and values are made of"""
        return self.norm(self.reduce(x)) if self.reduction > 1 else x

    def check_size(self, size: tuple[int, int]) -> None:
        """Raises ValueError for a map (H, W) that is smaller than R×R."""
        if min(size) < self.reduction:
            h, w = size
            raise ValueError(f"SpatialReductionAttention: a map of {h}×{w} is smaller than reduction {self.reduction}")
