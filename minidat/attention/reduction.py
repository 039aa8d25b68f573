"""Spatial-reduction attention, as in PVT: every token looks at the whole map, made R times coarser along each side."""

from __future__ import annotations

import numpy as np

from minidat import nn, ops
from minidat.autograd import Tensor
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
    smaller than R×R.
    """

    def __init__(self, dim: int, heads: int, *, reduction: int, rng: np.random.Generator):
        check_heads("SpatialReductionAttention", dim, heads)
        if reduction < 1:
            raise ValueError(f"SpatialReductionAttention: reduction {reduction} must be at least 1")
        self.heads, self.reduction = heads, reduction
        self.query = nn.Linear(dim, dim, rng=rng)
        if reduction > 1:
            self.reduce = nn.Conv2d(dim, dim, reduction, rng=rng, stride=reduction)
            self.norm = nn.LayerNorm(dim)
        self.key_value = nn.Linear(dim, 2 * dim, rng=rng)
        self.out = nn.Linear(dim, dim, rng=rng)

    def __call__(self, x: Tensor, record: dict | None = None) -> Tensor:
        """x (B, H, W, C), any H and W from R on → the same shape."""
        h, w = x.shape[1:3]
        if h < self.reduction or w < self.reduction:
            raise ValueError(f"SpatialReductionAttention: a map of {h}×{w} is smaller than reduction {self.reduction}")
        return self.out(self.attend(self.query(x), self.reduced(x)))

    def reduced(self, x: Tensor) -> Tensor:
        """x′ (B, ⌊H/R⌋, ⌊W/R⌋, C): what keys and values are made of"""
        return self.norm(self.reduce(x)) if self.reduction > 1 else x

    def attend(self, q: Tensor, reduced: Tensor) -> Tensor:
        """softmax(q kᵀ/√d) v, heads side by side, as a map"""
        b, h, w, c = q.shape
        d = c // self.heads

        def heads(t: Tensor) -> Tensor:  # (B, …, C) → (B, M, n, d)
            return t.reshape(b, -1, self.heads, d).transpose(0, 2, 1, 3)

        k, v = ops.split(self.key_value(reduced), 2, axis=-1)
        z = ops.attention(heads(q), heads(k), heads(v), None, None, scale=d**-0.5)
        return z.transpose(0, 2, 1, 3).reshape(b, h, w, c)
